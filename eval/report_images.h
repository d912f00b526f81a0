// eval/report_images.h - classes, sample images and training images that the page shows.
#ifndef EVAL_REPORT_IMAGES_H
#define EVAL_REPORT_IMAGES_H
#include "eval/report_page.h"
EXTERN_C_BEGIN
// Names and training counts of the classes: of the results, else of the manifests of samples, else numbers. Zeroed
// where nothing says how many classes there are.
ClassList class_list_of(const RunSet *s);
void      class_list_free(ClassList *c);
// Images side by side, as a picture: of one size, gap pixels between them (wide after every `group`-th).
typedef struct { int n, w, h; uint8_t **rgb; } ImageRow;         // rgb[i] (h,w,3)
void image_row_add(ImageRow *r, uint8_t *rgb, int w, int h);     // takes rgb over; another size is left out
void image_row_put(Page *p, const ImageRow *r, int group, const char *alt);
void image_row_free(ImageRow *r);
// The first `count` images of a class in a folder of samples, by their numbers.
void samples_of_class(const char *folder, int label, int count, ImageRow *out);
// The same from a picture of rows x columns as png_write_grid lays it out, a row for each class in the order of labels.
void sheet_of_class(const char *path, int classes, int label, int count, ImageRow *out);
uint8_t *sample_image(const char *folder, int label, int64_t number, int *w, int *h);   // NULL: not there
// The images that a run was trained on, from --data; NULL and a line in *why (512 bytes).
Dataset *training_images(const Run *r, const char *data, char *why);
EXTERN_C_END
#endif
