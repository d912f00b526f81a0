#!/bin/sh
# tests/ptxas_log.sh - compiler launcher for .cu files: runs the command, keeps what ptxas says of each kernel beside
# the object as OBJECT.ptxas, and lets all else through. tests/ptxas.sh reads those files.
object=
previous=
for word in "$@"; do
    if [ "$previous" = -o ]; then object=$word; fi
    previous=$word
done
if [ -z "$object" ]; then exec "$@"; fi
log=$object.ptxas
"$@" 2>"$log.tmp"
status=$?
grep -E '^ptxas info|bytes stack frame|^$' "$log.tmp" >"$log"
grep -vE '^ptxas info|bytes stack frame|^$' "$log.tmp" >&2
rm -f "$log.tmp"
exit "$status"
