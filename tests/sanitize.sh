#!/bin/sh
# tests/sanitize.sh - the unit tests once more, built with AddressSanitizer and UndefinedBehaviorSanitizer.
#
# usage: sh tests/sanitize.sh [CTEST ARGUMENT ...]       e.g. -R groupnorm
# Builds into build-asan. Exit 0: no report and no failure.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
sh third_party/setup.sh
cmake -S . -B build-asan -DCMAKE_BUILD_TYPE=Release -DCBDM_SANITIZE=address,undefined -DCBDM_CUDA=OFF
cmake --build build-asan -j "$(nproc)"
export ASAN_OPTIONS="detect_leaks=1:strict_string_checks=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
ctest --test-dir build-asan -L unit --no-tests=error --output-on-failure -j "$(nproc)" "$@"
