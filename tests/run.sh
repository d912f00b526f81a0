#!/bin/sh
# tests/run.sh - installs what is missing, builds into build/ and runs every test.
#
# usage: sh tests/run.sh [--long] [CMAKE ARGUMENT ...]
#   --long  also the long tests (CBDM_LONG=1 in the tests' environment)
# Exit 0: all passed; the last line is `N passed, M failed`. A run without a single test has failed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
if [ "${1:-}" = --long ]; then
    export CBDM_LONG=1
    shift
fi
if [ "${CI:-}" = true ]; then set -- -DCBDM_WERROR=ON "$@"; fi
jobs=$(nproc)

sh third_party/setup.sh
cmake -S . -B build "$@"
cmake --build build -j "$jobs"

# Tests run beside each other with two threads each: waiting threads must give up their core at once.
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export OMP_WAIT_POLICY
status=0
ctest --test-dir build --output-on-failure -j "$jobs" >build/ctest.out 2>&1 || status=$?
cat build/ctest.out
total=$(sed -n 's/.* tests\{0,1\} failed out of \([0-9]*\)$/\1/p' build/ctest.out)
failed=$(sed -n 's/.* tests passed, \([0-9]*\) tests\{0,1\} failed out of .*/\1/p' build/ctest.out)
if [ "${total:-0}" -eq 0 ]; then
    echo "run.sh: not one test was run: is libcmocka-dev there?" >&2
    exit 1
fi
echo "$((total - failed)) passed, $failed failed"
exit "$status"
