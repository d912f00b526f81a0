// eval/report_page.h - the page of `cbdm report`: sections that are made one after the other, figures that are also
// written as files.
#ifndef EVAL_REPORT_PAGE_H
#define EVAL_REPORT_PAGE_H
#include "eval/report_compare.h"
#include "eval/report_entries.h"
#include "eval/svg.h"
#include "train/dataset.h"
EXTERN_C_BEGIN
// Classes as the page shows them, most frequent first.
typedef struct { int n, *order; const char **name; double *count; } ClassList;  // order (n): labels; count NaN: unknown
typedef struct {
    const RunSet   *runs;
    const EntrySet *entries;
    const Comparison *comparison;     // NULL: none was asked for
    ClassList       classes;
    const char     *data;             // of --data, or ""
    const char     *svg_dir;          // of --svg, or ""
    Text            body, contents;
    int             figures;
    Error          *err;
    bool            ok;               // false: a figure could not be written, *err says why
} Page;
// A section that stays empty leaves no trace. id: for links.
typedef void SectionFill(Page *p);
void page_section(Page *p, const char *id, const char *title, SectionFill *fill);
// A figure: drawn into the page and, with --svg, into <dir>/<name>.svg. caption: plain text.
typedef void FigureDraw(Text *t, const void *spec, SvgUse use);
void page_figure(Page *p, const char *name, const char *caption, FigureDraw *draw, const void *spec);
void page_plot(Page *p, const char *name, const char *caption, const SvgPlot *plot);
void page_rows(Page *p, const char *name, const char *caption, const SvgRows *rows);
void page_matrix(Page *p, const char *name, const char *caption, const SvgMatrix *matrix);
void page_note(Page *p, const char *text);                       // a paragraph, plain text
void page_image(Page *p, const uint8_t *pixels, int w, int h, int channels, int scale, const char *alt);
// The whole document; caller frees.
char *page_finish(Page *p, const char *title);
// One entry of each arm in a family, that of the lowest overall FID (label fidelity where there is no FID). Returns how
// many; pick (arms): written.
int  page_picks(const Page *p, int family, const Entry **pick);
// Sections, in their order.
SectionFill section_summary, section_differences, section_comparison, section_classes, section_guidance,
            section_confusion, section_samples, section_nearest, section_recognition, section_loss, section_probe,
            section_evals, section_protocol, section_configuration;
EXTERN_C_END
#endif
