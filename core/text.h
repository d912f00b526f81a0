// core/text.h - text that grows. Streams in memory (open_memstream) are not for this: where memory runs out they lose
// what is written to them and close as if nothing had happened.
#ifndef CORE_TEXT_H
#define CORE_TEXT_H
#include "core/base.h"
EXTERN_C_BEGIN
typedef struct { char *s; size_t n, room; } Text;                // s ends with a 0 byte; NULL while nothing is in it
#ifdef __GNUC__
__attribute__((format(printf, 2, 3)))
#endif
void text_add(Text *t, const char *fmt, ...);
void text_put(Text *t, const char *bytes, size_t n);
void text_free(Text *t);
EXTERN_C_END
#endif
