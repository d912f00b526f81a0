#!/bin/sh
# tests/vendor.sh CBDM - what can be told of the vendor twins without a GPU: they are there, plans take them, and a
# machine without a GPU hears why it cannot run them.
cbdm=$1
bad=0
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
fail() { echo "vendor: $*"; bad=1; }
for pair in conv2d_forward:cudnn conv2d_backward_input:cudnn conv2d_backward_weight:cudnn gemm:cublaslt; do
    "$cbdm" op "${pair%:*}" --list | grep -q "^  ${pair#*:} on cuda, only by name$" ||
        fail "op ${pair%:*} lacks ${pair#*:}"
done
plan=$("$cbdm" train --device null:cuda --preset quick --kernels vendor --kernel gemm=tiled --dump-graph 2>&1)
echo "$plan" | grep -q 'cudnn' || fail "--kernels vendor plans no cudnn"
echo "$plan" | grep -q 'cublaslt' && fail "--kernel gemm=tiled does not count over --kernels vendor"
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
