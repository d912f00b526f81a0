// eval/report_json.h - a JSON file as a tree, for readers that want members in any order. Foreign files are refused by
// their name and the offset.
#ifndef EVAL_REPORT_JSON_H
#define EVAL_REPORT_JSON_H
#include "core/file.h"
EXTERN_C_BEGIN
typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;
typedef struct Json Json;
struct Json {
    JsonKind kind;
    char    *key;                     // of a member of an object, else NULL
    char    *text;                    // of a string; of a number or truth value as it is written
    double   number;                  // of a number, finite
    size_t   offset;                  // where the value begins
    int      count;                   // members or elements
    Json    *first, *next;            // first child; next beside it
};
enum { JSON_FILE_BYTES = 64 << 20, JSON_VALUES_MAX = 1 << 22 };
// Refuses what core/file.h's reader refuses, members named twice, numbers beyond a double, and more than
// JSON_VALUES_MAX values. NULL: *err, with `where` in it.
Json *json_parse(const char *text, size_t n, const char *where, Error *err);
Json *json_read(const char *path, Error *err);
void  json_free(Json *j);                                        // NULL is fine
// The member of an object; NULL where it is absent or null, or j is NULL or no object.
const Json *json_get(const Json *j, const char *key);
double      json_double(const Json *j, const char *key);         // NaN where it is no number
const char *json_text(const Json *j, const char *key);           // of a string; NULL where it is none
// Compact, members in their order; the same text for the same value. caller frees.
char       *json_print(const Json *j);
EXTERN_C_END
#endif
