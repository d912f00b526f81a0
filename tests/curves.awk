# tests/curves.awk - whether a bf16 run's loss curve lies as near to the f32 run's as another seed's does.
#
#   awk -f tests/curves.awk A=f32/stats.jsonl B=f32-other-seed/stats.jsonl C=bf16/stats.jsonl
# Losses of the lines with "loss" are averaged over tenths of the run; from the second tenth on, the largest
# |C - A| over the tenths may be no more than the largest |B - A|. Exit 0: so; 1: not; 2: a curve is missing.
function read_curve(file, curve,    line, n, value, k) {
    n = 0
    while ((getline line < file) > 0)
        if (match(line, /"loss": *[-0-9.eE+]+/)) {
            value = substr(line, RSTART, RLENGTH)
            sub(/.*: */, "", value)
            all[n++] = value + 0
        }
    close(file)
    if (n < 10) { print "curves: " file " has " n " losses"; exit 2 }
    for (k = 0; k < 10; k++) { curve[k] = 0; count[k] = 0 }
    for (k = 0; k < n; k++) { curve[int(10 * k / n)] += all[k]; count[int(10 * k / n)]++ }
    for (k = 0; k < 10; k++) curve[k] /= count[k]
}
BEGIN {
    for (i = 1; i < ARGC; i++) { split(ARGV[i], part, "="); file[part[1]] = part[2] }
    read_curve(file["A"], a); read_curve(file["B"], b); read_curve(file["C"], c)
    seeds = storage = 0
    print "tenth      f32     other seed      bf16"
    for (k = 0; k < 10; k++) {
        printf "%5d %9.5f %12.5f %10.5f\n", k + 1, a[k], b[k], c[k]
        if (k == 0) continue
        d = b[k] - a[k]; if (d < 0) d = -d; if (d > seeds) seeds = d
        d = c[k] - a[k]; if (d < 0) d = -d; if (d > storage) storage = d
    }
    printf "curves: bf16 is %.5f from f32, another seed %.5f\n", storage, seeds
    exit storage <= seeds ? 0 : 1
}
