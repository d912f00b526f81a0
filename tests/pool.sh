#!/bin/sh
# tests/pool.sh - runs commands side by side, each in a process and within a time of its own, so that one that crashes,
# hangs or leaves its CUDA context broken costs no other; then shows what they printed, in order.
#
# usage: sh tests/pool.sh FILE JOBS EACH TOTAL
#   FILE    a line each: LABEL, a tab, one simple command of sh
#   JOBS    at once
#   EACH    seconds for one; TOTAL: for all, after which what runs is killed and what has not begun is left out
# A command that fails leaves a line "FAILED LABEL ...", its own or one made here. Exit 0: all ran and none failed.
set -u
file=$1 jobs=$2 total=$4
each=$3 work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export each work
# --foreground: in the group of the timeout for all, which so reaches every command.
awk '{ printf "%04d %s\n", NR, $0 }' "$file" | tr '\n' '\0' |
    timeout -k 5 "$total" xargs -0 -n 1 -P "$jobs" sh -c '
        n=${1%% *}
        command=$(printf "%s" "$1" | cut -f 2-)
        timeout --foreground -k 2 "$each" sh -c "exec $command" >"$work/$n.log" 2>&1
        echo $? >"$work/$n.status"' job

tab=$(printf '\t')
n=0 failed=0 left=0
while IFS=$tab read -r label _; do
    n=$((n + 1))
    log=$work/$(printf '%04d' "$n")
    echo "== $label"
    if [ ! -f "$log.log" ]; then
        left=$((left + 1))
        echo "not begun"
        continue
    fi
    cat "$log.log"
    if [ "$(tail -c 1 "$log.log")" ]; then echo; fi           # cut short in a line
    status=$(cat "$log.status" 2>/dev/null || echo "$total s for all are over")
    [ "$status" = 0 ] && continue
    failed=$((failed + 1))
    case $status in 124 | 137) status="out of its $each s" ;; esac
    case $status in 1 | 3) grep -q '^FAILED' "$log.log" && continue ;; esac
    echo "FAILED $label: status $status; last words: $(tail -c 500 "$log.log" | tr '\n' ' ')"
done <"$file"
echo "$n commands, $failed failed, $left not begun"
[ "$failed" = 0 ] && [ "$left" = 0 ]
