# tests/peer/check_training.py - our trainer and the PyTorch twin from the same weights on the same inputs, by steps.
#
# usage: PYTHON tests/peer/check_training.py [--program build/cbdm] [--steps 20] [flags of cbdm train]
# Both train a prepared run (see train_twin.py) and log every step. Total loss, denoising loss and gradient norm must
# agree to 1e-4, relative, in each of these steps: nothing but rounding is between the two, and it has had no time to
# grow. Then the twin is stopped half-way and started again: its weights must be the same. Exit 0: all agree; 1: not;
# 2: cannot be done.
import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 1e-4
DEMO = ["--preset", "demo", "--imb-factor", "0.01", "--objective", "cbdm", "--tau", "1", "--preview-every", "0"]


def run(*command):
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print("check_training: %s\n%s" % (" ".join(command[:4]), done.stderr[-2000:]), file=sys.stderr)
        sys.exit(2)


def stats(folder):
    with open(os.path.join(folder, "stats.jsonl")) as f:
        return {line["step"]: line for line in map(json.loads, f) if "loss" in line}


def same_weights(a, b):
    import tensors
    import torch
    x, y = (tensors.load(path)[0] for path in (a, b))
    return list(x) == list(y) and all(torch.equal(x[k], y[k]) for k in x)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default=os.path.join(HERE, "..", "..", "build", "cbdm"))
    parser.add_argument("--steps", type=int, default=20)
    a, flags = parser.parse_known_args()
    os.environ["OMP_NUM_THREADS"] = "1"              # one order of PyTorch's sums, with and without a stop
    flags = DEMO + flags + ["--log-every", "1", "--save-every", str(a.steps)]
    twin = [sys.executable, "-B", os.path.join(HERE, "train_twin.py"), "--program", a.program]
    with tempfile.TemporaryDirectory() as folder:
        ours, whole, halves = (os.path.join(folder, n) for n in ("ours", "whole", "halves"))
        for path in (ours, whole, halves):
            run(a.program, "train", *flags, "--device", "cpu", "--prepare", "--out", path)
        run(a.program, "train", "--resume", ours, "--steps", str(a.steps), "--device", "cpu")
        run(*twin, "--stop", str(a.steps), whole)
        run(*twin, "--stop", str(a.steps // 2), halves)
        run(*twin, "--stop", str(a.steps), halves)
        got, want = stats(whole), stats(ours)
        worst = {k: max(abs(got[s][k] / want[s][k] - 1) for s in range(1, a.steps + 1))
                 for k in ("loss", "denoising", "grad_norm")}
        last = "checkpoints/step-%09d.safetensors" % a.steps
        resumed = same_weights(os.path.join(whole, last), os.path.join(halves, last))
    for key, error in worst.items():
        print("%-10s %.1e of %d steps (limit %.0e)" % (key, error, a.steps, LIMIT))
    print("stopped and started again: %s" % ("the same" if resumed else "not the same"))
    return 0 if resumed and all(e <= LIMIT for e in worst.values()) else 1


sys.exit(main())
