#!/bin/sh
# tests/fuzz.sh - runs every fuzz target under libFuzzer with ASan and UBSan, from seeds that seeds.c writes.
#
# usage: sh tests/fuzz.sh [SECONDS [TARGET ...]]         60 s each by default; TARGET as in fuzz_TARGET.c
# Builds into build-fuzz, where the corpus of each target grows from run to run. Prints executions per target.
# Exit 0: no crash, no leak, no input slower than 1 s or hungrier than 256 MiB (beyond the sanitizers' own).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
seconds=${1:-60}
case $seconds in
'' | *[!0-9]* | 0)
    echo "fuzz.sh: '$seconds' is no number of seconds: usage: sh tests/fuzz.sh [SECONDS [TARGET ...]]" >&2
    exit 2
    ;;
esac
[ $# -eq 0 ] || shift

sh third_party/setup.sh --fuzz
if [ $# -eq 0 ]; then
    for source in tests/fuzz/fuzz_*.c; do
        name=${source##*/fuzz_}
        set -- "$@" "${name%.c}"
    done
fi
cmake -S . -B build-fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Release -DCBDM_FUZZ=ON \
    -DCBDM_EMU=OFF -DCBDM_CUDA=OFF \
    -DCBDM_SANITIZE=address,undefined >build-fuzz.log 2>&1 || { cat build-fuzz.log >&2; rm -f build-fuzz.log; exit 1; }
mv build-fuzz.log build-fuzz/configure.log
cc -std=c11 -O1 -Wall -Wextra -o build-fuzz/seeds tests/fuzz/seeds.c -lpng -lz

failed=0
for name in "$@"; do
    cmake --build build-fuzz -j "$(nproc)" --target "fuzz_$name" >build-fuzz/build.log 2>&1 ||
        { tail -n 20 build-fuzz/build.log >&2; echo "fuzz.sh: fuzz_$name does not build" >&2; exit 1; }
    program=$(find build-fuzz -name "fuzz_$name" -type f -perm -u+x | head -n 1)
    corpus=build-fuzz/corpus/$name
    found=build-fuzz/found/$name
    mkdir -p "$corpus" "$found"
    build-fuzz/seeds "$name" "$corpus"
    log=build-fuzz/$name.log
    # 256 MiB for the target; as much again for the sanitizers and the corpus. Freed memory is given back soon.
    if ASAN_OPTIONS=quarantine_size_mb=16 "$program" -max_total_time="$seconds" -timeout=1 -rss_limit_mb=512 \
        -malloc_limit_mb=256 -print_final_stats=1 -artifact_prefix="$found/" "$corpus" >"$log" 2>&1; then
        verdict=clean
    else
        verdict="FAILED: see $log and $found/"
        failed=$((failed + 1))
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    printf '%-14s %12s executions  %5s MiB  %s\n' "$name" "${runs:-?}" "${peak:-?}" "$verdict"
done
echo "$(($# - failed)) passed, $failed failed"
[ "$failed" -eq 0 ]
