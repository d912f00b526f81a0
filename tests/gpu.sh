#!/bin/sh
# tests/gpu.sh - everything that only a GPU can tell, in one command: builds for the GPU of this machine, checks every
# kernel on it, replays the published code, trains, times. Needs cmake, a C and a C++ compiler, nvcc; what else is
# missing is said and passed over. Ends in time, whatever happens, the most valuable sections first.
#
# usage: sh tests/gpu.sh OUT [--minutes M] [--rehearse]
#   OUT         folder for the results: at most 8 files, written as they come
#   --minutes   for all sections together, 9 by default
#   --rehearse  the same on the emulator, without the optional libraries and at tiny sizes: finds faults of this script
# Exit 0: every section that could run is ok. The last lines are a table of the sections.
set -u
out=${1:-}
case $out in '' | -*) echo "usage: sh tests/gpu.sh OUT [--minutes M] [--rehearse]" >&2; exit 2 ;; esac
shift
minutes=9 build_limit=240
rehearse=
while [ $# -gt 0 ]; do
    case $1 in
    --minutes) minutes=${2:-9}; shift ;;
    --rehearse) rehearse=1 minutes=15 build_limit=600 ;;
    *) echo "gpu.sh: $1 is unknown" >&2; exit 2 ;;
    esac
    shift
done
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$root"
start=$(date +%s)
deadline=$((start + minutes * 60))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
summary=$out/summary.txt
: >"$summary"
failed=0

device=cuda
if [ "$rehearse" ]; then device=emu; fi
say() { echo "$*" | tee -a "$summary"; }

# section NAME SECONDS LOG COMMAND...: its output goes to LOG (appended), its verdict to the summary. A section gets at
# most SECONDS, and never more than what is left. Status 77 of the command: it could not run, its last line says why.
section() {
    name=$1 limit=$2 log=$3
    shift 3
    now=$(date +%s)
    left=$((deadline - now))
    if [ "$left" -lt 10 ]; then
        say "section $name: not done (no time left)"
        return 1
    fi
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
    echo "---- $name" >>"$log"
    timeout -k 5 "$limit" "$@" >"$work/log" 2>&1
    status=$?
    cat "$work/log" >>"$log"
    took=$(($(date +%s) - now))
    case $status in
    0) say "section $name: ok, $took s: $(tail -n 1 "$work/log" | cut -c1-150)" ;;
    77) say "section $name: not done ($(tail -n 1 "$work/log" | cut -c1-150))" ;;
    124 | 137) say "section $name: failed, out of its $limit s"; failed=1 ;;
    *) say "section $name: failed, status $status, $took s: $(grep -m 1 -iE 'FAILED|error' "$work/log" | cut -c1-300)"
        failed=1 ;;
    esac
    return "$status"
}

say "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u +%Y-%m-%dT%H:%M:%SZ), device $device"
if [ "$rehearse" ]; then
    build=$root/build/rehearsal
    arguments="-DCBDM_CUDA=OFF"
    for library in PNG ZLIB OneDNN LibArchive CJSON Cmocka; do
        arguments="$arguments -DCMAKE_DISABLE_FIND_PACKAGE_$library=ON"
    done
else
    build=$root/build/gpu
    arguments="-DCBDM_CUDA=ON -DCMAKE_BUILD_TYPE=Release"
    say "$(nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader 2>&1 | head -n 1)"
    say "$(nvcc --version 2>&1 | tail -n 1)"
fi
jobs=$(nproc)

# ---- build: one architecture, this GPU's
suites=
for source in tests/ops/*.c; do suites="$suites op_$(basename "$source" .c)"; done
if [ "$rehearse" ]; then suites="op_pointwise op_pool op_random"; fi
section build "$build_limit" "$out/build.log" sh -c "$(cat <<SCRIPT
set -e
cmake -S . -B '$build' $arguments
cmake --build '$build' -j $jobs --target cbdm parity probe $suites
echo built $suites
SCRIPT
)" || { say "nothing can be done without a build: see build.log"; exit 1; }
cbdm=$build/cbdm

# ---- probe: the instruction wrappers alone, against the emulator's belief
section probe 60 "$out/check.txt" "$build/tests/probe"

# ---- check: every kernel against the reference
filter=
if [ "$rehearse" ]; then filter="axpby gemm conv2d_forward"; fi
section check 180 "$out/check.txt" "$cbdm" check --device "$device" --schedules 0 $filter
for suite in $suites; do
    section "$suite" 60 "$out/check.txt" "$build/tests/$suite" --device "$device"
done

if [ "$rehearse" ]; then export CBDM_EMU=check=0; fi         # from here on kernels are run, not watched: faster

# ---- parity: the published code's case, f32 and bf16
section parity 120 "$out/parity.txt" "$build/tests/parity" tests/golden/tiny.safetensors "$device" "$work"

# ---- bench: every launcher at the network's shapes, beside the vendor's libraries
if [ "$rehearse" ]; then
    section bench 60 "$out/bench.txt" "$cbdm" bench --device emu --filter silu_forward,axpby --ch 16 --groups 4 \
        --rounds 1 --warm --save "$out/bench.jsonl"
else
    section bench 200 "$out/bench.txt" "$cbdm" bench --device "$device" --batch 64 --rounds 5 \
        --save "$out/bench.jsonl"
fi

# ---- whole steps beside PyTorch's
if [ "$rehearse" ]; then
    section step 60 "$out/step.txt" sh -c "echo 'go 1' | '$cbdm' bench-step --device emu --data builtin --ch 4 \
        --ch-mult 1 --attn '' --res-blocks 1 --groups 2 --batch 1"
else
    section step 150 "$out/step.txt" sh tests/peer/ratio.sh --device cuda --batch 64 --rounds 5 --steps 20 \
        --program "$cbdm"
fi

# ---- train: 2,000 steps on the built-in data; bf16 may be no further from f32 than another seed of f32
if [ "$rehearse" ]; then
    network="--ch 4 --ch-mult 1 --attn= --res-blocks 1 --groups 2 --batch 1"
    network="$network --steps 10 --log-every 1"              # too few to judge
else
    network="--preset demo --batch 64 --steps 2000"
fi
section train 150 "$out/train.txt" sh -c "$(cat <<SCRIPT
set -e
for run in f32:1 f32:2 bf16:1; do
    dtype=\${run%:*} seed=\${run#*:}
    '$cbdm' train --device '$device' --data builtin --preview-every 0 --probe-every 0 --save-every 1000000 \
        --log-every 10 $network --dtype \$dtype --seed \$seed --out '$work'/run-\$dtype-\$seed
done
awk -f tests/curves.awk A='$work'/run-f32-1/stats.jsonl B='$work'/run-f32-2/stats.jsonl \
    C='$work'/run-bf16-1/stats.jsonl || [ "$rehearse" ]
SCRIPT
)"

# ---- the classifier of the evaluation: trained on the device, its accuracy on the built-in test images
if [ "$rehearse" ]; then
    section classifier 60 "$out/train.txt" \
        sh -c "echo 'ten thousand test images are too many for the emulator'; exit 77"
else
    section classifier 60 "$out/train.txt" "$cbdm" eval train-classifier --data builtin --preset quick \
        --device "$device" --out "$work/classifier.safetensors"
fi

# ---- compute-sanitizer on small cases
section sanitizer 120 "$out/check.txt" sh -c "$(cat <<SCRIPT
command -v compute-sanitizer >/dev/null || { echo 'no compute-sanitizer here'; exit 77; }
set -e
for tool in memcheck racecheck synccheck initcheck; do
    timeout 40 compute-sanitizer --tool \$tool --error-exitcode 9 '$cbdm' check --device '$device' --schedules 0 \
        gemm bias_backward groupnorm cbdm_loss batchnorm pool cross_entropy
done
SCRIPT
)"

verdict='every section that ran is ok'
if [ "$failed" != 0 ]; then verdict='something FAILED'; fi
say "---- $(($(date +%s) - start)) s in all; $verdict"
exit "$failed"
