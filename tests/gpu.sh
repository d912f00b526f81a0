#!/bin/sh
# tests/gpu.sh - everything that only a GPU can tell, in one command: builds for the GPU of this machine, checks every
# kernel on it, replays the published code, times, trains. Needs cmake, a C and a C++ compiler, nvcc; what else is
# missing is said and passed over. Ends in time, whatever happens, the most valuable sections first.
#
# Nothing here trusts a kernel: checks run side by side in processes of their own (tests/pool.sh), what then crashed or
# hung runs again case by case, the GPU is asked after every failure whether it still answers, and what has failed is
# left out of the sections that follow, so that they tell of the rest.
#
# usage: sh tests/gpu.sh OUT [--minutes M] [--rehearse]
#   OUT         folder for the results: at most 8 files, written as they come
#   --minutes   for all sections together, 9 by default
#   --rehearse  the same on the emulator, without the optional libraries and at tiny sizes: finds faults of this script
# Exit 0: every section that could run is ok. The last lines are the failures, each kind once, and a table of sections.
set -u
out=${1:-}
case $out in '' | -*) echo "usage: sh tests/gpu.sh OUT [--minutes M] [--rehearse]" >&2; exit 2 ;; esac
shift
minutes=9 slower=1
rehearse=
while [ $# -gt 0 ]; do
    case $1 in
    --minutes) minutes=${2:-9}; shift ;;
    --rehearse) rehearse=1 minutes=15 slower=5 ;;
    *) echo "gpu.sh: $1 is unknown" >&2; exit 2 ;;
    esac
    shift
done
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$root" || exit 2
start=$(date +%s)
deadline=$((start + minutes * 60))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
summary=$out/summary.txt check=$out/check.txt
for file in summary.txt build.log check.txt parity.txt bench.txt bench.jsonl step.txt train.txt; do
    : >"$out/$file"
done
failed=0 gone= cbdm=
jobs=$(nproc)
export OMP_WAIT_POLICY=passive

device=cuda
if [ "$rehearse" ]; then device=emu; fi
say() { echo "$*" | tee -a "$summary"; }

# Can the device be opened, and does a kernel come back, right or wrong?
answers() {
    said=$(timeout -k 2 20 "$cbdm" check axpby --device "$device" --schedules 0 --case "rows=1 c=8" 2>&1)
    case $? in 124 | 137) return 1 ;; esac
    echo "$said" | grep -q " $device="
}

# section NAME SECONDS LOG COMMAND...: its output goes to LOG (appended), its verdict to the summary. A section gets at
# most SECONDS, and never more than what is left; then it and its children are killed. Status 77 of the command: it
# could not run, its last line says why.
section() {
    name=$1 limit=$(($2 * slower)) log=$3
    shift 3
    now=$(date +%s)
    left=$((deadline - now))
    if [ "$gone" ] || [ "$left" -lt 10 ]; then
        say "section $name: not done (${gone:-no time left})"
        return 1
    fi
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
    echo "---- $name" >>"$log"
    timeout -k 5 "$limit" "$@" >"$work/log" 2>&1
    status=$?
    cat "$work/log" >>"$log"
    took=$(($(date +%s) - now))
    last=$(tail -n 1 "$work/log" | cut -c1-110)
    first=$(grep -m 1 '^FAILED' "$work/log" || grep -m 1 -E 'WRONG|DIFFERS|differ:|error|fatal' "$work/log")
    first=$(echo "$first" | cut -c1-150)
    case $status in
    0) say "section $name: ok, $took s: $last" ;;
    77) say "section $name: not done ($last)" ;;
    124 | 137) say "section $name: failed, out of its $limit s; its last line: $last"; failed=1 ;;
    *) say "section $name: failed, status $status, $took s: $last; $first"; failed=1 ;;
    esac
    case $status in 0 | 77) return "$status" ;; esac
    if [ "$cbdm" ] && ! answers && ! { sleep 5; answers; }; then gone="the GPU does not answer since $name"; fi
    return "$status"
}

# pool NAME EACH SECONDS FILE: tests/pool.sh on FILE, into check.txt.
pool() {
    total=$((deadline - $(date +%s) - 10))
    if [ "$total" -gt $(($3 * slower)) ]; then total=$(($3 * slower)); fi
    section "$1" $((total / slower + 10)) "$check" env OMP_NUM_THREADS=2 \
        sh tests/pool.sh "$4" "$jobs" $(($2 * slower)) "$total"
}
job() { printf '%s\t%s\n' "$1" "$2" >>"$work/$3"; }
crashed() { sed -n "s/^FAILED \($1\): status .*/\1/p" "$check"; }      # labels of jobs that did not come to an end

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
    say "$(nvcc --version 2>&1 | tail -n 1), $jobs cores"
fi

# ---- build: one architecture, this GPU's; without the twins where this machine's cuDNN does not compile
suites=
for source in tests/ops/*.c; do suites="$suites op_$(basename "$source" .c)"; done
if [ "$rehearse" ]; then suites="op_pointwise op_pool op_random"; fi
built() {
    section "$1" 200 "$out/build.log" sh -c "$(cat <<SCRIPT
set -e
cmake -S . -B '$build' $arguments $2
cmake --build '$build' -j $jobs --target cbdm probe
echo built
SCRIPT
)"
}
built build "" || built build_without_cudnn -DCMAKE_DISABLE_FIND_PACKAGE_CUDNN=ON ||
    { grep -E 'error|Error' "$out/build.log" | head -n 20 | cut -c1-200 | tee -a "$summary"; exit 1; }
cbdm=$build/cbdm

# ---- probe: the instruction wrappers alone, against the emulator's belief; a word, a process
"$build/tests/probe" --list >"$work/words"
while read -r word; do job "probe $word" "'$build/tests/probe' '$word'" probe; done <"$work/words"
pool probe 20 60 "$work/probe"

# ---- check: every kernel against the reference
filter=
if [ "$rehearse" ]; then filter="axpby gemm conv2d_forward"; fi
"$cbdm" check --device "$device" --list $filter >"$work/cases"
for launcher in $(awk '{ print $1 }' "$work/cases" | uniq | sort -u); do
    job "$launcher" "'$cbdm' check $launcher --device $device --schedules 0" check
done
pool check 45 120 "$work/check"
for launcher in $(crashed '[a-z0-9_]*'); do
    sed -n "s/^$launcher //p" "$work/cases" | sed 's/\( f32\| bf16\)\{0,1\}:$//' | uniq >"$work/shapes"
    while read -r shape; do
        job "$launcher $shape" "'$cbdm' check $launcher --device $device --schedules 0 --case '$shape'" cases_again
    done <"$work/shapes"
done
if [ -s "$work/cases_again" ]; then pool check_by_case 20 90 "$work/cases_again"; fi

# What did not come back from its case, as launcher=implementation: the one named last. Beside it what is wrong in more
# than a fiftieth of its results, which is no matter of rounding.
word='\([a-z0-9_]*\)' number='\([0-9]*\)'
sed -n "s/^FAILED $word [^:]*: status .*last words:.* $device=$word.*/\1=\2/p" "$check" | sort -u >"$work/broken"
sed -n "s/^FAILED $word .* on [a-z0-9:]*, $word: $number of $number wrong.*/\3 \4 \1=\2/p" "$check" |
    awk '50 * $1 > $2 { print $3 }' | sort -u - "$work/broken" >"$work/bad"
without=$(tr '\n' ',' <"$work/broken")
# FILE: for every launcher there whose usual choice fails, the next that does not, as --kernel has it.
instead_of() {
    while IFS='=' read -r launcher impl; do
        "$cbdm" op "$launcher" --list >"$work/impls"
        grep -q "^  $impl on $device\$" "$work/impls" || continue           # the others run only by name
        for next in mma implicit_gemm tiled strips; do
            grep -qx "$launcher=$next" "$1" && continue
            grep -q "^  $next on $device\$" "$work/impls" || continue
            printf '%s=%s\n' "$launcher" "$next"
            break
        done
    done <"$1" | sort -u | paste -s -d , -
}
kernels=$(instead_of "$work/broken") sound=$(instead_of "$work/bad")
if [ "$kernels" ]; then say "not run again: $without instead --kernel $kernels"; fi
if [ "$sound" ]; then say "for parity and training: --kernel $sound"; fi

# ---- the rest of the build, then ops in graphs
section build_suites 200 "$out/build.log" cmake --build "$build" -j "$jobs" --target parity $suites
for suite in $suites; do
    if [ -x "$build/tests/$suite" ]; then job "$suite" "'$build/tests/$suite' --device $device" suites; fi
done
pool suites 90 120 "$work/suites"
for suite in $(crashed 'op_[a-z0-9_]*'); do
    "$build/tests/$suite" --list | sed 's/  (bench)$//' >"$work/names"
    while read -r name; do
        job "$suite \"$name\"" "'$build/tests/$suite' --device $device '$name'" suites_again
    done <"$work/names"
done
if [ -s "$work/suites_again" ]; then pool suites_by_case 30 60 "$work/suites_again"; fi

if [ "$rehearse" ]; then export CBDM_EMU=check=0; fi         # from here on kernels are run, not watched: faster

# ---- parity: the published code's case, f32 and bf16
section parity 90 "$out/parity.txt" "$build/tests/parity" tests/golden/tiny.safetensors "$device" "$work" "$sound"

# ---- bench: every launcher at the network's shapes, beside the vendor's libraries; some rows at a time
bench() {
    section "bench_$1" "$2" "$out/bench.txt" "$cbdm" bench --device "$device" --filter "$3" --without "$without" \
        --save "$work/rows.jsonl" $4
    if [ -f "$work/rows.jsonl" ]; then cat "$work/rows.jsonl" >>"$out/bench.jsonl"; fi
    rm -f "$work/rows.jsonl"
}
if [ "$rehearse" ]; then
    bench some 60 silu_forward,axpby "--ch 16 --groups 4 --rounds 1 --warm"
else
    at="--batch 64 --rounds 5"
    bench attention 40 attention "$at"
    bench upsampling 40 conv2d_up "$at"
    bench forward 50 conv2d_forward "$at"
    bench input 50 conv2d_backward_input "$at"
    bench weight 50 conv2d_backward_weight "$at"
    bench rest 60 gemm,groupnorm,adam_ema,cbdm_loss,grad_norm,axpby,silu,concat,add_noise,randn,batchnorm,pool "$at"
fi

# ---- whole steps beside PyTorch's; compiling PyTorch's takes minutes, so that comes last
if [ "$rehearse" ]; then
    section step 60 "$out/step.txt" sh -c "echo 'go 1' | '$cbdm' bench-step --device emu --data builtin --ch 4 \
        --ch-mult 1 --attn '' --res-blocks 1 --groups 2 --batch 1 --kernel '$kernels'"
else
    section step 90 "$out/step.txt" sh tests/peer/ratio.sh --device cuda --batch 64 --rounds 5 --steps 20 \
        --program "$cbdm" --kernel "$kernels" --variants published-nchw amp-nhwc
fi

# ---- train: 2,000 steps on the built-in data; bf16 may be no further from f32 than another seed of f32
if [ "$rehearse" ]; then
    network="--ch 4 --ch-mult 1 --attn= --res-blocks 1 --groups 2 --batch 1"
    network="$network --steps 10 --log-every 1"              # too few to judge
else
    network="--preset demo --batch 64 --steps 2000"
fi
section train 120 "$out/train.txt" sh -c "$(cat <<SCRIPT
set -e
for run in f32:1 f32:2 bf16:1; do
    dtype=\${run%:*} seed=\${run#*:}
    '$cbdm' train --device '$device' --data builtin --preview-every 0 --probe-every 0 --save-every 1000000 \
        --log-every 10 $network --dtype \$dtype --seed \$seed --kernel '$sound' --out '$work'/run-\$dtype-\$seed
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
    section classifier 45 "$out/train.txt" "$cbdm" eval train-classifier --data builtin --preset quick \
        --device "$device" --out "$work/classifier.safetensors"
fi

# ---- compute-sanitizer on small cases, a tool, a process
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck initcheck; do
        job "$tool" "compute-sanitizer --tool $tool --error-exitcode 9 '$cbdm' check --device $device --schedules 0 \
gemm bias_backward groupnorm cbdm_loss batchnorm pool cross_entropy" sanitizer
    done
    pool sanitizer 60 60 "$work/sanitizer"
else
    say "section sanitizer: not done (no compute-sanitizer here)"
fi
if [ ! "$rehearse" ]; then
    section step_compiled 240 "$out/step.txt" sh tests/peer/ratio.sh --device cuda --batch 64 --rounds 5 --steps 20 \
        --program "$cbdm" --kernel "$kernels" --variants ampcompile-nhwc
fi

# ---- failures, each kind once: by launcher and implementation, or op and who; then the table again
grep '^section' "$summary" >"$work/table"
{
    grep -h -E '^  .* words differ' "$check"
    grep -h '^FAILED' "$check" | awk '{
        kind = $2
        if (match($0, / on [a-z0-9:]+, [a-z0-9_]+:/) || match($0, /": [^ ]+: /)) kind = kind substr($0, RSTART, RLENGTH)
        if (!n[kind]++) { first[kind] = $0; kinds[++m] = kind }
    } END { for (i = 1; i <= m; i++) print n[kinds[i]] " x " first[kinds[i]] }'
    awk '/^[a-z]/ { row = $0 } /WRONG/ { print row ":" $0 }' "$out/bench.txt"
} >"$work/failures"
if [ -s "$work/failures" ]; then
    say "---- failures"
    cat "$work/failures" >>"$summary"
    head -n 30 "$work/failures" | cut -c1-230
    more=$(($(wc -l <"$work/failures") - 30))
    if [ "$more" -gt 0 ]; then echo "and $more more: summary.txt"; fi
    echo "---- once more"
    cut -c1-130 "$work/table"
fi
verdict='every section that ran is ok'
if [ "$failed" != 0 ]; then verdict='something FAILED'; fi
say "---- $(($(date +%s) - start)) s in all; $verdict"
exit "$failed"
