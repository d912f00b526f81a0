#!/bin/sh
# tests/peer/ratio.sh - measures our training step against PyTorch's on this machine; see ratio.py for what is measured.
#
# usage: sh tests/peer/ratio.sh [--device cpu|cuda] [--preset full|demo] [--batch 8] [--rounds R] [--python PY ...]
#        sh tests/peer/ratio.sh --setup     a current torch into build/peer-venv (about 6 GB of disk)
# Exit 0: measured, the last line is `ratio R`; 2: torch or our program is missing.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=$root/build/peer-venv

# The index's torch for Linux cannot be imported without the CUDA libraries that it names as packages: all of it, or
# nothing. An unfinished environment is removed, so that a later run does not take it for a rival.
setup() {
    if "$venv/bin/python" -c 'import torch' 2>/dev/null; then
        echo "build/peer-venv has torch already"
        return 0
    fi
    rm -rf "$venv"
    mkdir -p "$root/build"
    if ! python3 -m venv "$venv" || ! "$venv/bin/python" -m pip install --quiet torch numpy ||
        ! "$venv/bin/python" -c 'import torch'; then
        rm -rf "$venv"
        echo "ratio: no current torch to be had here; Debian's python3-torch alone will be the rival" >&2
        return 2
    fi
    "$venv/bin/python" -c 'import torch; print("build/peer-venv: torch", torch.__version__)'
}

if [ "${1:-}" = --setup ]; then
    setup
    exit $?
fi
if ! command -v python3 >/dev/null; then
    echo "ratio: python3 is missing: apt-get install python3 python3-torch" >&2
    exit 2
fi
exec python3 -B "$root/tests/peer/ratio.py" "$@"
