#!/bin/sh
# third_party/setup.sh - installs what the build needs and this machine lacks: Debian 12, Ubuntu 22.04 and 24.04, apt.
#
# usage: sh third_party/setup.sh [--demo] [--fuzz]
#   --demo  also the image set that train/demo.sh likes best, where the release has it
#   --fuzz  also clang with libFuzzer, for tests/fuzz.sh
# Exit 0: everything is there (no apt call where it already was); 1: apt failed; 2: no right to install, or no apt.
# One apt call installs all or nothing: apt resolves and downloads every package before it unpacks the first.
set -u

libraries="libdnnl-dev libpng-dev zlib1g-dev libarchive-dev libcjson-dev libcmocka-dev"
libraries="$libraries libopenblas-openmp-dev"
missing=""
extra=""

fail() {
    code=$1
    shift
    echo "setup: $*" >&2
    exit "$code"
}

have_package() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

has_candidate() {
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'
}

# need COMMAND PACKAGE: a tool counts as there when its command is, whoever brought it.
need() {
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

# with_candidates PACKAGE ...: those that this release has.
with_candidates() {
    for package in "$@"; do
        if has_candidate "$package"; then printf ' %s' "$package"; fi
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 "$@"
    fi
}

demo=no
fuzz=no
for option in "$@"; do
    case $option in
    --demo) demo=yes ;;
    --fuzz) fuzz=yes ;;
    *) fail 2 "unknown option '$option': usage: sh third_party/setup.sh [--demo] [--fuzz]" ;;
    esac
done
if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-query >/dev/null 2>&1; then
    fail 2 "no apt here: install a C compiler with OpenMP, cmake, make, pkg-config and the libraries of" \
        "$libraries by this system's own means, then call cmake yourself"
fi

need gcc gcc
need g++ g++          # the host emulation of the GPU kernels
command -v make >/dev/null 2>&1 || need ninja make
need cmake cmake
need pkg-config pkg-config
have_package libc6-dev || missing="$missing libc6-dev"
have_package ca-certificates || missing="$missing ca-certificates"
for package in $libraries; do
    have_package "$package" || missing="$missing $package"
done
if [ "$demo" = yes ] && ! have_package dataset-fashion-mnist; then extra="$extra dataset-fashion-mnist"; fi
if [ "$fuzz" = yes ]; then
    need clang clang
    # libFuzzer lies in libclang-rt-dev, on Ubuntu 22.04 in what clang itself depends on.
    for package in libclang-rt-dev libomp-dev; do
        have_package "$package" || extra="$extra $package"
    done
fi
[ -n "$missing$extra" ] || exit 0

if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; then
    # shellcheck disable=SC2086 # a list of package names
    missing="$missing$(with_candidates $extra)"
    [ -n "$missing" ] || exit 0
    fail 2 "missing, and neither root nor passwordless sudo to install it: apt-get install$missing"
fi

log=$(mktemp) || fail 1 "cannot make a temporary file"
trap 'rm -f "$log"' EXIT
# A failed update is not the end: the lists may be recent enough, and what is lacking is named below.
as_root apt-get -q -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 || echo "setup: apt-get update failed; going on" >&2
# shellcheck disable=SC2086 # a list of package names
missing="$missing$(with_candidates $extra)"
absent=""
for package in $missing; do
    has_candidate "$package" || absent="$absent $package"
done
[ -z "$absent" ] || fail 1 "apt knows no$absent: enable the release's main (on Ubuntu: and universe) packages"
[ -n "$missing" ] || exit 0
echo "setup: installing$missing"
# shellcheck disable=SC2086 # a list of package names
if ! as_root apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $missing >"$log" 2>&1; then
    fail 1 "apt-get install failed: $(grep '^E:' "$log" | tail -n 1 | cut -c 4-)"
fi
for package in $missing; do
    have_package "$package" || fail 1 "apt-get install said it worked, but $package is not there"
done
