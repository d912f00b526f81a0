#!/bin/sh
# eval/experiments/fashion-mnist-lt.sh - what class balancing does to a long-tailed diffusion model, with one command:
# paired runs of every arm, a classifier, a guidance sweep, the evaluation at each arm's best guidance, tables, report.
#
# usage: sh eval/experiments/fashion-mnist-lt.sh [options]
#   --set fashion-mnist|cifar10|cifar100   which experiment (fashion-mnist); cifar*: the paper's settings, for a GPU
#   --data PATH        the data set; needed for cifar*                      --out DIR       runs/experiments/SET-lt
#   --arms LIST        ddpm,cbdm-tau1,cbdm-tau0.1: also twin-ARM (PyTorch, needs torch) and ARM-bf16 (on a GPU)
#   --seeds LIST       0,1,2                --twin-seeds LIST               of the twins (the first of --seeds)
#   --steps N          of training          --preset NAME   of cbdm train
#   --omegas LIST      0,1,2,3,4,6          guidance strengths of the sweep, ascending
#   --sweep-samples N  500: images of each point of the sweep               --samples N     2000: at the chosen guidance
#   --sample-steps N   25: of DDIM          --questions LIST                of cbdm eval run, at the chosen guidance
#   --classifier FILE  of cbdm eval train-classifier, in place of one trained here
#   --features NAME    classifier (fashion-mnist) or inception (cifar*): the network that the metrics are of
#   --device NAME      cpu                  --jobs N        work side by side, one thread each (cores; on a GPU 1)
#   --stage NAME       train, classifier, sweep (of the runs that are trained), eval, report or all
#   --quick            everything small that nothing else is said of: some minutes, numbers without meaning
#   --detach           go on in the background, also after logging out      --program FILE  build/cbdm
# Every piece of work leaves a file; the same command goes on where an earlier one was stopped, by Ctrl-C or otherwise.
# Results that lie there are kept, also where they were drawn with other numbers or steps; that is said.
set -eu
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
root=$(cd "$(dirname "$0")/../.." && pwd)

die() { echo "fashion-mnist-lt.sh: $1" >&2; exit "${2:-2}"; }
words() { echo "$1" | tr ',' ' '; }

# ---- one piece of work, in a shell of its own: sh SCRIPT --item KIND ARM SEED OMEGA. Settings are in the environment

run_of() { echo "$X_OUT/$1-s$2"; }
base_of() { b=${1#twin-}; echo "${b%-bf16}"; }
final_step() { printf '%s/checkpoints/step-%09d.safetensors' "$1" "$X_STEPS"; }
sweep_file() { echo "$(run_of "$1" "$2")/eval/sweep-omega-$3.json"; }
final_file() { echo "$(run_of "$1" "$2")/eval/omega-$3.json"; }

arm_flags() {
    case $(base_of "$1") in
        ddpm) echo "--objective ddpm" ;;
        cbdm-tau*) b=$(base_of "$1"); echo "--objective cbdm --tau ${b#cbdm-tau}" ;;
        *) die "--arms: there is no arm $1" ;;
    esac
    case $1 in *-bf16) echo "--dtype bf16" ;; *) echo "--dtype f32" ;; esac
}

train_start() {      # the flags of a new run; word splitting is wanted
    run=$(run_of "$1" "$2")
    # shellcheck disable=SC2046,SC2086
    watched "$X_PROGRAM" train --preset "$X_PRESET" --data "$X_DATA" --imb-factor 0.01 $(arm_flags "$1") --seed "$2" \
        --steps "$X_STEPS" --save-every "$X_SAVE" --preview-every 0 $X_TRAIN --device "$X_DEVICE" --out "$run" $3
}

item_train() {
    run=$(run_of "$1" "$2")
    case $1 in
        twin-*)
            [ -n "$(ls "$run/checkpoints" 2>/dev/null)" ] || train_start "$1" "$2" --prepare || return
            watched "$X_PYTHON" -B "$root/tests/peer/train_twin.py" --program "$X_PROGRAM" "$run" ;;
        *)
            if [ -n "$(ls "$run/checkpoints" 2>/dev/null)" ]; then
                watched "$X_PROGRAM" train --resume "$run" --steps "$X_STEPS" --device "$X_DEVICE"
            else
                train_start "$1" "$2" ''
            fi ;;
    esac
}

item_classifier() {
    # shellcheck disable=SC2086
    watched "$X_PROGRAM" eval train-classifier --data "$X_DATA" $X_CLASSIFIER_FLAGS --device "$X_DEVICE" \
        --out "$X_CLASSIFIER"
}

measure() {          # measure RUN OMEGA SEEDS QUESTIONS FILE FLAGS
    mkdir -p "$1/eval"
    case $X_EVAL in
        *"--features classifier"*) weights=--weights=$X_CLASSIFIER ;;
        *) weights=--classifier=$X_CLASSIFIER ;;          # of label fidelity
    esac
    # shellcheck disable=SC2086
    watched "$X_PROGRAM" eval run --checkpoint "$1" --omega "$2" --seeds "$3" --labels balanced --batch "$X_BATCH" \
        --data "$X_DATA" --imb-type exp --imb-factor 0.01 $X_EVAL "$weights" $6 --questions "$4" \
        --device "$X_DEVICE" --json "$5"
}

item_sweep() {
    measure "$(run_of "$1" "$2")" "$3" "$X_SWEEP_SEEDS" "fidelity" "$(sweep_file "$1" "$2" "$3")" "$X_SWEEP"
}

item_final() {       # other noise than the sweep's, the same for every arm
    measure "$(run_of "$1" "$2")" "$3" "$X_SEEDS" "$X_QUESTIONS" "$(final_file "$1" "$2" "$3")" "$X_FINAL"
}

# Runs a program so that SIGTERM to this shell reaches it: a trainer then saves its state.
watched() {
    "$@" &
    child=$! code=0
    trap 'kill -TERM $child 2>/dev/null || true' TERM
    wait $child || code=$?
    while kill -0 $child 2>/dev/null; do          # the signal ended the waiting, not the program
        code=0
        wait $child || code=$?
    done
    trap - TERM
    return $code
}

if [ "${1:-}" = --item ]; then
    kind=$2 arm=${3:-} seed=${4:-} omega=${5:-} code=0
    name=$kind${arm:+ $arm-s$seed}${omega:+ omega $omega}
    log=$X_OUT/${arm:-classifier}${seed:+-s$seed}.log
    echo $$ >"$X_OUT/.jobs/$$"
    start=$(date +%s)
    "item_$kind" "$arm" "$seed" "$omega" >>"$log" 2>&1 || code=$?
    rm -f "$X_OUT/.jobs/$$"
    if [ $code -eq 0 ]; then
        echo "$(date +%H:%M:%S)  $name: done in $(($(date +%s) - start)) s"
    else
        echo "$(date +%H:%M:%S)  $name: code $code: $(tail -c 400 "$log" | tr '\r' '\n' | tail -n 1)" >&2
    fi
    [ $code -eq 0 ] || exit 1
    exit 0
fi

# ---- options
set_=fashion-mnist data='' out='' arms='' seeds='' twin_seeds='' steps='' preset='' omegas='' sweep_samples=''
samples='' sample_steps='' questions='' classifier='' features='' device='' jobs='' stage=all quick='' detach=''
program=$root/build/cbdm

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --quick) quick=1; shift; continue ;;
            --detach) detach=1; shift; continue ;;
            -h|--help) sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$self"; exit 0 ;;
            --*) [ $# -gt 1 ] || die "$1 needs a value" ;;
            *) die "unknown argument $1; --help lists the options" ;;
        esac
        case $1 in
            --set) set_=$2 ;; --data) data=$2 ;; --out) out=$2 ;; --arms) arms=$2 ;; --seeds) seeds=$2 ;;
            --twin-seeds) twin_seeds=$2 ;; --steps) steps=$2 ;; --preset) preset=$2 ;; --omegas) omegas=$2 ;;
            --sweep-samples) sweep_samples=$2 ;; --samples) samples=$2 ;; --sample-steps) sample_steps=$2 ;;
            --questions) questions=$2 ;; --classifier) classifier=$2 ;; --features) features=$2 ;;
            --device) device=$2 ;; --jobs) jobs=$2 ;; --stage) stage=$2 ;; --program) program=$2 ;;
            *) die "unknown option $1; --help lists the options" ;;
        esac
        shift 2
    done
}
parse "$@"

# What --quick means where nothing else is said.
if [ "$quick" ]; then
    : "${preset:=quick}" "${steps:=40}" "${arms:=ddpm,cbdm-tau1}" "${seeds:=0,1}" "${omegas:=0,1}" "${sample_steps:=3}"
    : "${sweep_samples:=20}" "${samples:=40}" "${out:=runs/experiments/$set_-lt-quick}"
fi

# What each set means where nothing else is said. cifar*: the published settings (batch 48 for both arms, so that they
# stay paired; published DDPM: 64), the published evaluation (balanced training set, 50,000 images of 1000 steps).
case $set_ in
    fashion-mnist)
        : "${data:=/usr/share/datasets/fashion-mnist}" "${preset:=demo}" "${steps:=3000}" "${omegas:=0,1,2,3,4,6}"
        : "${arms:=ddpm,cbdm-tau1,cbdm-tau0.1}" "${sweep_samples:=500}" "${samples:=2000}" "${sample_steps:=25}"
        : "${questions:=fidelity,nearest,diversity}" "${device:=cpu}" "${features:=classifier}"
        X_SAVE=500 X_BATCH=50 X_TRAIN='' X_CLASSIFIER_FLAGS='--preset quick'
        X_EVAL="--split test --features $features --protocol cbdm --clip-x0 1"
        X_SWEEP="--sampler ddim --steps $sample_steps --skip prd,mind,is --bootstrap 0"
        X_FINAL="--sampler ddim --steps $sample_steps"
        hint='install the package dataset-fashion-mnist, or give --data PATH' ;;
    cifar10|cifar100)
        : "${preset:=full}" "${steps:=300001}" "${omegas:=0,0.4,0.8,1.2,1.6,2}" "${arms:=ddpm,cbdm-tau1}"
        : "${sweep_samples:=10000}" "${samples:=50000}" "${sample_steps:=50}" "${device:=auto}"
        : "${questions:=all}" "${features:=inception}"
        X_SAVE=5000 X_BATCH=500 X_TRAIN='--batch 48' X_CLASSIFIER_FLAGS=''
        X_EVAL="--split train --features $features --protocol cbdm"
        X_SWEEP="--sampler ddim --steps $sample_steps --skip prd,mind,is --bootstrap 0"
        X_FINAL="--sampler ddpm"
        hint="name the archive or folder of $set_ with --data PATH" ;;
    *) die "--set $set_: there are fashion-mnist, cifar10 and cifar100" ;;
esac
if [ "$quick" ]; then
    X_SAVE=$steps X_BATCH=20 X_TRAIN=${X_TRAIN:+--batch 8} X_FINAL="--sampler ddim --steps $sample_steps"
    X_SWEEP="$X_FINAL --skip prd,mind,is --bootstrap 0" X_FINAL="$X_FINAL --clf-epochs 0.05"
    X_CLASSIFIER_FLAGS='--preset quick --epochs 0.05'
fi
: "${out:=runs/experiments/$set_-lt}" "${seeds:=0,1,2}" "${twin_seeds:=${seeds%%,*}}"

# ---- what must be here, before anything is begun
case $stage in
    train|classifier|sweep|eval|report|all) ;;
    *) die "--stage $stage: there are train, classifier, sweep, eval, report and all" ;;
esac
[ -n "$data" ] && [ -e "$data" ] || [ "$data" = builtin ] || die "${data:-the data of $set_} is not here: $hint" 3
case $features in classifier|inception) ;; *) die "--features $features: there are classifier and inception" ;; esac
[ -z "$classifier" ] || [ -f "$classifier" ] || die "--classifier $classifier: no such file" 3
for arm in $(words "$arms"); do
    arm_flags "$arm" >/dev/null
    case ",$arms," in *",$(base_of "$arm"),"*) ;; *) die "--arms: $arm is judged at the guidance of $(base_of "$arm"): \
name both" ;; esac
done
python=$root/build/peer-venv/bin/python
[ -x "$python" ] || python=python3
case ,$arms in
    *,twin-*) "$python" -c 'import torch, numpy' 2>/dev/null ||
        die "--arms: a twin needs a python with torch and numpy: sh tests/peer/ratio.sh --setup" 3 ;;
esac
if [ ! -x "$program" ]; then
    cmake -S "$root" -B "$root/build" -DCMAKE_BUILD_TYPE=Release >/dev/null
    cmake --build "$root/build" --parallel "$(nproc)" --target cbdm
fi
mkdir -p "$out/.jobs"
out=$(cd "$out" && pwd)
if [ "$detach" ]; then
    for a in "$@"; do shift; [ "$a" = --detach ] || set -- "$@" "$a"; done
    setsid nohup sh "$self" "$@" >>"$out/experiment.log" 2>&1 </dev/null &
    echo "going on in the background (process $!): tail -f $out/experiment.log"
    exit 0
fi
exec 9>"$out/lock"
flock -n 9 || die "$out: this experiment is running already"

cores=$(nproc)
case $device in cpu|ref*) : "${jobs:=$cores}" ;; *) : "${jobs:=1}" ;; esac
if [ "$jobs" -gt 1 ]; then export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OMP_WAIT_POLICY=passive; fi
export X_OUT="$out" X_DATA="$data" X_PROGRAM="$program" X_PYTHON="$python" X_PRESET="$preset" X_STEPS="$steps" \
    X_DEVICE="$device" X_SWEEP_SEEDS="0-$((sweep_samples - 1))" X_SEEDS="1000000-$((1000000 + samples - 1))" \
    X_QUESTIONS="$questions" \
    X_CLASSIFIER="${classifier:-$out/classifier.safetensors}" X_SAVE X_BATCH X_TRAIN X_CLASSIFIER_FLAGS X_EVAL X_SWEEP \
    X_FINAL

# ---- running work side by side
stop() {
    trap '' INT TERM
    kill -TERM "$workers" 2>/dev/null || true
    for f in "$out"/.jobs/[0-9]*; do [ ! -f "$f" ] || kill -TERM "$(cat "$f")" 2>/dev/null || true; done
    for f in "$out"/.jobs/[0-9]*; do
        while [ -f "$f" ] && kill -0 "$(cat "$f")" 2>/dev/null; do sleep 0.2; done
    done
    echo "stopped; the same command goes on from here" >&2
    exit 75
}

perform() {          # the lines of .jobs/list
    n=$(wc -l <"$out/.jobs/list")
    [ "$n" -gt 0 ] || return 0
    echo "$(date +%H:%M:%S)  $1: $n to do, $jobs at a time"
    rm -f "$out"/.jobs/[0-9]*
    xargs -P "$jobs" -L 1 sh "$self" --item <"$out/.jobs/list" 9>&- &
    workers=$!
    trap stop INT TERM
    wait "$workers" || die "$1: some of it failed; the logs are in $out, and the same command tries again" 1
    trap - INT TERM
}

each() {             # each FUNCTION: FUNCTION ARM SEED for every run, seeds outside, so that pairs finish together
    for seed in $(words "$seeds"); do
        for arm in $(words "$arms"); do
            case $arm in twin-*) case ,$twin_seeds, in *,$seed,*) ;; *) continue ;; esac ;; esac
            "$1" "$arm" "$seed"
        done
    done
}

# ---- train
untrained() { [ -f "$(final_step "$(run_of "$1" "$2")")" ] || echo "train $1 $2"; }

stage_train() {
    each untrained >"$out/.jobs/list"
    perform "training"
}

# ---- classifier
stage_classifier() {
    if [ -f "$X_CLASSIFIER" ]; then : >"$out/.jobs/list"; else echo classifier >"$out/.jobs/list"; fi
    perform "classifier"
}

# ---- eval: the sweep, the choice, the measurement
is_base() { [ "$1" = "$(base_of "$1")" ]; }

unswept() {
    is_base "$1" && [ -z "$(untrained "$1" "$2")" ] || return 0
    for omega in $(words "$omegas"); do
        [ -f "$(sweep_file "$1" "$2" "$omega")" ] || echo "sweep $1 $2 $omega"
    done
}

# The overall FID of a result: the first member "fid" of its object that is a number.
fid_of() {
    fid=$(grep -o '"fid": *-\{0,1\}[0-9][-+.0-9eE]*' "$1" | head -n 1 | sed 's/.*: *//')
    [ -n "$fid" ] || die "$1 holds no FID: remove it, and the same command makes it again" 3
    echo "$fid"
}

# ARM.sweep: a line "omega mean-fid" for each strength, the mean over seeds. ARM.omega: the best of them.
choose() {
    is_base "$1" || return 0
    for omega in $(words "$omegas"); do
        sum=0 n=0
        for seed in $(words "$seeds"); do
            fid=$(fid_of "$(sweep_file "$1" "$seed" "$omega")")
            sum="$sum + $fid" n=$((n + 1))
        done
        awk "BEGIN { printf \"%s %.6g\\n\", \"$omega\", ($sum) / $n }"
    done >"$out/$1.sweep"
    sort -k 2,2g "$out/$1.sweep" | awk 'NR == 1 { print $1 }' >"$out/$1.omega"
    best=$(cat "$out/$1.omega")
    echo "$(date +%H:%M:%S)  $1: guidance $best of $(tr '\n' ';' <"$out/$1.sweep")"
    case $omegas in
        *,"$best") echo "          the best of $1 is the last of --omegas: a stronger one may be better still" ;;
    esac
}

# What a result was drawn with, by its settings: "0-499 ddim 25", the numbers of the images, sampler, steps.
drawn_with() {
    for key in seeds sampler steps; do
        grep -o '"settings": {.*' "$1" | grep -o "\"$key\": *[^,}]*" | head -n 1 | sed 's/.*: *//; s/"//g'
    done | tr '\n' ' ' | sed 's/ $//'
}

# The same of a command's flags, 0 being what `cbdm eval run` takes for no --steps.
to_draw_with() {     # to_draw_with SEEDS FLAGS
    # shellcheck disable=SC2086
    set -- "$1" $2
    seeds_=$1 sampler_=ddim steps_=0
    while shift && [ $# -gt 1 ]; do
        case $1 in --sampler) sampler_=$2 ;; --steps) steps_=$2 ;; esac
    done
    echo "$seeds_ $sampler_ $steps_"
}

# Results of this run that are there and were drawn otherwise: "FILE: 0-499 ddim 25, not 0-499 ddim 10".
other_results() {
    for omega in $(words "$omegas"); do
        for kind in sweep final; do
            case $kind in
                sweep) file=$(sweep_file "$1" "$2" "$omega") want=$(to_draw_with "$X_SWEEP_SEEDS" "$X_SWEEP") ;;
                final) file=$(final_file "$1" "$2" "$omega") want=$(to_draw_with "$X_SEEDS" "$X_FINAL") ;;
            esac
            [ -f "$file" ] || continue
            is=$(drawn_with "$file")
            [ "$is" = "$want" ] || echo "$file: $is, not $want"
        done
    done
}

say_others() {
    each other_results >"$out/.jobs/others"
    [ ! -s "$out/.jobs/others" ] ||
        echo "$(wc -l <"$out/.jobs/others") results were drawn otherwise than asked for now and are kept as they are" \
            "($(head -n 1 "$out/.jobs/others")): remove them, or name another --out"
}

unmeasured() {
    omega=$(cat "$out/$(base_of "$1").omega")
    [ -f "$(final_file "$1" "$2" "$omega")" ] || echo "final $1 $2 $omega"
}

stage_sweep() {
    say_others
    [ -f "$X_CLASSIFIER" ] || die "$X_CLASSIFIER is not here: --stage classifier" 3
    each unswept >"$out/.jobs/list"
    perform "guidance sweep"
}

stage_eval() {
    [ -z "$(each untrained)" ] || die "some runs are not trained to step $steps yet: --stage train" 3
    stage_sweep
    for arm in $(words "$arms"); do choose "$arm"; done
    each unmeasured >"$out/.jobs/list"
    perform "evaluation"
}

# ---- report
# How far a twin's loss lies from ours, line by line of stats.jsonl, beside how far two of our own seeds lie apart.
losses() { sed -n 's/^{"step": \([0-9]*\), "loss": \([^,]*\),.*/\1 \2/p' "$1/stats.jsonl"; }
distance() {
    losses "$2" >"$out/.jobs/other"
    losses "$1" | awk 'NR == FNR { other[$1] = $2; next }
        $1 in other { d = $2 / other[$1] - 1; sum += d < 0 ? -d : d; bias += d; n++ }
        END { if (n) printf "%.2f%% (with signs %+.2f%%; %d lines)", 100 * sum / n, 100 * bias / n, n }' \
        "$out/.jobs/other" -
}

twin_lines() {
    case $1 in twin-*) ;; *) return 0 ;; esac
    base=$(base_of "$1") ours=$(run_of "$(base_of "$1")" "$2") other=
    for seed2 in $(words "$seeds"); do [ "$seed2" = "$2" ] || other=$seed2; done
    echo "- loss of $1-s$2 against $base-s$2, same inputs: apart by $(distance "$(run_of "$1" "$2")" "$ours")"
    [ -z "$other" ] ||
        echo "- loss of $base-s$other against $base-s$2, other inputs: $(distance "$(run_of "$base" "$other")" "$ours")"
}

finals() { final_file "$1" "$2" "$(cat "$out/$(base_of "$1").omega")"; }

asked_metrics() {    # what the questions answer, as `cbdm report` names it
    for pair in fidelity:fidelity diversity:diversity nearest:copy cas:cas; do
        case ",$X_QUESTIONS," in *",${pair%:*},"*|*,all,*) echo "${pair#*:}" ;; esac
    done
}

stage_report() {
    # shellcheck disable=SC2046
    set -- $(each run_of)
    "$program" report "$@" --data "$data" --out "$out/report.html"
    # shellcheck disable=SC2046
    set -- $(each finals)
    {
        echo "# $set_-lt: $steps steps, preset $preset, seeds $seeds"
        say_others
        for arm in $(words "$arms"); do
            is_base "$arm" || continue
            echo
            echo "$arm, FID by guidance (mean over seeds, $sweep_samples images each); chosen: $(cat "$out/$arm.omega")"
            awk '{ print "- omega " $1 ": " $2 }' "$out/$arm.sweep"
        done
        for metric in fid kid recall coverage precision $(asked_metrics); do
            echo
            "$program" report "$@" --table md --metric "$metric" --rows all,many,medium,few
        done
        echo
        each twin_lines
    } >"$out/summary.md.tmp"
    mv "$out/summary.md.tmp" "$out/summary.md"
    cat "$out/summary.md"
    echo "report: $out/report.html"
}

case $stage in
    all) stage_train; stage_classifier; stage_eval; stage_report ;;
    *) "stage_$stage" ;;
esac
