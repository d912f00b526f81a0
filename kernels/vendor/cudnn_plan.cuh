// kernels/vendor/cudnn_plan.cuh - one cuDNN operation as a plan that is made once and run often, by the backend API.
//
// An operation between tensors is described, put into a graph of its own, and given to cuDNN's heuristic; the first of
// its engine configurations that keeps the contract's promises, needs no more workspace than there is, and can be made
// into a plan is taken. Descriptors live as long as the plan does.
#ifndef KERNELS_CUDNN_PLAN_CUH
#define KERNELS_CUDNN_PLAN_CUH
#include <cudnn.h>

#include <cstring>
#include <vector>

#include "kernels/common/device.cuh"
#include "kernels/vendor/library.cuh"

inline void *cudnn_opened() {
    static void *library = library_open(CUDNN_FILE, "libcudnn.so.9");
    return library;
}
#define CUDNN(f) LIBRARY_CALL(cudnn_opened(), f)

// Made at the first plan, kept until the process ends. NULL where cuDNN is missing or does not start.
inline cudnnHandle_t cudnn_handle() {
    static cudnnHandle_t handle = NULL;
    if (!handle && (!cudnn_opened() || CUDNN(cudnnCreate)(&handle) != CUDNN_STATUS_SUCCESS)) handle = NULL;
    return handle;
}

// A GPU that is not here, only described: plans for it can be made, none can run. Engines that cuDNN compiles itself,
// as those of attention, need a driver even so. NULL, but in tests/vendor_plans.c: the one at hand.
inline cudnnBackendDescriptor_t cudnn_described = NULL;
#if CUDNN_VERSION >= 91300
inline bool cudnn_describe(const char *json) {
    return cudnn_opened() &&
           CUDNN(cudnnBackendCreateDescriptor)(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &cudnn_described) ==
               CUDNN_STATUS_SUCCESS &&
           CUDNN(cudnnBackendSetAttribute)(cudnn_described, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                           (int64_t)strlen(json), json) == CUDNN_STATUS_SUCCESS &&
           CUDNN(cudnnBackendFinalize)(cudnn_described) == CUDNN_STATUS_SUCCESS;
}
inline cudnnStatus_t cudnn_set_described(cudnnBackendDescriptor_t d, bool plan) {       // or a heuristic
    cudnnBackendAttributeName_t name = plan ? CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP : CUDNN_ATTR_ENGINEHEUR_DEVICEPROP;
    return CUDNN(cudnnBackendSetAttribute)(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &cudnn_described);
}
#else
inline bool cudnn_describe(const char *) { return false; }
inline cudnnStatus_t cudnn_set_described(cudnnBackendDescriptor_t, bool) { return CUDNN_STATUS_NOT_SUPPORTED; }
#endif
inline bool cudnn_ready() { return cudnn_described || cudnn_handle(); }

struct CudnnPlan {
    typedef cudnnBackendDescriptor_t Descriptor;
    cudnnStatus_t           status = CUDNN_STATUS_SUCCESS;         // of the first call that failed
    std::vector<Descriptor> made;
    std::vector<int64_t>    ids;                                   // of the tensors, in the order run() takes pointers
    Descriptor              chosen = NULL;                         // the execution plan

    CudnnPlan() = default;
    CudnnPlan(const CudnnPlan &) = delete;
    CudnnPlan &operator=(const CudnnPlan &) = delete;
    ~CudnnPlan() {
        for (size_t i = made.size(); i-- > 0;) CUDNN(cudnnBackendDestroyDescriptor)(made[i]);
    }

    bool note(cudnnStatus_t s) {
        if (status == CUDNN_STATUS_SUCCESS) status = s;
        return s == CUDNN_STATUS_SUCCESS;
    }
    Descriptor make(cudnnBackendDescriptorType_t type) {
        Descriptor d = NULL;
        if (note(CUDNN(cudnnBackendCreateDescriptor)(type, &d))) made.push_back(d);
        return d;
    }
    void set(Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
             const void *value) {
        if (status == CUDNN_STATUS_SUCCESS) note(CUDNN(cudnnBackendSetAttribute)(d, name, type, n, value));
    }
    void set_descriptor(Descriptor d, cudnnBackendAttributeName_t name, Descriptor value) {
        set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
    }
    void finalize(Descriptor d) {
        if (status == CUDNN_STATUS_SUCCESS) note(CUDNN(cudnnBackendFinalize)(d));
    }

    // Four dimensions in cuDNN's order, whatever the order in memory, which the strides tell. Its pointer is the next
    // that run() takes. by_value: one number on the host.
    Descriptor tensor(cudnnDataType_t type, const int64_t dim[4], const int64_t stride[4], bool by_value = false) {
        Descriptor d = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
        int64_t id = (int64_t)ids.size() + 1, align = 16;
        ids.push_back(id);
        set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
        set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim);
        set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
        set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
        set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
        if (by_value) set(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
        finalize(d);
        return d;
    }

    // Does the engine keep what the contracts promise? The same bits in every run, inputs and partial sums as precise
    // as stored and as accumulated; in f32 no TF32, and direct sums, since the checks bound the error of those.
    bool keeps_contract(Descriptor config, bool f32) {
        Descriptor engine = make(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
        cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
        int64_t count = 0;
        if (CUDNN(cudnnBackendGetAttribute)(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                     &count, &engine) != CUDNN_STATUS_SUCCESS ||
            CUDNN(cudnnBackendGetAttribute)(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                     CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes) != CUDNN_STATUS_SUCCESS)
            return false;
        for (int64_t i = 0; i < count; i++) {
            cudnnBackendNumericalNote_t n = notes[i];
            if (n == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC || n == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS ||
                n == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION)
                return false;
            if (f32 && (n == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || n == CUDNN_NUMERICAL_NOTE_FFT ||
                        n == CUDNN_NUMERICAL_NOTE_WINOGRAD))
                return false;
        }
        return true;
    }

    bool try_config(Descriptor config, int64_t workspace) {
        Descriptor plan = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        cudnnHandle_t handle = cudnn_described ? NULL : cudnn_handle();
        int64_t needs = 0, count = 0;
        if (!plan ||
            (handle ? CUDNN(cudnnBackendSetAttribute)(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                                      &handle)
                    : cudnn_set_described(plan, true)) != CUDNN_STATUS_SUCCESS ||
            CUDNN(cudnnBackendSetAttribute)(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) != CUDNN_STATUS_SUCCESS ||
            CUDNN(cudnnBackendFinalize)(plan) != CUDNN_STATUS_SUCCESS ||
            CUDNN(cudnnBackendGetAttribute)(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                                     &needs) != CUDNN_STATUS_SUCCESS ||
            needs > workspace)
            return false;
        chosen = plan;
        return true;
    }

    // Finishes the operation and finds an engine for it. False: none, or a call failed.
    bool choose(Descriptor operation, bool f32, int64_t workspace) {
        finalize(operation);
        Descriptor graph = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
        cudnnHandle_t handle = cudnn_described ? NULL : cudnn_handle();
        if (handle) set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
        set_descriptor(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
        finalize(graph);
        if (status != CUDNN_STATUS_SUCCESS) return false;
        const cudnnBackendHeurMode_t modes[] = { CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK };
        for (cudnnBackendHeurMode_t mode : modes) {
            Descriptor heuristic = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
            int64_t count = 0;
            if (CUDNN(cudnnBackendSetAttribute)(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph) != CUDNN_STATUS_SUCCESS ||
                CUDNN(cudnnBackendSetAttribute)(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1,
                                         &mode) != CUDNN_STATUS_SUCCESS ||
                (cudnn_described && cudnn_set_described(heuristic, false) != CUDNN_STATUS_SUCCESS) ||
                CUDNN(cudnnBackendFinalize)(heuristic) != CUDNN_STATUS_SUCCESS ||
                CUDNN(cudnnBackendGetAttribute)(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                         0, &count, NULL) != CUDNN_STATUS_SUCCESS || count < 1)
                continue;
            std::vector<Descriptor> configs((size_t)count);
            for (Descriptor &c : configs) c = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
            if (CUDNN(cudnnBackendGetAttribute)(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                         count, &count, configs.data()) != CUDNN_STATUS_SUCCESS)
                continue;
            for (int64_t i = 0; i < count; i++)
                if (keeps_contract(configs[(size_t)i], f32) && try_config(configs[(size_t)i], workspace)) return true;
        }
        return false;
    }

    // Pointers in the order in which the tensors were made. Memory of the host only is taken and given back.
    void run(Stream *s, const void *const *pointers, void *workspace) const {
        cudnnHandle_t handle = cudnn_handle();
        Descriptor pack = NULL;
        int64_t n = (int64_t)ids.size();
        cudnnStatus_t e = CUDNN(cudnnSetStream)(handle, stream_cuda(s));
        if (e == CUDNN_STATUS_SUCCESS)
            e = CUDNN(cudnnBackendCreateDescriptor)(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
        if (e == CUDNN_STATUS_SUCCESS)
            e = CUDNN(cudnnBackendSetAttribute)(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n,
                                                ids.data());
        if (e == CUDNN_STATUS_SUCCESS)
            e = CUDNN(cudnnBackendSetAttribute)(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n,
                                                pointers);
        if (e == CUDNN_STATUS_SUCCESS)
            e = CUDNN(cudnnBackendSetAttribute)(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
                                                &workspace);
        if (e == CUDNN_STATUS_SUCCESS) e = CUDNN(cudnnBackendFinalize)(pack);
        if (e == CUDNN_STATUS_SUCCESS) e = CUDNN(cudnnBackendExecute)(handle, chosen, pack);
        if (pack) CUDNN(cudnnBackendDestroyDescriptor)(pack);
        if (e != CUDNN_STATUS_SUCCESS) stream_fail(s, (int)e, CUDNN(cudnnGetErrorString)(e));
    }
};

static inline cudnnDataType_t cudnn_type(DType dt) { return dt == DT_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT; }

#endif
