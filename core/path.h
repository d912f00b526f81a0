// core/path.h - names of files and folders, and the lines of a text: what readers of several files do alike.
#ifndef CORE_PATH_H
#define CORE_PATH_H
#include "core/base.h"
EXTERN_C_BEGIN
bool  path_is_folder(const char *path);
bool  path_is_file(const char *path);                             // an ordinary one
char *path_join(const char *folder, const char *name);            // caller frees
char *path_base(const char *path);                                // the last part, no slash behind it; caller frees
bool  text_ends_with(const char *text, const char *end);
// The line at *at, without its end; *at moves to the next one. False: there is none before `end`.
bool  text_line(const char **at, const char *end, const char **line, size_t *n);
EXTERN_C_END
#endif
