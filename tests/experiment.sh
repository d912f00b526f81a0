#!/bin/sh
# tests/experiment.sh - eval/experiments/fashion-mnist-lt.sh: what it refuses, and in a long test the whole of it in
# small on the built-in images, stopped in the middle and begun again.
#
# usage: sh tests/experiment.sh PROGRAM
set -eu
program=$1
script=$(cd "$(dirname "$0")/.." && pwd)/eval/experiments/fashion-mnist-lt.sh
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export XDG_CACHE_HOME="$out/cache"

fail() { echo "experiment.sh: $1" >&2; exit 1; }

refused() {          # refused CODE PART FLAGS...: ends with this code, says this, begins nothing
    want=$1 part=$2 code=0
    shift 2
    said=$(sh "$script" --program "$program" --out "$out/refused" "$@" 2>&1) || code=$?
    [ $code -eq "$want" ] || fail "code $code, not $want, of $*: $said"
    case $said in *"$part"*) ;; *) fail "no \"$part\" of $*: $said" ;; esac
    [ ! -e "$out/refused" ] || fail "$* was refused, but began"
}
refused 3 "name the archive or folder of cifar10" --set cifar10
refused 3 "/nonexistent is not here" --set cifar100 --data /nonexistent
refused 3 "no such file" --data builtin --classifier /nonexistent
refused 2 "there is no arm best" --data builtin --arms best
refused 2 "name both" --data builtin --arms ddpm,cbdm-tau1-bf16
refused 2 "there are train" --data builtin --stage cook
refused 2 "unknown option --omega" --data builtin --omega 1
refused 2 "there are classifier and inception" --data builtin --features dino
refused 2 "needs a value" --data builtin --seeds

case ${CBDM_LONG:-0} in ''|0) echo "refusals are right; the rest is a long test"; exit 0 ;; esac

set -- --quick --data builtin --program "$program" --out "$out/quick"
sh "$script" "$@" >"$out/log" 2>&1 &
driver=$!
until [ -s "$out/quick/ddpm-s0/manifest.json" ]; do
    kill -0 $driver 2>/dev/null || fail "it ended early: $(cat "$out/log")"
    sleep 0.2
done
kill -TERM $driver
code=0
wait $driver || code=$?
[ $code -eq 75 ] || fail "stopped with code $code: $(cat "$out/log")"
sh "$script" "$@" >"$out/log" 2>&1 || fail "gone on with: $(cat "$out/log")"
for file in report.html summary.md ddpm.omega cbdm-tau1.omega classifier.safetensors; do
    [ -s "$out/quick/$file" ] || fail "no $file"
done
[ "$(find "$out/quick" -name 'sweep-omega-*.json' | wc -l)" -eq 8 ] ||
    fail "the sweep is not 2 arms, 2 seeds, 2 strengths"
grep -q 'ddpm.*±' "$out/quick/summary.md" || fail "no interval over seeds in the summary"
results() { find "$out/quick" -path '*/eval/*.json' -printf '%p %T@\n' | sort; }
results >"$out/before"
sh "$script" "$@" >"$out/log" 2>&1 || fail "a finished experiment: $(cat "$out/log")"
results | cmp -s - "$out/before" || fail "a finished experiment was measured again"
sh "$script" "$@" --sample-steps 2 >"$out/log" 2>&1 || fail "other steps: $(cat "$out/log")"
grep -q '^12 results were drawn otherwise .*: 0-19 ddim 3, not 0-19 ddim 2' "$out/log" ||
    fail "results of other steps are used in silence: $(cat "$out/log")"
results | cmp -s - "$out/before" || fail "results of other steps were not kept"
echo "the whole of it ran, was stopped, went on, and was not done twice"

# The CIFAR road on an archive of noise, a hundred images a class, each class a shade.
noise() {            # noise IMAGES SEED
    LC_ALL=C awk -v n="$1" -v x="$2" 'BEGIN {
        for (i = 0; i < n; i++) {
            printf "%c", i % 10
            for (p = 0; p < 3072; p++) {
                x = (x * 1103 + 12345) % 65536
                printf "%c", int(x / 512) + (p % 32 < 16) * 12 * (i % 10)
            }
        }
    }'
}
mkdir "$out/cifar-10-batches-bin"
for k in 1 2 3 4 5; do noise 200 $k >"$out/cifar-10-batches-bin/data_batch_$k.bin"; done
noise 100 6 >"$out/cifar-10-batches-bin/test_batch.bin"
(cd "$out" && tar czf cifar.tar.gz cifar-10-batches-bin)
sh "$script" --quick --set cifar10 --data "$out/cifar.tar.gz" --features classifier --steps 4 --sample-steps 2 \
    --seeds 0 --omegas 0 --program "$program" --out "$out/cifar" >"$out/log" 2>&1 || fail "CIFAR: $(cat "$out/log")"
grep -q '1000 images of .*cifar.tar.gz, train' "$out/cifar/report.html" ||
    fail "CIFAR is not measured against its training images"
echo "the road of CIFAR holds"
