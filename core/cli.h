// core/cli.h - one table describes a configuration: it parses flags, prints --help, logs the run, fills checkpoints.
#ifndef CORE_CLI_H
#define CORE_CLI_H
#include "core/base.h"
EXTERN_C_BEGIN
// Fields: INT int, I64 int64_t, F64 double, BOOL bool, STR const char *, ENUM int (index into choices),
// LIST const char * (text kept as typed, "1,2,2,2" or "0-63"; the verb parses it).
typedef enum { FLAG_INT, FLAG_I64, FLAG_F64, FLAG_BOOL, FLAG_STR, FLAG_ENUM, FLAG_LIST } FlagKind;
typedef struct {
    const char *name, *value, *help;    // "batch", "128", "images per step"; defaults are text, as a user types them
    FlagKind kind;
    size_t offset;                      // offsetof the field in the configuration struct
    const char *const *choices;         // FLAG_ENUM: NULL-terminated names
    double min, max;                    // INT, I64, F64: legal range, both ends included; 0, 0: any
} Flag;                                 // name NULL: no flag but a heading of the help, its text in `help`
// Fills *config with the defaults of the table.
void  cli_defaults(const Flag *flags, int n, void *config);
// argv holds arguments only: the caller has stepped over the program's name and the verb. Accepts --name=value and
// --name value; --flag, --no-flag and --noflag for BOOL; --flagfile FILE (absl style: one flag a line, # comments).
// Names match with - and _ taken as equal. A flag given twice: the last one counts, save that a LIST which one flag
// file names again grows by each value. Words that are no flags go to words[] (at most *n_words on entry; set to the
// count), or are an error if words is NULL. set[i], if not NULL, tells whether flag i was given. Unknown names are
// refused with the nearest known one. Strings point into argv or are kept for the life of the program. --help is left
// to the verb: see cli_wants_help.
bool  cli_parse(const Flag *flags, int n, void *config, int argc, char **argv, const char **words, int *n_words,
                bool *set, Error *err);
// One field from text, range checked. STR and LIST point to text itself, which must stay.
bool  cli_set(const Flag *f, void *config, const char *text, Error *err);
bool  cli_wants_help(int argc, char **argv);
void  cli_help(const Flag *flags, int n, const char *usage, const char *about);       // to stdout
char *cli_text(const Flag *f, const void *config);                                    // one field as text; caller frees
char *cli_json(const Flag *flags, int n, const void *config);   // {"name": value, ...}; caller frees
// The opposite: fields named in a JSON object are set, unknown names are an error naming `where` (a file). Strings are
// copied and kept for the life of the program; 64-bit integers keep every digit.
bool  cli_from_json(const Flag *flags, int n, void *config, const char *json, const char *where, Error *err);
const char *cli_nearest(const char *word, const char *const *known, int n);   // for "did you mean"; NULL: none is near
EXTERN_C_END
#endif
