#!/bin/sh
# tests/ptxas.sh - registers, shared memory and spills of every kernel, per architecture, against the committed table.
#
# usage: sh tests/ptxas.sh BUILD_FOLDER [--update]
# Reads what the build kept (tests/ptxas_log.sh). The table, tests/ptxas.txt, is keyed by architecture and nvcc version:
#   ARCH NVCC REGISTERS SHARED KERNEL
# kernels/vendor is left out: it is built only where NVIDIA's libraries are.
# Fails if any kernel spills or uses local memory, whatever the compiler; and, for a version that the table has, if a
# kernel is missing from it, is gone, or needs other registers or shared memory. --update rewrites that version's lines.
set -eu
build=$1
table=$(dirname "$0")/ptxas.txt
version=$(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
now=$(mktemp)
trap 'rm -f "$now" "$now".*' EXIT

demangle=cat
for tool in cu++filt c++filt; do
    if command -v "$tool" >/dev/null 2>&1; then demangle=$tool; break; fi
done
find "$build" -name '*.ptxas' ! -path '*/kernels_vendor.dir/*' | sort | xargs cat | awk -v version="$version" '
    /Compiling entry function/ {
        split($0, part, "\x27")
        kernel = part[2]
        arch = substr(part[4], 4)
        stack = spill = 0
    }
    /bytes stack frame/ { stack = $1; spill = $5 + $9 }
    /Used [0-9]+ registers/ {
        shared = 0
        for (i = 2; i <= NF; i++) if ($i ~ /^smem/) shared = $(i - 2)
        match($0, /Used [0-9]+/)
        registers = substr($0, RSTART + 5, RLENGTH - 5)
        if (kernel != "") printf "%s %s %d %d %d %d %s\n", arch, version, registers, shared, stack, spill, kernel
        kernel = ""
    }' | $demangle |
    sed -e 's/(anonymous namespace):://g' -e 's/<unnamed>:://g' -e 's/(int)//g' -e 's/(bool)//g' |
    LC_ALL=C sort -u >"$now"
if [ ! -s "$now" ]; then
    echo "ptxas.sh: $build holds no kernel compiled by nvcc" >&2
    exit 1
fi

status=0
awk '$5 > 0 || $6 > 0 { print; bad = 1 } END { exit bad }' "$now" >"$now.bad" || {
    echo "ptxas.sh: local memory or spills (arch, nvcc, registers, shared, stack, spilled bytes, kernel):"
    cat "$now.bad"
    status=1
}
awk '{ $5 = $6 = ""; gsub(/  +/, " "); print }' "$now" >"$now.table"
archs=$(awk '{ print $1 }' "$now.table" | sort -u | tr '\n' ' ')

if [ "${2:-}" = --update ]; then
    touch "$table"
    { grep '^#' "$table" || true
      { grep -v '^#' "$table" | awk -v v="$version" -v archs="$archs" '
            BEGIN { n = split(archs, a, " "); for (i = 1; i <= n; i++) mine[a[i]] = 1 }
            !($2 == v && $1 in mine)'
        cat "$now.table"; } | LC_ALL=C sort; } >"$now.new"
    cp "$now.new" "$table"
    echo "ptxas.sh: $table has $(grep -vc '^#' "$table") lines"
    exit "$status"
fi
for arch in $archs; do
    grep "^$arch $version " "$table" | LC_ALL=C sort >"$now.old" 2>/dev/null || true
    if [ ! -s "$now.old" ]; then
        echo "ptxas.sh: sm_$arch with nvcc $version is not in the table: only spills were looked at"
        continue
    fi
    grep "^$arch " "$now.table" | LC_ALL=C sort >"$now.cur"
    if ! diff "$now.old" "$now.cur" >"$now.diff"; then
        echo "ptxas.sh: sm_$arch differs from $table (< table, > this build; arch nvcc registers shared kernel):"
        cat "$now.diff"
        echo "  after a look: sh tests/ptxas.sh $build --update"
        status=1
    fi
done
echo "ptxas.sh: $(wc -l <"$now.table") kernels, sm_$(echo $archs | sed 's/ /, sm_/g'), nvcc $version"
exit "$status"
