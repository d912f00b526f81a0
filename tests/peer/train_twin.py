# tests/peer/train_twin.py - trains the PyTorch twin as a run of its own, on the inputs of one of ours.
#
# usage: PYTHON tests/peer/train_twin.py [--program build/cbdm] [--stop STEP] RUN
# RUN was made by `cbdm train ... --out RUN --prepare`: its checkpoint of step 0 holds the initial weights and the
# configuration. Images, labels, times and noise of each step come from `cbdm data batches`, so that the twin differs
# from the run of the same flags by PyTorch's arithmetic alone. It leaves what our trainer leaves: stats.jsonl, and
# checkpoints with weights, averages and moments that `cbdm sample`, `cbdm eval` and `cbdm train --resume` open. Killed
# and started again it goes on from the newest checkpoint. Threads: OMP_NUM_THREADS. Exit 0: done; 2: cannot be done.
import argparse
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

try:
    import numpy as np
    import torch
except ImportError as e:
    print("train_twin: %s cannot import %s: take a python that has torch and numpy" % (sys.executable, e.name),
          file=sys.stderr)
    sys.exit(2)
import tensors
import twin

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STATE = struct.Struct("<IIIiqqff")        # StepState: seed[2], step, sampler row, updates, skipped, lr, gradient norm
CHUNK = 100                               # steps whose inputs are fetched at once


class Unable(Exception):
    pass


def newest_checkpoint(run):
    folder = os.path.join(run, "checkpoints")
    try:
        found = sorted(f for f in os.listdir(folder) if re.fullmatch(r"step-\d{9,}\.safetensors", f))
    except OSError as e:
        raise Unable(str(e))
    if not found:
        raise Unable("%s holds no checkpoint: make it with `cbdm train ... --out %s --prepare`" % (folder, run))
    return [os.path.join(folder, f) for f in found]


def supported(config):
    """The twin has no dropout stream, no micro-batches, no bf16 and drops no single labels; these runs cannot be
    followed number by number."""
    for name, value in (("dropout", 0), ("micro-batch", 0), ("dtype", "f32"), ("augment-input", False),
                        ("label-drop-by", "batch")):
        if config.get(name, value) != value:
            raise Unable("--%s %s: the twin follows runs with %s only" % (name, config[name], value))


def build(config):
    numbers = lambda name: [int(v) for v in config[name].split(",") if v]
    net = twin.UNet(ch=config["ch"], ch_mult=numbers("ch-mult"), attn=numbers("attn"),
                    num_res_blocks=config["res-blocks"], num_class=config["classes"], T=config["T"],
                    in_channels=config["in-channels"], groups=config["groups"])
    trainer = twin.Trainer(net, twin.Schedule(config["beta-1"], config["beta-T"], config["T"]), tau=config["tau"],
                           gamma=config["gamma"], lr=config["lr"], grad_clip=config["grad-clip"] or float("inf"))
    group = trainer.optimiser.param_groups[0]
    group["betas"], group["eps"] = (config["beta1"], config["beta2"]), config["adam-eps"]
    return trainer


class Run:
    """The twin in training, and the folder it is kept in."""

    def __init__(self, folder, program):
        self.folder, self.program = folder, program
        found = newest_checkpoint(folder)
        values, self.meta = tensors.load(found[-1])
        self.config = json.loads(self.meta["config"])
        supported(self.config)
        self.trainer = build(self.config)
        self.names = [n for n in values if "ema." + n in values]
        self.load(values)
        self.step = int(self.meta["step"])
        self.sums = [float.fromhex(v) if i < 3 else int(v) for i, v in enumerate(self.meta["loop"].split())]
        self.rewind_stats()

    def rewind_stats(self):
        """Drops the lines of steps that come again."""
        path = os.path.join(self.folder, "stats.jsonl")
        with open(path, "a+") as f:
            f.seek(0)
            kept = [s for s in f if s.endswith("\n") and json.loads(s)["step"] <= self.step]
            f.truncate(0)
            f.writelines(kept)

    def parameters(self, net):
        found = dict(net.named_parameters())
        return [(name, found[name]) for name in self.names]

    def load(self, values):
        learned = {n for n, p in self.trainer.net.named_parameters() if p.requires_grad}
        if learned != set(self.names):
            raise Unable("the checkpoint's network is not the twin's: %s" % sorted(learned ^ set(self.names))[:3])
        with torch.no_grad():
            for name, p in self.parameters(self.trainer.net):
                p.copy_(values[name])
            for name, p in self.parameters(self.trainer.ema):
                p.copy_(values["ema." + name])
        for i, (name, p) in enumerate(self.parameters(self.trainer.net)):
            count = int(values["adam_count"][i])
            if count:
                self.trainer.optimiser.state[p] = {"step": torch.tensor(float(count)),
                                                   "exp_avg": values["adam_m." + name],
                                                   "exp_avg_sq": values["adam_v." + name]}
                p.grad = torch.zeros_like(p)
        self.state = list(STATE.unpack(bytes(values["state"].tolist())))

    def save(self):
        out, count = {}, []
        for name, p in self.parameters(self.trainer.net):
            out[name] = p
        for name, p in self.parameters(self.trainer.ema):
            out["ema." + name] = p
        for key, prefix in (("exp_avg", "adam_m."), ("exp_avg_sq", "adam_v.")):
            for name, p in self.parameters(self.trainer.net):
                out[prefix + name] = self.trainer.optimiser.state[p].get(key, torch.zeros_like(p))
        for name, p in self.parameters(self.trainer.net):
            count.append(int(self.trainer.optimiser.state[p].get("step", 0)))
        out["adam_count"] = torch.tensor(count, dtype=torch.int64)
        out["state"] = torch.tensor(list(STATE.pack(*self.state)), dtype=torch.uint8)
        meta = {k: v for k, v in self.meta.items() if k not in ("writer", "crc32c")}
        meta.update(step=str(self.step), program="torch %s" % torch.__version__,
                    machine="PyTorch, %d threads" % torch.get_num_threads(),
                    loop=" ".join([float(v).hex() for v in self.sums[:3]] + [str(v) for v in self.sums[3:]]))
        tensors.save(os.path.join(self.folder, "checkpoints", "step-%09d.safetensors" % self.step), out, meta)
        for path in newest_checkpoint(self.folder)[:-self.config["keep"] or None]:
            os.remove(path)

    def fetch(self, count):
        """The inputs of the next `count` steps."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "batches.npz")
            made = subprocess.run([self.program, "data", "batches", "--run", self.folder, "--from", str(self.step),
                                   "--count", str(count), "--output", path], stderr=subprocess.PIPE, text=True)
            if made.returncode:
                raise Unable(made.stderr.strip())
            with np.load(path) as z:
                return {k: z[k] for k in z.files}

    def advance(self, batch, k):
        """One step. Returns (total, denoising, balancing) losses and the gradient norm."""
        c, t = self.config, self.trainer
        x0, noise = (torch.from_numpy(batch[n][k]).permute(0, 3, 1, 2).contiguous() for n in ("x0", "noise"))
        time, y, other = (torch.from_numpy(batch[n][k]).long() for n in ("t", "y", "y_balanced"))
        dropped = bool(batch["dropped"][k])
        ddpm, reg, _, _ = t.backward(x0, time, None if dropped else y,
                                     other if c["objective"] == "cbdm" and not dropped else None, noise,
                                     keep_zeros=True)
        s = self.state[4]
        lr = c["lr"] * (s / c["warmup"] if s < c["warmup"] else 1)
        t.optimiser.param_groups[0]["lr"] = lr
        t.decay = min(c["ema-decay"], (1 + s) / (10 + s)) if c["ema-ramp"] else c["ema-decay"]
        norm = t.update().item()
        ddpm, reg = ddpm.item(), reg.item()
        if not np.isfinite(ddpm + reg + norm):
            raise Unable("step %d: the loss or its gradient is not finite" % self.step)
        self.step += 1
        self.state[2], self.state[3] = self.state[2] + 1, self.state[3] + 1
        self.state[4], self.state[6], self.state[7] = s + 1, lr, norm
        return (ddpm + reg, ddpm, reg), norm

    def log(self, losses, f, seconds):
        for i in range(3):
            self.sums[i] += losses[i]
        self.sums[3] += 1
        if self.step % self.config["log-every"]:
            return False
        n, (total, ddpm, reg) = self.sums[3], self.sums[:3]
        f.write('{"step": %d, "loss": %.9g, "denoising": %.9g, "balancing": %.9g, "grad_norm": %.9g, "lr": %.9g, '
                '"skipped": 0, "images_per_second": %.4g}\n'
                % (self.step, total / n, ddpm / n, reg / n, self.state[7], self.state[6],
                   n * self.config["batch"] / seconds))
        f.flush()
        self.sums[:4] = [0.0, 0.0, 0.0, 0]
        return True

    def train(self, stop):
        with open(os.path.join(self.folder, "stats.jsonl"), "a") as f:
            start = time.monotonic()
            while self.step < stop:
                count = min(CHUNK, stop - self.step)
                batch = self.fetch(count)
                for k in range(count):
                    losses, norm = self.advance(batch, k)
                    if self.log(losses, f, time.monotonic() - start):
                        start = time.monotonic()
                        print("step %d/%d  loss %.4f" % (self.step, stop, losses[0]), file=sys.stderr, flush=True)
                    if self.step % self.config["save-every"] == 0 or self.step == stop:
                        self.save()


def main():
    parser = argparse.ArgumentParser(description="Trains the PyTorch twin on the inputs of a prepared run.")
    parser.add_argument("run", help="folder made by `cbdm train ... --prepare`")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "cbdm"), help="our program")
    parser.add_argument("--stop", type=int, help="step to end at; default: the run's")
    a = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    try:
        with open(os.path.join(a.run, "lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            run = Run(a.run, a.program)
            run.train(run.config["steps"] if a.stop is None else a.stop)
    except BlockingIOError:
        print("train_twin: %s is being trained by another process" % a.run, file=sys.stderr)
        return 2
    except (Unable, OSError) as e:
        print("train_twin: %s" % e, file=sys.stderr)
        return 2
    print("done: %d steps" % run.step, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
