// eval/report_page.c - the document: style, contents, sections, figures, images as data.
#include "eval/report_page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

static const char style[] =
    ":root{color-scheme:light dark;--ink:#1c1c1c;--muted:#5a5a5a;--line:#dcdcdc;--paper:#fff;--soft:#f5f6f7;"
    "--link:#0060a0}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--ink:#e8e8e8;--muted:#a8a8a8;--line:#3a3a3a;--paper:#16181a;"
    "--soft:#202326;--link:#6cb8f0}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:1240px;padding:0 24px 60px;background:var(--paper);"
    "color:var(--ink);font:15px/1.5 system-ui,'Segoe UI',Helvetica,Arial,sans-serif}\n"
    "h1{font-size:26px;margin:28px 0 4px}h2{font-size:19px;margin:40px 0 8px;padding-bottom:4px;"
    "border-bottom:1px solid var(--line)}h3{font-size:15px;margin:18px 0 6px}p{margin:6px 0 10px;max-width:880px}\n"
    "a{color:var(--link)}.contents{display:flex;flex-wrap:wrap;gap:2px 16px;margin:10px 0 0}"
    ".note,figcaption,caption{color:var(--muted);font-size:13px;line-height:1.4}\n"
    ".grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:16px 28px;"
    "align-items:start}figure{margin:0;break-inside:avoid}svg.fig{width:100%;height:auto;max-width:640px;"
    "display:block}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}caption{text-align:left;"
    "caption-side:top;padding:0 0 6px}th,td{padding:3px 9px;text-align:right;white-space:nowrap;font-size:14px}"
    "th{font-weight:600}th.line,th.name{text-align:left;font-weight:400}thead th{border-bottom:1px solid var(--line)}"
    ".numbers th,.numbers td{padding:2px 6px;font-size:13px}.numbers th.line{white-space:normal;min-width:100px;"
    "overflow-wrap:anywhere}tbody tr:nth-child(even){background:var(--soft)}thead th.corner{text-align:left}\n"
    ".strips{table-layout:fixed;width:100%}.strips td{padding:2px 6px;vertical-align:middle;text-align:left}"
    ".strips th{vertical-align:middle}.strips th.name{width:130px;white-space:normal;overflow-wrap:anywhere;"
    "line-height:1.2}.strips th.arm{white-space:normal;overflow-wrap:anywhere;text-align:left}\n"
    "img{image-rendering:pixelated;max-width:100%;height:auto;display:block}"
    ".pairs{display:flex;flex-wrap:wrap;gap:6px 14px}.pairs figure{text-align:center}\n"
    "details{margin:8px 0;border:1px solid var(--line);border-radius:4px;padding:6px 12px}summary{cursor:pointer}"
    "td.key{text-align:left;color:var(--muted)}td.value{text-align:left;white-space:normal;overflow-wrap:anywhere}\n"
    "@media(max-width:700px){body{padding:0 12px 40px}.strips th.name{width:84px;font-size:12px}"
    "th,td{padding:3px 6px}}\n"
    "@media print{body{max-width:none;font-size:11px}h2{break-after:avoid}.wide{overflow:visible}a{color:inherit;"
    "text-decoration:none}tr{break-inside:avoid}}\n";

void page_section(Page *p, const char *id, const char *title, SectionFill *fill) {
    Text outside = p->body;
    p->body = (Text){ 0 };
    if (p->ok) fill(p);
    Text section = p->body;
    p->body = outside;
    if (section.n) {
        text_add(&p->contents, "<a href=\"#%s\">%s</a>", id, title);
        text_add(&p->body, "<section id=\"%s\"><h2>%s</h2>\n", id, title);
        text_put(&p->body, section.s, section.n);
        text_add(&p->body, "</section>\n");
    }
    text_free(&section);
}

static void write_figure(Page *p, const char *name, FigureDraw *draw, const void *spec) {
    Text file = { 0 };
    draw(&file, spec, SVG_FILE);
    char *path = xasprintf("%s/%s.svg", p->svg_dir, name);
    p->ok = dir_make(p->svg_dir, p->err) && file_write_text(path, file.s, p->err);
    free(path);
    text_free(&file);
}

void page_figure(Page *p, const char *name, const char *caption, FigureDraw *draw, const void *spec) {
    if (!p->ok) return;
    p->figures++;
    text_add(&p->body, "<figure>");
    draw(&p->body, spec, SVG_PAGE);
    if (*caption) {
        text_add(&p->body, "<figcaption>");
        text_html(&p->body, caption);
        text_add(&p->body, "</figcaption>");
    }
    text_add(&p->body, "</figure>\n");
    if (*p->svg_dir) write_figure(p, name, draw, spec);
}

static void draw_plot(Text *t, const void *spec, SvgUse use) { svg_plot(t, spec, use); }
static void draw_rows(Text *t, const void *spec, SvgUse use) { svg_rows(t, spec, use); }
static void draw_matrix(Text *t, const void *spec, SvgUse use) { svg_matrix(t, spec, use); }
void page_plot(Page *p, const char *name, const char *caption, const SvgPlot *plot) {
    page_figure(p, name, caption, draw_plot, plot);
}
void page_rows(Page *p, const char *name, const char *caption, const SvgRows *rows) {
    page_figure(p, name, caption, draw_rows, rows);
}
void page_matrix(Page *p, const char *name, const char *caption, const SvgMatrix *matrix) {
    page_figure(p, name, caption, draw_matrix, matrix);
}

void page_note(Page *p, const char *text) {
    text_add(&p->body, "<p class=\"note\">");
    text_html(&p->body, text);
    text_add(&p->body, "</p>\n");
}

void page_image(Page *p, const uint8_t *pixels, int w, int h, int channels, int scale, const char *alt) {
    size_t n;
    uint8_t *png = png_encode(pixels, w, h, channels, &n, p->err);
    if (!png) {
        p->ok = false;
        return;
    }
    text_add(&p->body, "<img width=\"%d\" height=\"%d\" alt=\"", w * scale, h * scale);
    text_html(&p->body, alt);
    text_add(&p->body, "\" src=\"data:image/png;base64,");
    text_base64(&p->body, png, n);
    text_add(&p->body, "\">");
    free(png);
}

char *page_finish(Page *p, const char *title) {
    Text t = { 0 };
    text_add(&t, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
             "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
             "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
             "img-src data:\">\n<title>");
    text_html(&t, title);
    text_add(&t, "</title>\n<style>\n%s", style);
    svg_style(&t);
    text_add(&t, "</style></head><body>\n<h1>");
    text_html(&t, title);
    text_add(&t, "</h1>\n<p class=\"note\">Written by cbdm %s.</p>\n<nav class=\"contents\">%s</nav>\n", CBDM_VERSION,
             p->contents.s ? p->contents.s : "");
    if (p->body.s) text_put(&t, p->body.s, p->body.n);
    text_add(&t, "</body></html>\n");
    text_free(&p->body);
    text_free(&p->contents);
    return t.s;
}

// ---- which entries stand for their arms
static double rank_of(const Entry *e) {
    const Where all = { OF_ALL, 0 };
    double fid = cell_of(e, metric_find("fid"), all).mean, fidelity = cell_of(e, metric_find("fidelity"), all).mean;
    return isfinite(fid) ? fid : isfinite(fidelity) ? -fidelity : (double)INFINITY;
}

int page_picks(const Page *p, int family, const Entry **pick) {
    int n = 0;
    for (int arm = 0; arm < p->runs->n_arms; arm++) {
        const Entry *best = NULL;
        for (int i = 0; i < p->entries->n; i++) {
            const Entry *e = &p->entries->entry[i];
            if (e->arm == arm && e->family == family && (!best || rank_of(e) < rank_of(best))) best = e;
        }
        if (best) pick[n++] = best;
    }
    return n;
}
