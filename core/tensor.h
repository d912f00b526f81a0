// core/tensor.h - a named array, dense or a view. Images are (N,H,W,C), filters (K,R,S,C), matrices (rows, cols).
#ifndef CORE_TENSOR_H
#define CORE_TENSOR_H
#include "core/device.h"
EXTERN_C_BEGIN
enum { TENSOR_MAX_DIMS = 4 };
enum {
    TENSOR_PERSISTENT = 1,   // has memory of its own; the planner leaves it alone
    TENSOR_INPUT = 2,        // written by the host before each run of its graph
    TENSOR_OUTPUT = 4,       // stays readable after the run
    TENSOR_NEEDS_GRAD = 8,
};
typedef struct Node Node;
typedef struct Tensor Tensor;
struct Tensor {
    const char *name;                  // "downblocks.0.block1.2.weight", "conv2d#17"
    DType       dtype;
    Layout      layout;                // of images; all else is NHWC, which is row-major
    int         ndim;
    int64_t     shape[TENSOR_MAX_DIMS];
    int64_t     ld;                    // channels of the base: see layout_index; dense: shape[ndim - 1]
    Tensor     *base;                  // NULL, or what this is a batch or channel range of (never itself a view)
    int64_t     offset;                // elements from the base's first
    Device     *device;
    void       *data;                  // of a base: NULL until sealed or allocated. Ask tensor_data()
    Tensor     *grad;                  // same shape; may be a range of channels: see graph_grad_dense. NULL: none flows
    Node       *producer;              // of the base; NULL for parameters and inputs
    unsigned    flags;
};

void   *tensor_data(const Tensor *t);                   // first element, views included; NULL for NULL or if not placed
int     tensor_ld(const Tensor *t);                     // ld as launchers take it; 0 for NULL
Tensor *tensor_base(Tensor *t);                         // t itself if it is no view
int64_t tensor_numel(const Tensor *t);
int64_t tensor_pixels(const Tensor *t);                 // product of the dimensions between the first and the last
size_t  tensor_bytes(const Tensor *t);                  // as stored, without the gaps of a view
bool    tensor_is_dense(const Tensor *t);
bool    tensor_same_shape(const Tensor *a, const Tensor *b);
bool    tensor_needs_grad(const Tensor *t);             // false for NULL
// Memory of its own on the device, zeroed. Freed by tensor_free.
Tensor *tensor_new(Device *d, const char *name, DType dt, int ndim, const int64_t *shape);
void    tensor_free(Tensor *t);
// host: dense, logical NHWC order. _f32 and _f64 convert from and to whichever floating-point type the tensor stores.
void    tensor_write(Tensor *t, const void *host);      // dense row-major tensors, t's dtype
void    tensor_read(const Tensor *t, void *host);
void    tensor_write_f32(Tensor *t, const float *host);
void    tensor_read_f32(const Tensor *t, float *host);
void    tensor_read_f64(const Tensor *t, double *host);
const char *tensor_str(const Tensor *t);                // "conv1.weight f32 (128,3,3,64)", in a ring of static buffers
EXTERN_C_END
#endif
