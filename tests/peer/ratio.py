# tests/peer/ratio.py - our training step against PyTorch's, on this machine, in this run, in turns.
#
# Every contestant is a child process that lives through the whole run, warmed up once: our program
# (`cbdm bench-step`) and, for each python with torch, {eager, torch.compile} x {NCHW, channels last}. All get the same
# network, spelt out below, and no step drops its labels. They say "ready" and then answer each line "go K" with the
# seconds per step of K steps; while one runs the others sleep on their pipe. A round is one turn each, so that a slow
# minute of the machine falls on all alike.
# The step: one forward and backward of 2N images, labels [y; y'], float32, clip, Adam, moving average.
# Last line: `ratio R`, R = median of the fastest rival / ours (R > 1: we are faster). Exit 0: measured; 2: could not.
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEBIAN = "/usr/bin/python3"
VENV = os.path.join(ROOT, "build", "peer-venv", "bin", "python")
# glibc gives large blocks back to the kernel at each free and faults them in again at the next allocation, which costs
# a program that allocates every activation anew some per cent. Told to keep them, for every contestant alike.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)}
# The networks of our presets at 32 x 32 pixels, for the ten classes of the built-in data; `full` is the published one.
NETWORKS = {
    "full": dict(ch=128, ch_mult=[1, 2, 2, 2], attn=[1], num_res_blocks=2, groups=32, dropout=0.1, num_class=10),
    "demo": dict(ch=32, ch_mult=[1, 2, 2], attn=[2], num_res_blocks=1, groups=8, dropout=0.0, num_class=10),
}
VARIANTS = ["eager-nchw", "eager-nhwc", "compile-nchw", "compile-nhwc"]
# On a GPU: the published code's way (f32 storage, TF32 convolutions as PyTorch has them by default), and bf16 autocast.
GPU_VARIANTS = ["published-nchw", "amp-nhwc", "ampcompile-nhwc"]


# ---- the rival's side, run by a python that has torch

def serve(variant, preset, batch, threads, device):
    import torch
    import twin
    mode, layout = variant.split("-")
    if device != "cpu":
        torch.backends.cudnn.benchmark = True
        torch.set_default_device(device)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    classes = NETWORKS[preset]["num_class"]
    net = twin.UNet(**NETWORKS[preset]).train()
    x0 = torch.rand(batch, 3, 32, 32) * 2 - 1
    if layout == "nhwc":
        net = net.to(memory_format=torch.channels_last)
        x0 = x0.contiguous(memory_format=torch.channels_last)
    schedule = twin.Schedule().to(device)
    trainer = twin.Trainer(net, schedule, compiled="compile" in mode, amp="amp" in mode)

    def finish():
        if device != "cpu":
            torch.cuda.synchronize()

    def step():
        t, y = torch.randint(schedule.T, (batch,)), torch.randint(classes, (batch,))
        trainer.backward(x0, t, y, torch.randint(classes, (batch,)), torch.randn_like(x0))
        return trainer.update()

    for _ in range(2 if device == "cpu" else 10):
        step()
    finish()
    print("ready torch %s, %s Adam, %d parameters, %d threads" % (
        torch.__version__, trainer.adam_kind, sum(w.numel() for w in trainer.weights), torch.get_num_threads()),
        flush=True)
    for line in sys.stdin:
        count = int(line.split()[1])
        start = time.perf_counter()
        for _ in range(count):
            norm = step()
        finish()
        seconds = (time.perf_counter() - start) / count
        if not bool(torch.isfinite(norm)):
            raise SystemExit("the gradient norm is not finite")
        print("%.9f" % seconds, flush=True)


# ---- the driver's side

class Child:
    """A contestant. start() brings it to "ready"; go(k) is the seconds per step of k steps; both raise Lost."""

    def __init__(self, name, command, env, rival, debian):
        self.name, self.command, self.env, self.rival, self.debian = name, command, env, rival, debian
        self.seconds, self.foreign = [], []            # of each turn: s per step; share of the machine others took
        self.about, self.process, self.log = "", None, tempfile.TemporaryFile("w+")

    def line(self):
        text = self.process.stdout.readline()
        if text:
            return text.strip()
        self.process.wait()
        self.log.seek(0)
        said = [s for s in self.log.read().splitlines() if s.strip()]
        raise Lost("exit %d: %s" % (self.process.returncode, said[-1].strip() if said else "it said nothing"))

    def start(self):
        try:
            self.process = subprocess.Popen(self.command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=self.log, text=True, bufsize=1, cwd=ROOT)
        except OSError as e:
            raise Lost(str(e))
        word = self.line()
        if word.split()[:1] != ["ready"]:
            raise Lost("it said '%s' in place of 'ready'" % word[:60])
        self.about = word[len("ready"):].strip()

    def go(self, steps):
        try:
            self.process.stdin.write("go %d\n" % steps)
            self.process.stdin.flush()
            word = self.line()
            return float(word)
        except (BrokenPipeError, ValueError) as e:
            raise Lost(str(e))

    def turn(self, steps):
        """One turn of a round, with what other processes took of the machine meanwhile."""
        begin, busy, own = time.perf_counter(), busy_seconds(), self.cpu_seconds()
        self.seconds.append(self.go(steps))
        others = busy_seconds() - busy - (self.cpu_seconds() - own)
        self.foreign.append(max(0.0, others) / ((time.perf_counter() - begin) * os.cpu_count()))

    def cpu_seconds(self):
        with open("/proc/%d/stat" % self.process.pid) as f:
            field = f.read().rsplit(")", 1)[1].split()
        return (int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self):
        """Most memory this process ever held, in MiB."""
        with open("/proc/%d/status" % self.process.pid) as f:
            return next((int(s.split()[1]) / 1024 for s in f if s.startswith("VmHWM")), float("nan"))

    def stop(self):
        if self.process is None:
            return
        try:
            self.process.stdin.close()
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


class Lost(Exception):
    pass


def torch_version(python):
    """Version string, or None where this python cannot import torch."""
    try:
        r = subprocess.run([python, "-c", "import torch; print(torch.__version__, hasattr(torch, 'compile'))"],
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return r.stdout.split() if r.returncode == 0 and len(r.stdout.split()) == 2 else None


def our_command(a):
    p = NETWORKS[a.preset]
    flags = {"batch": a.batch, "ch": p["ch"], "ch-mult": ",".join(map(str, p["ch_mult"])), "dropout": p["dropout"],
             "attn": ",".join(map(str, p["attn"])), "res-blocks": p["num_res_blocks"], "groups": p["groups"],
             "classes": p["num_class"], "image-size": 32, "data": "builtin", "label-drop": 0, "device": a.device}
    if a.kernel:
        flags["kernel"] = a.kernel
    return [a.program, "bench-step"] + [word for k, v in flags.items() for word in ("--" + k, str(v))]


def contestants(a, env):
    """Ours first, then every rival that this machine can run. Exits with 2 where one side is missing."""
    out = []
    if not a.rivals_only:
        if not os.access(a.program, os.X_OK):
            stop("no program at %s: build it first (cmake -S . -B build && cmake --build build)" % a.program)
        out.append(Child("cbdm", our_command(a), env, False, False))
    pythons = a.python or ([DEBIAN] + ([VENV] if os.path.exists(VENV) else []) if a.device == "cpu" else
                           [shutil.which("python3")])
    for python in pythons:
        version = torch_version(python)
        if version is None:
            print("no torch in %s: left out" % python)
            continue
        for variant in VARIANTS if a.device == "cpu" else GPU_VARIANTS:
            if (variant.startswith("compile") and version[1] != "True") or (a.variants and variant not in a.variants):
                continue
            command = [python, "-B", os.path.abspath(__file__), "--serve", variant, "--preset", a.preset,
                       "--batch", str(a.batch), "--threads", str(a.threads), "--device", a.device]
            out.append(Child("torch %s %s" % (version[0].split("+")[0], variant), command, env, True,
                             os.path.realpath(python) == os.path.realpath(DEBIAN)))
    if not any(c.rival for c in out):
        stop("no python here can import torch: apt-get install python3-torch, or sh tests/peer/ratio.sh --setup")
    return out


def stop(message):
    print("ratio: " + message, file=sys.stderr)
    sys.exit(2)


def busy_seconds():
    """Processor time that all processes, and a host above this machine, have taken since it started."""
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def available_mb():
    with open("/proc/meminfo") as f:
        return next(int(s.split()[1]) / 1024 for s in f if s.startswith("MemAvailable"))


def warm_up(children):
    """Starts them one after another; returns those that run. A rival that fails is named and left out."""
    alive, largest = [], 0.0
    for c in children:
        if c.rival and available_mb() < 1.2 * largest:
            print("left out: %s (%.0f MiB of memory free, the last took %.0f)" % (c.name, available_mb(), largest))
            continue
        begin = time.perf_counter()
        try:
            c.start()
            c.go(1)
        except Lost as e:
            if not c.rival:
                stop("our program failed: %s" % e)
            print("left out: %s (%s)" % (c.name, e))
            continue
        largest = max(largest, c.peak_mb())
        print("ready after %3.0f s: %s%s" % (time.perf_counter() - begin, c.name, " (%s)" % c.about if c.about else ""),
              flush=True)
        alive.append(c)
    return alive


def median_ms(child):
    return 1e3 * statistics.median(child.seconds)


def report(children, a):
    """The table and, with our program in it, the ratio lines."""
    ours = next((c for c in children if not c.rival), None)
    passes = 2 * a.batch
    print("\n%-32s %9s %9s %19s %9s %7s %7s" % (
        "", "ms/step", "ms/image", "min .. max", "peak MiB", "others", "/ ours"))
    for c in children:
        print("%-32s %9.1f %9.2f %9.1f %9.1f %9.0f %6.0f%% %7s" % (
            c.name, median_ms(c), median_ms(c) / passes, 1e3 * min(c.seconds), 1e3 * max(c.seconds), c.peak_mb(),
            100 * statistics.median(c.foreign), "%.3f" % (median_ms(c) / median_ms(ours)) if ours else "-"))
    if max(statistics.median(c.foreign) for c in children) > 0.05:
        print("others used more than 5 % of the machine: on a quiet one the numbers will differ")
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"machine": machine(), "preset": a.preset, "batch": a.batch, "threads": a.threads, "rows": [
                {"name": c.name, "ms_per_step": [1e3 * s for s in c.seconds], "median_ms": median_ms(c),
                 "others": c.foreign, "peak_mib": c.peak_mb(), "about": c.about} for c in children]}, f, indent=1)
            f.write("\n")
    if ours is None:
        return
    rivals = [c for c in children if c.rival]
    debian = [c for c in rivals if c.debian and "eager" in c.name]
    best = min(rivals, key=median_ms)
    each = sorted(r / o for r, o in zip(best.seconds, ours.seconds))
    print("\nfastest rival: %s; ratio per round %.3f .. %.3f" % (best.name, each[0], each[-1]))
    print("ratio-debian-eager %s" % ("%.3f" % (min(map(median_ms, debian)) / median_ms(ours)) if debian else "-"))
    print("ratio %.3f" % (median_ms(best) / median_ms(ours)))


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((s.split(":", 1)[1].strip() for s in f if s.startswith("model name")), platform.machine())
    return "%s, %d cores" % (model, os.cpu_count())


def main():
    p = argparse.ArgumentParser(prog="ratio.sh")
    p.add_argument("--preset", choices=["full", "demo"], default="full")
    p.add_argument("--batch", type=int, default=8, help="N; a step passes 2N images through the network")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=0, help="steps per turn (default: 2 of full, 10 of demo)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--python", nargs="+", default=[], help="pythons with torch (default: Debian's and build/peer-venv)")
    p.add_argument("--device", default="cpu", help="cpu, or cuda: ours in bf16 beside PyTorch in f32 and bf16")
    p.add_argument("--variants", nargs="+", choices=VARIANTS + GPU_VARIANTS, default=[], help="only these rivals")
    p.add_argument("--program", default=os.path.join(ROOT, "build", "cbdm"))
    p.add_argument("--kernel", default="", help="our program's --kernel")
    p.add_argument("--rivals-only", action="store_true", help="PyTorch alone: a table, no ratio")
    p.add_argument("--json", metavar="PATH", help="also write every turn's time there")
    p.add_argument("--serve", metavar="VARIANT", help=argparse.SUPPRESS)
    a = p.parse_args()
    if min(a.batch, a.rounds, a.threads) < 1:
        stop("--batch, --rounds and --threads must be at least 1")
    if a.serve:
        serve(a.serve, a.preset, a.batch, a.threads, a.device)
        return 0
    cache = tempfile.mkdtemp(prefix="cbdm-peer-")
    env = dict(os.environ, OMP_NUM_THREADS=str(a.threads), TORCHINDUCTOR_CACHE_DIR=cache, **KEEP_MEMORY)
    steps = a.steps or (2 if a.preset == "full" else 10)
    children = []
    try:
        children = contestants(a, env)
        print("%s; load %.2f; preset %s, batch %d (%d image passes), %d threads, %d rounds of %d steps" % (
            machine(), os.getloadavg()[0], a.preset, a.batch, 2 * a.batch, a.threads, a.rounds, steps), flush=True)
        alive = warm_up(children)
        if not any(c.rival for c in alive):
            stop("no rival came up: see the lines above")
        for _ in range(a.rounds):
            for c in alive:
                c.turn(steps)
        report(alive, a)
    except Lost as e:
        stop("a contestant was lost during the rounds: %s" % e)
    finally:
        for c in children:
            c.stop()
        shutil.rmtree(cache, ignore_errors=True)
    return 0


sys.exit(main())
