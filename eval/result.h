// eval/result.h - writing the result file of eval/README.md: JSON text, member after member.
#ifndef EVAL_RESULT_H
#define EVAL_RESULT_H
#include "core/base.h"
EXTERN_C_BEGIN
// Grows as members are added; {0} begins one. key: NULL within a list. Every number has all its digits; what is not
// finite, and a NULL text, is null. Members of the outermost brackets have a line each.
typedef struct { char *text; size_t n, cap; int depth; bool filled; } JsonText;
void  jtext_open(JsonText *j, const char *key, char bracket);     // '{' or '['
void  jtext_close(JsonText *j, char bracket);                     // '}' or ']'
void  jtext_string(JsonText *j, const char *key, const char *value);
void  jtext_number(JsonText *j, const char *key, double value);
void  jtext_whole(JsonText *j, const char *key, int64_t value);
void  jtext_numbers(JsonText *j, const char *key, const double *value, int n);   // value NULL: no member
void  jtext_bool(JsonText *j, const char *key, bool value);
void  jtext_wholes(JsonText *j, const char *key, const int64_t *value, int n);
void  jtext_value(JsonText *j, const char *key, const char *json);                   // JSON text as it is
char *jtext_finish(JsonText *j);                                  // text and newline; caller frees; *j is {0} again
EXTERN_C_END
#endif
