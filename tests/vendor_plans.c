// tests/vendor_plans.c - has cuDNN a plan for every convolution of the network on an H200? Asked without one: cuDNN
// plans for a GPU that is described. cuBLASLt does not: its handle needs a driver.
//
//   cbdm bench --device null:cuda:90 --kernels vendor --list | vendor_plans
// Rows of convolutions that name cudnn get its prepare(), which finds an engine that keeps the contract and fits the
// workspace. Exit 0: for each; 1: not; 77: no cuDNN that plans so.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base.h"
#include "kernels/common/describe.h"

bool vendor_describe_gpu(const char *json);

// What the driver says of an H200, in cuDNN's words.
static const char h200[] =
    "{\"deviceName\":\"NVIDIA H200\",\"deviceVer\":900,\"driverVer\":13000,\"cudaDeviceId\":0,"
    "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
    "\"multiProcessorCount\":132,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
    "\"maxSharedMemoryPerBlockOptin\":232448,\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,"
    "\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"isTccDriver\":0,"
    "\"supportCoopLaunch\":1,\"smClockRateKHz\":1980000,\"memClockRateKHz\":3201000,\"l2CacheSize\":62914560,"
    "\"totalGlobalMem\":150754820096,\"pciDeviceId\":0,\"cudnnVersion\":91900}";

static bool has_word(const char *line, const char *word) {
    size_t n = strlen(word);
    for (const char *at = line; (at = strstr(at, word)); at += n)
        if ((at == line || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\n' || !at[n])) return true;
    return false;
}

// row: "conv2d_forward n=64 h=32 ... (batch 64, 3 nodes)".
static bool has_plan(char *row) {
    char *text = strchr(row, ' '), *end = strstr(row, " (batch");
    CHECK(text && end, "%s", row);
    *text++ = *end = 0;
    const Description *d = description_find(row);
    CHECK(d, "no launcher %s", row);
    const Launcher *l = d->launcher;
    void *shape = xcalloc(1, l->shape_bytes), *args = xcalloc(1, l->args_bytes);
    char with[WITH_MAX];
    const char *wrong = description_parse(d, text, shape, args, with);
    CHECK(!wrong, "%s: %s", row, wrong);
    const Impl *cudnn = impl_find(l, DEV_CUDA, 90, shape, "cudnn");
    CHECK(cudnn, "%s %s: no cudnn", row, text);
    void *state = l->prepare(cudnn, stream_host(), shape, args);
    if (state) cudnn->release(state);
    else printf("FAILED %s %s: cuDNN has no plan\n", row, text);
    free(shape);
    free(args);
    return state != NULL;
}

int main(void) {
    char row[1024], twins[1024];
    int n = 0, planned = 0;
    if (!vendor_describe_gpu(h200)) {
        puts("vendor_plans: no cuDNN here, or none that plans for a GPU that is described");
        return 77;
    }
    while (fgets(row, sizeof row, stdin) && fgets(twins, sizeof twins, stdin)) {
        if (strncmp(row, "conv2d", 6) != 0 || !has_word(twins, "cudnn")) continue;
        n++;
        planned += has_plan(row);
    }
    printf("%d convolutions, %d with a plan\n", n, planned);
    return n == 0 || planned < n;
}
