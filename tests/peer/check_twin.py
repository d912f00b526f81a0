# tests/peer/check_twin.py - proves the twin right: replays parity cases with it and prints errors beside their limits.
#
# usage: PYTHON tests/peer/check_twin.py [--channels-last] [--compile] FOLDER|CASE.safetensors ...
# The flags check the variants that ratio.py measures.
# A case holds weights, inputs, every random draw and what the published code made of them. Errors are relative:
# ||got - want|| / ||want||, limit 5e-5; weights and averages after the updates ||got - want|| / ||want - initial||,
# limit 1e-3, so that an optimiser that does nothing fails. Left out: the frozen time table, and the bias of the key
# projection, whose gradient is zero but for rounding. Exit 0: all within; 1: one above or missing; 2: nothing to check.
import glob
import os
import sys

try:
    import torch
except ImportError as e:
    print("check_twin: %s cannot import %s: take a python that has torch and numpy" % (sys.executable, e.name),
          file=sys.stderr)
    sys.exit(2)
import twin
from tensors import load


def numbers(meta, key):
    return [int(v) for v in meta[key].split(",") if v != ""]


def build(case, meta):
    """The case's network with its initial weights; every parameter of the twin must be in the case and back."""
    net = twin.UNet(ch=int(meta["ch"]), ch_mult=numbers(meta, "ch_mult"), attn=numbers(meta, "attn"),
                    num_res_blocks=int(meta["num_res_blocks"]), num_class=int(meta["num_class"]), T=int(meta["T"]),
                    in_channels=int(meta["in_channels"]), augm=meta["augm"] == "1")
    net.load_state_dict({k[len("param."):]: v for k, v in case.items() if k.startswith("param.")}, strict=True)
    return net


def train(case, meta, net, got, compiled):
    trainer = twin.Trainer(net, twin.Schedule(float(meta["beta_1"]), float(meta["beta_T"]), int(meta["T"])),
                           tau=float(meta["tau"]), gamma=float(meta["gamma"]), lr=float(meta["lr"]),
                           warmup=int(meta["warmup"]), ema_decay=float(meta["ema_decay"]),
                           grad_clip=float(meta["grad_clip"]), compiled=compiled)
    for k in range(int(meta["steps"])):
        pre = "step%d." % k
        arg = {n[len(pre + "in."):]: v for n, v in case.items() if n.startswith(pre + "in.")}
        dropped = bool(arg["drop_label"])
        paired = meta["objective"] == "cbdm" and not dropped
        ddpm, reg, eps, balanced = trainer.backward(
            arg["x0"], arg["t"], None if dropped else arg["label"], arg["label_balanced"] if paired else None,
            arg["noise"], arg.get("augment"), keep_zeros=True)
        got[pre + "out.eps"] = eps
        if balanced is not None:
            got[pre + "out.eps_balanced"] = balanced
        got[pre + "out.loss_ddpm"], got[pre + "out.loss_reg"] = ddpm, reg
        if k == 0:
            for n, p in net.named_parameters():
                got[pre + "out.grad." + n] = torch.zeros_like(p) if p.grad is None else p.grad.clone()
        got[pre + "out.grad_norm"] = trainer.update()
    for kind, model in (("param", net), ("ema", trainer.ema)):
        for n, p in model.named_parameters():
            got["final.%s.%s" % (kind, n)] = p
    return trainer.ema


def sample(case, meta, net, got):
    schedule = twin.Schedule(float(meta["beta_1"]), float(meta["beta_T"]), int(meta["T"]), meta["var_type"])
    x, label = case["sample.in.x"], case["sample.in.label"]
    for j, t in enumerate(case["sample.in.t"]):
        mean, x = twin.reverse_step(net, schedule, x, t.expand(len(x)), label, float(meta["omega"]),
                                    case["sample.in.noise%d" % j])
        got["sample.out.mean%d" % j], got["sample.out.x%d" % j] = mean, x


def compare(case, got):
    """Worst error of each group of results: {group: (error, limit, name)}, and the names that are missing."""
    worst, missing = {}, []
    for name, want in case.items():
        final = name.startswith("final.")
        if not (final or ".out." in name) or "proj_k.bias" in name:
            continue
        if final and (name.endswith("#l2") or "timembedding.0.weight" in name):
            continue
        base = name.split("#")[0]
        if base not in got:
            missing.append(name)
            continue
        value, want = got[base].detach().double().reshape(-1), want.double().reshape(-1)
        if name.endswith("#head"):
            value = value[:len(want)]
        elif name.endswith("#l2"):
            value = value.norm().reshape(1)
        part = base.split(".")
        moved = want - case["param." + base.split(".", 2)[2]].double().reshape(-1)[:len(want)] if final else want
        error = float((value - want).norm()) / max(float(moved.norm()), 1e-12)
        group = "final." + part[1] if final else part[0] + "." + part[2].rstrip("0123456789")
        if group not in worst or not error <= worst[group][0]:
            worst[group] = (error, 1e-3 if final else 5e-5, name)
    return worst, missing


def check(path, channels_last, compiled):
    """True where the twin agrees with the case."""
    case, meta = load(path)
    got = {}
    net = build(case, meta)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    sample(case, meta, train(case, meta, net, got, compiled), got)
    worst, missing = compare(case, got)
    print("%s (torch %s)" % (os.path.basename(path), torch.__version__))
    failed = len(missing)
    for group in sorted(worst):
        error, limit, name = worst[group]
        bad = not error <= limit
        failed += bad
        print("  %-20s %.2e (limit %.0e)  %s%s" % (group, error, limit, name, "   <-- above" if bad else ""))
    for name in missing[:10]:
        print("  missing: %s" % name)
    return failed == 0


def main():
    paths = []
    flags = {"--channels-last": False, "--compile": False}
    for arg in sys.argv[1:]:
        if arg in flags:
            flags[arg] = True
            continue
        paths += sorted(glob.glob(os.path.join(arg, "*.safetensors"))) if os.path.isdir(arg) else [arg]
    absent = [p for p in paths if not os.path.isfile(p)]
    if not paths or absent:
        print("check_twin: no case%s: name a folder with *.safetensors or the files"
              % (" at " + absent[0] if absent else ""), file=sys.stderr)
        return 2
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    passed = sum([check(p, flags["--channels-last"], flags["--compile"]) for p in paths])
    print("%d passed, %d failed" % (passed, len(paths) - passed))
    return 0 if passed == len(paths) else 1


sys.exit(main())
