#!/bin/sh
# tests/emu/ptx_words.sh - do the words become the instructions that they are named after? Needs nvcc, no GPU.
#   sh tests/emu/ptx_words.sh SOURCE_DIR NVCC
# Compiles the conformance program's kernels to PTX and looks for every instruction; then lets ptxas assemble them,
# which must report neither a serialised wgmma (C7510), nor an ignored setmaxnreg (C7508), nor spills.
set -eu
source=$1
nvcc=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
flags="-std=c++17 -O3 -I$source -DKERNEL_KIND=CUDA"
"$nvcc" $flags -arch=compute_80 -ptx "$source/tests/emu/probe.cu" -o "$dir/80.ptx"
"$nvcc" $flags -arch=compute_90a -ptx "$source/tests/emu/probe_sm90.cu" -o "$dir/90.ptx"

expect() {      # FILE INSTRUCTION
    if ! grep -q -F "$2" "$dir/$1.ptx"; then
        echo "no $2 in the PTX for $1"
        failed=1
    fi
}
for i in ldmatrix.sync.aligned.m8n8.x4.shared.b16 ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 \
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 \
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 cp.async.cg.shared.global cp.async.ca.shared.global \
    cp.async.commit_group 'cp.async.wait_group 1'; do
    expect 80 "$i"
done
for n in 8 16 32 64 96 128 192 256; do expect 90 "wgmma.mma_async.sync.aligned.m64n${n}k16.f32.bf16.bf16"; done
for d in 1 2 3 4 5; do
    expect 90 "cp.async.bulk.tensor.${d}d.shared::cluster.global.mbarrier::complete_tx::bytes"
    expect 90 "cp.async.bulk.tensor.${d}d.global.shared::cta.bulk_group"
done
for i in .multicast::cluster wgmma.fence.sync.aligned wgmma.commit_group.sync.aligned wgmma.wait_group.sync.aligned \
    mbarrier.init.shared::cta.b64 fence.mbarrier_init.release.cluster mbarrier.arrive.shared::cta.b64 \
    mbarrier.arrive.expect_tx.shared::cta.b64 mbarrier.arrive.release.cluster.shared::cluster.b64 \
    mbarrier.try_wait.parity.shared::cta.b64 mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 \
    mbarrier.test_wait.parity.shared::cta.b64 fence.proxy.async.shared::cta cp.async.bulk.commit_group \
    'cp.async.bulk.wait_group.read 0' 'cp.async.bulk.wait_group 0' prefetch.tensormap \
    stmatrix.sync.aligned.m8n8.x4.shared \
    stmatrix.sync.aligned.m8n8.x4.trans.shared mapa.u64 %cluster_ctarank barrier.cluster.arrive.release.aligned \
    barrier.cluster.wait.acquire.aligned setmaxnreg.inc.sync.aligned.u32 setmaxnreg.dec.sync.aligned.u32 \
    griddepcontrol.wait griddepcontrol.launch_dependents; do
    expect 90 "$i"
done

"$nvcc" $flags -gencode arch=compute_90a,code=sm_90a -Xptxas -v -c "$source/tests/emu/probe_sm90.cu" -o "$dir/90.o" \
    > "$dir/log" 2>&1
if grep -E 'C7508|C7510' "$dir/log" || grep -E 'stack frame' "$dir/log" | grep -v -E \
    ' 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'; then
    failed=1
fi
[ $failed = 0 ] && echo "every word is the instruction it should be"
exit $failed
