// core/call.h - one launcher call on arrays of its own: for trying, checking and timing kernels outside any graph.
#ifndef CORE_CALL_H
#define CORE_CALL_H
#include "core/device.h"
#include "kernels/common/describe.h"
EXTERN_C_BEGIN
typedef struct Call Call;
// Places the arrays that the shape makes, scratch, and the implementation named (NULL: the device's choice) on d. args:
// the scalars of the arguments. with: the optional arrays wanted, "add+dgamma", "all" or "". NULL and *err (usage) if
// no implementation fits; the message lists those that were there, or says that a vendor's library refuses the shape.
Call *call_new(Device *d, const Description *what, const void *shape, const void *args, const char *with,
               const char *impl, Error *err);
void  call_free(Call *c);
const Impl  *call_impl(const Call *c);
int          call_count(const Call *c);                   // arrays present
const Array *call_array(const Call *c, int i);            // in the order of the description
int          call_find(const Call *c, const char *name);  // -1: not present
bool         call_reads(const Call *c, int i);            // an input, or an output that is added to
// Made-up inputs from a seed, the same on every device; SQUARES: of those, ONES: all one, for error bounds of sums of
// products. Outputs and the gaps of strides are set to NaN, an INOUT that is accumulated into is filled like an input.
typedef enum { CALL_VALUES, CALL_SQUARES, CALL_ONES } CallFill;
void  call_fill(Call *c, CallFill fill, uint32_t seed);
// The same with the inputs of another call of the same shape and device, not run yet: quicker than making them up.
void  call_fill_like(Call *c, const Call *from);
// One array in logical order: numbers as doubles, whatever the array stores.
void  call_write(Call *c, int i, const double *values);
void  call_read(const Call *c, int i, double *values);
// Launches; asynchronous on a GPU. A failed launch is in stream_status(device_stream(d, 0)).
void  call_run(Call *c);
// False and *err (diverged) if a gap between the rows of an array was written to since call_fill.
bool  call_gaps_untouched(const Call *c, Error *err);
double call_bytes(const Call *c);                         // every input read once, every output written once
double call_flops(const Call *c);                         // useful work; 0: the description knows none
EXTERN_C_END
#endif
