#!/bin/sh
# train/demo.sh - the whole road with one command: set up, build, train CBDM on a long-tailed data set, sample, look.
# usage: sh train/demo.sh [--quick] [--data PATH] [--out DIR]
set -eu
cd "$(dirname "$0")/.."

preset=demo seeds=0-399 data='' out=''
while [ $# -gt 0 ]; do
    case $1 in
        --quick) preset=quick seeds=0-159 ;;
        --data) [ $# -gt 1 ] || { echo "demo.sh: --data needs a path" >&2; exit 2; }; data=$2; shift ;;
        --out) [ $# -gt 1 ] || { echo "demo.sh: --out needs a folder" >&2; exit 2; }; out=$2; shift ;;
        -h|--help) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
        *)
            echo "demo.sh: unknown argument $1; usage: sh train/demo.sh [--quick] [--data PATH] [--out DIR]" >&2
            exit 2 ;;
    esac
    shift
done

sh third_party/setup.sh --demo
cmake -S . -B build -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build --parallel "$(nproc)" --target cbdm

fashion=/usr/share/datasets/fashion-mnist
if [ -n "$data" ]; then
    :
elif [ -d "$fashion" ]; then
    data=$fashion
else
    echo "demo.sh: Debian's package dataset-fashion-mnist is not here: the built-in shapes are used instead" \
        "(or give --data PATH)"
    data=builtin
fi
if [ -z "$out" ]; then
    out=runs/$preset
    n=2
    while [ -e "$out" ]; do out=runs/$preset-$n; n=$((n + 1)); done
fi

build/cbdm data info --data "$data" --imb-factor 0.01
build/cbdm train --preset "$preset" --data "$data" --out "$out"
build/cbdm sample --checkpoint "$out" --sampler ddim --steps 25 --omega 1.5 --clip-x0 1 --labels balanced \
    --seeds "$seeds" --batch 40 --out "$out/samples"
build/cbdm eval centroid --samples "$out/samples" --data "$data" --imb-factor 0.01
echo
echo "The grid, one row per class from head to tail: $out/samples/grid.png"
echo "Checkpoints, previews and statistics:           $out"
echo "Draw more:  build/cbdm sample --checkpoint $out --labels balanced --seeds 400-499 --omega 1.5" \
    "--clip-x0 1 --sampler ddim --steps 25 --out DIR"
