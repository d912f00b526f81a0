#!/bin/sh
# tests/check_words.sh ROOT - kernel files may hold no word that only one of their two compilers understands, or that
# the emulation cannot see: those live in kernels/common and kernels/emu.
self=$(realpath "$0")
root=${1:-.}
cd "$root" || exit 2
files=$(find kernels tests/emu \( -path kernels/common -o -path kernels/emu -o -path kernels/vendor \) -prune \
    -o \( -name '*.cu' -o -name '*.cuh' \) -print 2>/dev/null | sort)
[ -n "$files" ] || { echo "check_words: no kernel files under $root"; exit 2; }

# Looks for an extended regular expression in code, not in comments; prints FILE:LINE and the rule.
bad=0
forbid() {
    hits=$(for f in $files; do
        sed 's://.*::' "$f" | grep -nE "$1" | sed "s|^\([0-9]*\):.*|$f:\1|"
    done)
    [ -z "$hits" ] && return
    echo "$hits" | while read -r place; do echo "$place: $2"; done
    bad=1
}
forbid '(^|[^A-Za-z0-9_])(asm|__asm__)([^A-Za-z0-9_]|$)' 'inline assembly belongs in kernels/common'
forbid '<<<' 'launch with LAUNCH'
forbid '__shared__' 'declare with SHARED or DYNAMIC_SHARED'
forbid '(^|[^A-Za-z0-9_])mem(cpy|set|move) *\(' 'copy through vector types: the emulation does not see this'
forbid '__activemask' 'say which lanes take part'
forbid '__CUDA_ARCH__|__CUDACC__' 'what differs between compilers or GPUs belongs in kernels/common'
forbid 'atomicAdd *\( *(\(float|\(double|&?[a-z_]*float)' 'float atomics have no fixed order'

# The canary: the same check must refuse a file that breaks every rule.
if [ "$2" != canary ]; then
    mkdir -p "${TMPDIR:-/tmp}/check_words.$$/kernels/x"
    printf '%s\n' 'asm("");' 'k<<<1, 1>>>();' '__shared__ int a;' 'memcpy(a, b, 4);' '__activemask();' \
        '#ifdef __CUDA_ARCH__' 'atomicAdd((float *)p, v);' >"${TMPDIR:-/tmp}/check_words.$$/kernels/x/x.cu"
    found=$(sh "$self" "${TMPDIR:-/tmp}/check_words.$$" canary | wc -l)
    rm -r "${TMPDIR:-/tmp}/check_words.$$"
    [ "$found" = 7 ] || { echo "check_words: the canary breaks 7 rules, of which $found were found"; bad=1; }
fi
exit $bad
