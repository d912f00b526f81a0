# tests/peer/classifier_ratio.py - our classifier's training step and forward pass against PyTorch's, in turns.
#
# usage: python3 classifier_ratio.py [--python PY] [--depth 32] [--width 16] [--batch 128] [--threads 1] [--rounds 5]
# Every contestant is a child process, warmed up once: `cbdm eval train-classifier --bench` on the built-in images, and
# PyTorch (classifier_twin.py) with NCHW and with channels last, float32, same network, batch and threads. While one
# runs the others sleep on their pipe; a round is one turn each. PY: a python that has torch (default: build/peer-venv,
# else this one). Last lines: `ratio go R` (a step: forward, backward, SGD) and `ratio run R` (forward), R = median of
# the faster rival / ours; R > 1: we are faster. Exit 0: measured; 2: could not.
import argparse
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
VENV = os.path.join(ROOT, "build", "peer-venv", "bin", "python")
# glibc keeps large blocks instead of faulting them in at every step, for every contestant alike.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)}


def serve(layout, a):
    import torch
    import classifier_twin
    torch.set_num_threads(a.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    net = classifier_twin.ResNet(a.depth, a.width, 3, 10)
    x, y = torch.randn(a.batch, 3, 32, 32), torch.arange(a.batch) % 10
    if layout == "nhwc":
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    step = classifier_twin.trainer(net)
    print("ready", flush=True)
    for line in sys.stdin:
        what, count = line.split()
        net.train(what == "go")
        begin = time.perf_counter()
        for _ in range(int(count)):
            if what == "go":
                step(x, y, 0.1)
            else:
                with torch.no_grad():
                    net(x)
        print("%.9f" % ((time.perf_counter() - begin) / int(count)), flush=True)


class Child:
    def __init__(self, name, command, env):
        self.name, self.seconds = name, {"go": [], "run": []}
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        bufsize=1, cwd=HERE)
        self.line()

    def line(self):
        text = self.process.stdout.readline()
        if not text:
            stop("%s ended: exit %d" % (self.name, self.process.wait()))
        return text.strip()

    def turn(self, what, count):
        self.process.stdin.write("%s %d\n" % (what, count))
        return float(self.line())


def stop(message):
    print("classifier_ratio: " + message, file=sys.stderr)
    sys.exit(2)


def has_torch(python):
    try:
        return subprocess.run([python, "-c", "import torch, numpy"], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--depth", type=int, default=32)
    p.add_argument("--width", type=int, default=16)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--program", default=os.path.join(ROOT, "build", "cbdm"))
    p.add_argument("--python", default=VENV if os.path.exists(VENV) else sys.executable)
    p.add_argument("--serve", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.serve:
        return serve(a.serve, a)
    if not os.access(a.program, os.X_OK):
        stop("no program at %s: build it first (cmake -S . -B build && cmake --build build)" % a.program)
    if not has_torch(a.python):
        stop("%s has no torch and numpy: sh tests/peer/ratio.sh --setup, or name one with --python" % a.python)
    env = dict(os.environ, OMP_NUM_THREADS=str(a.threads), **KEEP_MEMORY)
    shape = ["--depth", str(a.depth), "--width", str(a.width), "--batch", str(a.batch)]
    ours = Child("cbdm", [os.path.abspath(a.program), "eval", "train-classifier", "--data", "builtin", "--bench",
                          "--device", "cpu"] + shape, env)
    rivals = [Child("torch " + layout, [a.python, "-B", os.path.abspath(__file__), "--serve", layout, "--threads",
                                        str(a.threads)] + shape, env) for layout in ("nchw", "nhwc")]
    children = [ours] + rivals
    for what in ("go", "run"):
        for c in children:
            c.turn(what, 1)
        for _ in range(a.rounds):
            for c in children:
                c.seconds[what].append(c.turn(what, 2))
    print("resnet%d, width %d, 32x32x3, batch %d, %d threads; load %.1f" % (a.depth, a.width, a.batch, a.threads,
                                                                         os.getloadavg()[0]))
    for what in ("go", "run"):
        for c in children:
            s = c.seconds[what]
            print("%-4s %-12s %8.1f images/s  (%.1f .. %.1f)" % (what, c.name, a.batch / statistics.median(s),
                                                                a.batch / max(s), a.batch / min(s)))
        best = min(statistics.median(c.seconds[what]) for c in rivals)
        print("ratio %s %.3f" % (what, best / statistics.median(ours.seconds[what])))
    for c in children:
        c.process.stdin.close()
        c.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
