#!/bin/sh
# tests/vendor.sh CBDM - what can be told of the vendor twins without a GPU: they are there, plans take them, and a
# machine without a GPU hears why it cannot run them.
cbdm=$1
bad=0
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
fail() { echo "vendor: $*"; bad=1; }
for pair in conv2d_forward:cudnn conv2d_backward_input:cudnn conv2d_backward_weight:cudnn gemm:cublaslt \
    conv2d_up_forward:cudnn conv2d_up_backward_input:cudnn conv2d_up_backward_weight:cudnn \
    attention_forward:cudnn attention_forward:cublaslt attention_backward:cublaslt randn:curand; do
    "$cbdm" op "${pair%:*}" --list | grep -q "^  ${pair#*:} on cuda, only by name$" ||
        fail "op ${pair%:*} lacks ${pair#*:}"
done
# The rows of a bench that have a twin, on a GPU of 9.0: at the network's shapes, in bf16 and in f32.
for dtype in bf16 f32; do
    rows=$("$cbdm" bench --device null:cuda:90 --batch 2 --dtype $dtype --kernels vendor --list)
    for pair in conv2d_up_forward:cudnn conv2d_up_backward_input:cudnn conv2d_up_backward_weight:cudnn \
        attention_forward:cublaslt attention_backward:cublaslt; do
        echo "$rows" | awk -v row="${pair%:*}" -v twin="${pair#*:}" '
            $1 == row { rows++; getline; for (i = 1; i <= NF; i++) twins += $i == twin }
            END { exit !(rows && twins == rows) }' || fail "bench $dtype: not every row of ${pair%:*} has ${pair#*:}"
    done
done
plan=$("$cbdm" train --device null:cuda --preset quick --kernels vendor --kernel gemm=tiled --dump-graph 2>&1)
echo "$plan" | grep -q 'cudnn' || fail "--kernels vendor plans no cudnn"
echo "$plan" | grep -q ' attention_grad  *cublaslt ' || fail "--kernels vendor plans no cublaslt for attention_grad"
echo "$plan" | grep -q ' attention  *cudnn ' || fail "--kernels vendor does not plan cudnn before cublaslt"
echo "$plan" | awk '$2 !~ /attention/ && $3 == "cublaslt" { bad = 1 } END { exit !bad }' &&
    fail "--kernel gemm=tiled does not count over --kernels vendor"
plan=$("$cbdm" train --device null:cuda --dtype f32 --preset quick --kernels vendor --dump-graph 2>&1)
echo "$plan" | grep -q ' attention  *cublaslt ' || fail "--kernels vendor plans no cublaslt where cudnn refuses f32"
# No GPU is visible here even where there is one.
refused() {
    want=$1
    shift
    said=$(CUDA_VISIBLE_DEVICES= "$cbdm" "$@" 2>&1)
    [ $? = 2 ] && echo "$said" | grep -q "$want" || fail "$*: $said"
}
refused 'error: device cuda: ' train --device cuda --kernels vendor --preset quick --out "$out/run"
refused 'device cpu has none' train --device cpu --kernels vendor --preset quick --out "$out/run"
refused 'it has:.* cublaslt' train --device null:cuda --kernel gemm=nothing
refused 'there is no launcher gem;' train --device null:cuda --kernel gem=tiled
exit $bad
