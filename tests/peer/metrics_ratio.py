# tests/peer/metrics_ratio.py - the metrics of two feature sets: our program against the numpy/scipy way, on this
# machine, in this run, in turns.
#
#   python3 tests/peer/metrics_ratio.py [--n 5000] [--rounds 3] [--parts fid,kid,prdc,prd,mind] [--program build/cbdm]
#
# Two synthetic sets of n x 2048 floats, not negative, correlated, in ten clusters. Each part is a process of its own,
# on either side, with the same number of threads; a round is one turn of every part of both sides, so that a slow
# minute of the machine falls on all alike. Ours is `cbdm eval metrics` without the other parts, reading the files
# included; `all` is one run with all parts. Theirs is timed without the start of Python and without reading the files,
# and is what people run, at its best: np.cov and scipy.linalg.sqrtm; polynomial kernels, and Gram distances with
# np.partition, in double (as the published code and prdc do) but in blocks of rows, so that n = 50000 fits into memory;
# scikit-learn's MiniBatchKMeans; float32 products and np.sort for MIND. Seconds are medians over the rounds, of wall
# time and of processor time: on a machine with other work the latter is the fairer. The numbers themselves must agree.
# Exit 0: measured; 1: the sides disagree; 2: could not.
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PARTS = ["fid", "kid", "prdc", "prd", "mind"]
DIM, CLUSTERS, RUNS, ANGLES, DIRECTIONS, ROWS = 2048, 200, 10, 1001, 1000, 2048


def stop(message):
    print("metrics_ratio: " + message, file=sys.stderr)
    sys.exit(2)


# ---- the sets
def write_set(np, path, n, seed, spread):
    shape, draw = np.random.default_rng(0), np.random.default_rng(seed)
    mixing = shape.standard_normal((64, DIM), dtype=np.float32) * np.float32(0.06)
    centre = np.abs(shape.standard_normal((10, 64), dtype=np.float32))
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, DIM))
    for begin in range(0, n, ROWS):
        rows = min(ROWS, n - begin)
        hidden = centre[draw.integers(0, 10, rows)] + draw.standard_normal((rows, 64), dtype=np.float32) * spread
        noise = draw.standard_normal((rows, DIM), dtype=np.float32) * np.float32(0.25)
        out[begin:begin + rows] = np.maximum(hidden.astype(np.float32) @ mixing + noise + np.float32(0.3), 0)


# ---- the rival's side
def blocks(n):
    return [slice(b, min(b + ROWS, n)) for b in range(0, n, ROWS)]


def rival_fid(np, gen, ref):
    from scipy.linalg import sqrtm
    mean, cov = [], []
    for x in (gen, ref):
        x = x.astype(np.float64)
        mean.append(x.mean(axis=0))
        cov.append(np.cov(x, rowvar=False))
    root = np.real(sqrtm(cov[0] @ cov[1]))
    return {"fid": float(((mean[0] - mean[1]) ** 2).sum() + np.trace(cov[0]) + np.trace(cov[1]) - 2 * np.trace(root))}


def rival_kid(np, gen, ref):
    def kernel_sum(x, y, skip_diagonal):
        total = 0.0
        for b in blocks(len(x)):
            k = (x[b] @ y.T / DIM + 1) ** 3
            total += k.sum() - (np.trace(k[:, b]) if skip_diagonal else 0)
        return total
    x, y = gen.astype(np.float64), ref.astype(np.float64)
    n, m = len(x), len(y)
    return {"kid": float(kernel_sum(x, x, True) / (n * (n - 1)) + kernel_sum(y, y, True) / (m * (m - 1)) -
                         2 * kernel_sum(x, y, False) / (n * m))}


def rival_prdc(np, gen, ref):
    def distances(x, x2, b, y, y2):
        d = x[b] @ y.T
        d *= -2
        d += x2[b, None]
        d += y2
        np.maximum(d, 0, out=d)
        return np.sqrt(d, out=d)

    def radii(x, x2):
        out = np.empty((len(x), 2))
        for b in blocks(len(x)):
            d = distances(x, x2, b, x, x2)
            d[np.arange(len(d)), np.arange(b.start, b.stop)] = 0
            out[b] = np.partition(d, (3, 5), axis=1)[:, (3, 5)]
        return out
    x, y = ref.astype(np.float64), gen.astype(np.float64)
    x2, y2 = (x * x).sum(axis=1), (y * y).sum(axis=1)
    of_x, of_y = radii(x, x2), radii(y, y2)
    precise, inside = np.zeros((2, len(y)), bool), [0, 0]
    recalled, covered = np.zeros((2, len(x)), bool), np.zeros((2, len(x)), bool)
    for b in blocks(len(x)):
        d = distances(x, x2, b, y, y2)
        for q in range(2):
            within = d < of_x[b, q, None]
            precise[q] |= within.any(axis=0)
            inside[q] += int(within.sum())
            covered[q, b] = within.any(axis=1)
            recalled[q, b] = (d < of_y[:, q]).any(axis=1)
    return {"pr%d" % k: {"precision": float(precise[q].mean()), "recall": float(recalled[q].mean()),
                         "density": inside[q] / (k * len(y)), "coverage": float(covered[q].mean())}
            for q, k in enumerate((3, 5))}


def rival_prd(np, gen, ref):
    from sklearn.cluster import MiniBatchKMeans
    both, curves = np.concatenate([gen, ref]), []
    slope = np.tan(np.linspace(1e-10, np.pi / 2 - 1e-10, ANGLES))[:, None]
    for seed in range(RUNS):
        label = MiniBatchKMeans(n_clusters=CLUSTERS, n_init=10, random_state=seed).fit(both).labels_
        g = np.bincount(label[:len(gen)], minlength=CLUSTERS) / len(gen)
        r = np.bincount(label[len(gen):], minlength=CLUSTERS) / len(ref)
        precision = np.minimum(slope * r, g).sum(axis=1)
        curves.append((precision, precision / slope[:, 0]))
    p, r = np.mean(curves, axis=0)

    def f(b2):
        return float(((1 + b2) * p * r / (b2 * p + r + 1e-10)).max())
    return {"prd_f8": f(64), "prd_f1_8": f(1 / 64)}


def rival_mind(np, gen, ref):
    u = np.random.default_rng(0).standard_normal((DIM, DIRECTIONS), dtype=np.float32)
    u /= np.linalg.norm(u, axis=0)
    a, b = np.sort(gen @ u, axis=0), np.sort(ref @ u, axis=0)
    return {"mind": float(3 * DIM * ((a - b) ** 2).mean(dtype=np.float64))}


def serve(part, folder):
    """One part, in this process: prints its numbers and its seconds as JSON."""
    import numpy as np
    import scipy.linalg
    if part == "prd":
        import sklearn.cluster
    gen, ref = (np.load(os.path.join(folder, name)) for name in ("gen.npy", "ref.npy"))
    wall, cpu = time.perf_counter(), time.process_time()
    out = globals()["rival_" + part](np, gen, ref)
    out.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu,
               mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(out))


# ---- the driver's side
def run_rival(a, folder, part):
    r = subprocess.run([a.python, "-B", os.path.abspath(__file__), "--serve", part, folder], env=a.env,
                       stdout=subprocess.PIPE, text=True)
    if r.returncode != 0:
        stop("%s on the rival's side ended with status %d" % (part, r.returncode))
    return json.loads(r.stdout)


def run_ours(a, folder, part):
    result = os.path.join(folder, "ours.json")
    skip = [p for p in PARTS + ["is"] if part != p and (part != "all" or p not in a.parts)]
    command = [a.program, "eval", "metrics", "--gen", os.path.join(folder, "gen.npy"), "--ref",
               os.path.join(folder, "ref.npy"), "--skip", ",".join(skip), "--bootstrap", "0", "--prd-clusters",
               str(CLUSTERS), "--prd-runs", str(RUNS), "--mind-directions", str(DIRECTIONS), "--json", result]
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=a.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        stop("%s: %s" % (" ".join(command), said.strip().splitlines()[-1] if said.strip() else "status %d" % status))
    with open(result) as f:
        out = json.load(f)
    out.update(wall=time.perf_counter() - begin, cpu=usage.ru_utime + usage.ru_stime, mib=usage.ru_maxrss / 1024)
    return out


def agree(part, ours, theirs):
    """An empty list, or what differs. PRD and MIND draw at random on both sides: to 0.01, and to a tenth."""
    said = []
    for name, value in theirs.items():
        if name in ("wall", "cpu", "mib"):
            continue
        if isinstance(value, dict):
            bad = any(ours[name][m] != v for m, v in value.items())
        elif part == "prd":
            bad = abs(ours[name] - value) > 0.01
        else:
            bad = abs(ours[name] - value) > (0.1 if part == "mind" else 1e-6) * abs(value)
        if bad:
            said.append("%s: ours %s, theirs %s" % (name, ours[name], value))
    return said


def missing(python, parts):
    """Names of the packages that the rival's python lacks."""
    need = ["numpy", "scipy"] + (["sklearn"] if "prd" in parts else [])
    return [m for m in need if subprocess.run([python, "-c", "import " + m], stderr=subprocess.DEVNULL).returncode]


def report(a, ours, theirs):
    def median(turns, what):
        return statistics.median(t[what] for t in turns)
    print("\n%-8s%30s%30s%18s" % ("", "cbdm", "numpy/scipy", "ratio"))
    print("%-8s%10s%10s%10s%10s%10s%10s%9s%9s" % (("seconds",) + ("wall", "cpu", "MiB") * 2 + ("wall", "cpu")))
    sums, order = {"wall": 0.0, "cpu": 0.0, "mib": 0.0}, a.parts + ["all"]
    for part in order:
        mine = {w: median(ours[part], w) for w in sums}
        if part == "all":
            other = sums
        else:
            other = {w: median(theirs[part], w) for w in sums}
            sums = {w: max(sums[w], other[w]) if w == "mib" else sums[w] + other[w] for w in sums}
        print("%-8s%10.2f%10.2f%10.0f%10.2f%10.2f%10.0f%9.2f%9.2f" % (
            part, mine["wall"], mine["cpu"], mine["mib"], other["wall"], other["cpu"], other["mib"],
            other["wall"] / mine["wall"], other["cpu"] / mine["cpu"]))
    print("\nall: of the rival the sum of its parts\nratio %.2f wall, %.2f cpu" % (
        sums["wall"] / median(ours["all"], "wall"), sums["cpu"] / median(ours["all"], "cpu")))


def main():
    p = argparse.ArgumentParser(description="metrics of two feature sets: cbdm against numpy/scipy")
    p.add_argument("--n", type=int, default=5000, help="rows of each set; 50000 is the full problem")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--program", default=os.path.join(ROOT, "build", "cbdm"))
    p.add_argument("--python", default=sys.executable, help="the rival's; with numpy, scipy and scikit-learn")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--serve", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.serve:
        return serve(*a.serve)
    a.parts = a.parts.split(",")
    if any(part not in PARTS for part in a.parts):
        stop("--parts: of " + ", ".join(PARTS))
    if not os.access(a.program, os.X_OK):
        stop("no program at %s: build it first (cmake -S . -B build && cmake --build build)" % a.program)
    lacks = missing(a.python, a.parts)
    if lacks:
        stop("%s lacks %s: %s -m pip install numpy scipy scikit-learn, or --python with one that has them, or fewer "
             "--parts (only prd needs sklearn)" % (a.python, " and ".join(lacks), a.python))
    import numpy as np
    a.env = dict(os.environ, OMP_WAIT_POLICY="passive")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        a.env[name] = str(a.threads)
    versions = subprocess.run([a.python, "-c", "import numpy, scipy; print('numpy', numpy.__version__, 'scipy', "
                               "scipy.__version__)"], stdout=subprocess.PIPE, text=True).stdout.strip()
    print("two sets of %d x %d, %d threads on %d cores, load %.2f; %s; %d rounds; PRD with %d clusters, %d runs" % (
        a.n, DIM, a.threads, os.cpu_count(), os.getloadavg()[0], versions, a.rounds, CLUSTERS, RUNS), flush=True)
    ours, theirs, said = {part: [] for part in a.parts + ["all"]}, {part: [] for part in a.parts}, []
    with tempfile.TemporaryDirectory() as folder:
        write_set(np, os.path.join(folder, "gen.npy"), a.n, 1, 1.1)
        write_set(np, os.path.join(folder, "ref.npy"), a.n, 2, 1.0)
        for _ in range(a.rounds):
            for part in a.parts:
                ours[part].append(run_ours(a, folder, part))
                theirs[part].append(run_rival(a, folder, part))
                said += agree(part, ours[part][-1], theirs[part][-1])
            ours["all"].append(run_ours(a, folder, "all"))
    report(a, ours, theirs)
    for line in said:
        print("DISAGREES: " + line)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
