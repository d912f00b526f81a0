// eval/report_text.h - what a report writes into a text: escaped names, numbers, images in base64.
#ifndef EVAL_REPORT_TEXT_H
#define EVAL_REPORT_TEXT_H
#include "core/text.h"
EXTERN_C_BEGIN
// Names from files and command lines are hostile: each of these makes any bytes harmless in its language. Bytes that
// are no UTF-8, control characters and those that turn the direction of the text become U+FFFD.
void text_html(Text *t, const char *name);                       // content and attributes, of HTML and SVG
void text_latex(Text *t, const char *name);
void text_markdown(Text *t, const char *name);                   // a cell of a table
void text_csv(Text *t, const char *name);                        // a quoted field
// At most `max` characters, the last of them an ellipsis where some are left out; caller frees.
char *name_shorten(const char *name, int max);
int   name_length(const char *name);                             // characters
void text_base64(Text *t, const uint8_t *bytes, size_t n);
// "1.25", "-0.3": a fixed number of decimals, "-" for what is not a number; minus: the sign to use ("-" or U+2212).
void text_number(Text *t, double v, int decimals, const char *minus);
// Decimals with which the smallest of the magnitudes still shows three digits: 0 to 6. NaN and 0 are passed over.
int  decimals_for(const double *v, int n);
EXTERN_C_END
#endif
