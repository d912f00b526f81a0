// eval/groups.h - classes by how often the training set holds them: many, medium, few.
#ifndef EVAL_GROUPS_H
#define EVAL_GROUPS_H
#include "core/file.h"
#include "eval/result.h"
EXTERN_C_BEGIN
enum { GROUP_MANY, GROUP_MEDIUM, GROUP_FEW, GROUP_COUNT };
extern const char *const group_names[];          // "many", "medium", "few", NULL
// rule: "100,20": many above 100 training images, few below 20 (the convention of long-tailed recognition); "thirds":
// the most frequent third of the classes, rounded down, and so on; "3,3,4": so many classes each, most frequent first.
// counts (classes): training images of each class. of (classes): written. False: *err names the rule.
bool  groups_of(const char *rule, const int64_t *counts, int classes, int *of, Error *err);
char *groups_text(const int *of, int classes);   // "many: 0-2; medium: 3-5; few: 6-9"; caller frees
// "groups": {"rule": "3,3,4", "many": [0, 1, 2], "medium": [...], "few": [...]} of a result file.
void  groups_json(const char *rule, const int *of, int classes, JsonText *j);
EXTERN_C_END
#endif
