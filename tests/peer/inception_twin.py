# tests/peer/inception_twin.py - the FID's Inception network in PyTorch, with random weights, against `cbdm eval ref`.
#
# usage: python inception_twin.py check CBDM [IMAGES]     compares features and probabilities; prints the result
#        python inception_twin.py weights FILE            writes them: .pth (legacy layout), .zip.pth or .safetensors
#        python inception_twin.py golden                  the numbers that tests/test_inception.c holds
#
# Needs torch (any since 1.13) and numpy. The layers are written from their published list; the weights are drawn by
# Philox under each tensor's name (draw), which tests/test_inception.c repeats, so that no file of weights is needed.
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SIDE = 299


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, ReLU. size and pad: numbers or (rows, columns)."""

    def __init__(self, cin, cout, size, stride=1, pad=0):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, size, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def chain(owner, cin, units):
    """Adds units (name, cout, size, stride, pad) one after the other to owner; returns their names."""
    for name, cout, size, stride, pad in units:
        owner.add_module(name, Unit(cin, cout, size, stride, pad))
        cin = cout
    return [u[0] for u in units]


def mean_pool(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def max_pool(x):
    return F.max_pool2d(x, 3, 1, 1)


def shrink(x):
    return F.max_pool2d(x, 3, 2)


class Mixed(nn.Module):
    """Branches side by side: each a list of units, the last behind a pooling; `fork` splits a branch's end in two."""

    def __init__(self, cin, branches, pool, pooled, fork=()):
        super().__init__()
        self.branches = [chain(self, cin, b) for b in branches]
        self.pool, self.pooled = pool, chain(self, cin, pooled)
        self.fork = dict(fork)                              # name of a branch's last unit -> names of two more
        for end, names in self.fork.items():
            c = self._modules[end].conv.out_channels
            self.add_module(names[0], Unit(c, 384, (1, 3), 1, (0, 1)))
            self.add_module(names[1], Unit(c, 384, (3, 1), 1, (1, 0)))

    def forward(self, x):
        out = []
        for names in self.branches:
            y = x
            for name in names:
                y = self._modules[name](y)
            fork = self.fork.get(names[-1])
            out += [self._modules[n](y) for n in fork] if fork else [y]
        y = self.pool(x)
        for name in self.pooled:
            y = self._modules[name](y)
        return torch.cat(out + [y], 1)


def block_a(cin, pooled):
    return Mixed(cin, [[("branch1x1", 64, 1, 1, 0)],
                       [("branch5x5_1", 48, 1, 1, 0), ("branch5x5_2", 64, 5, 1, 2)],
                       [("branch3x3dbl_1", 64, 1, 1, 0), ("branch3x3dbl_2", 96, 3, 1, 1),
                        ("branch3x3dbl_3", 96, 3, 1, 1)]], mean_pool, [("branch_pool", pooled, 1, 1, 0)])


def block_b(cin):
    return Mixed(cin, [[("branch3x3", 384, 3, 2, 0)],
                       [("branch3x3dbl_1", 64, 1, 1, 0), ("branch3x3dbl_2", 96, 3, 1, 1),
                        ("branch3x3dbl_3", 96, 3, 2, 0)]], shrink, [])


def block_c(c7):
    row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    return Mixed(768, [[("branch1x1", 192, 1, 1, 0)],
                       [("branch7x7_1", c7, 1, 1, 0), ("branch7x7_2", c7, *row), ("branch7x7_3", 192, *column)],
                       [("branch7x7dbl_1", c7, 1, 1, 0), ("branch7x7dbl_2", c7, *column),
                        ("branch7x7dbl_3", c7, *row), ("branch7x7dbl_4", c7, *column),
                        ("branch7x7dbl_5", 192, *row)]], mean_pool, [("branch_pool", 192, 1, 1, 0)])


def block_d():
    return Mixed(768, [[("branch3x3_1", 192, 1, 1, 0), ("branch3x3_2", 320, 3, 2, 0)],
                       [("branch7x7x3_1", 192, 1, 1, 0), ("branch7x7x3_2", 192, (1, 7), 1, (0, 3)),
                        ("branch7x7x3_3", 192, (7, 1), 1, (3, 0)), ("branch7x7x3_4", 192, 3, 2, 0)]], shrink, [])


def block_e(cin, pool):
    return Mixed(cin, [[("branch1x1", 320, 1, 1, 0)], [("branch3x3_1", 384, 1, 1, 0)],
                       [("branch3x3dbl_1", 448, 1, 1, 0), ("branch3x3dbl_2", 384, 3, 1, 1)]],
                 pool, [("branch_pool", 192, 1, 1, 0)],
                 [("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
                  ("branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b"))])


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (block_c(c) for c in (128, 160, 160, 192))
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = block_d(), block_e(1280, mean_pool), block_e(2048, max_pool)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        """(N,3,299,299) as a protocol scales it -> features (N,2048), logits (N,1008) without the bias."""
        x = shrink(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split():
            if name == "6d":                                # ADM's spatial features (N,17 17 7)
                self.spatial = self.Mixed_6d.branch1x1(x)[:, :7].permute(0, 2, 3, 1).flatten(1)
            x = self._modules["Mixed_" + name](x)
        x = x.mean((2, 3))
        return x, F.linear(x, self.fc.weight)


# ---- weights
def philox(block, purpose):
    """Words (n,4) of Philox4x32-10 with key 0 and counters (block, 0, 0, purpose)."""
    mask = np.uint64(0xFFFFFFFF)
    c = [block.astype(np.uint64), *(np.full(block.shape, v, np.uint64) for v in (0, 0, purpose))]
    k = [0, 0]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), p1 & mask,
             (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), p0 & mask]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, 1).astype(np.uint32)


def purpose(name):
    h = 2166136261
    for byte in name.encode():
        h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
    return h if h >= 256 else h + 256


def draw(name, shape):
    """Element e is a + b u, u = 2 (word >> 8) / 2^24 - 1 of word e of Philox under the name, in float32."""
    n = math.prod(shape)
    words = philox(np.arange((n + 3) // 4), purpose(name)).reshape(-1)[:n]
    u = (words >> 8).astype(np.float32) * np.float32(2 ** -23) - 1
    a, b = {"bn.weight": (1, 0.25), "bn.running_var": (1, 0.25), "bn.bias": (0, 0.1), "bn.running_mean": (0, 0.1),
            "fc.bias": (0, 1)}.get(".".join(name.split(".")[-2:]), (0, 0))
    if not b:                                               # filters: variance 2 / fan-in, as He et al. 2015 for ReLU
        b = math.sqrt(6 / math.prod(shape[1:]))
    return (np.float32(a) + np.float32(b) * u).reshape(shape)


def random_net():
    net = Inception().eval()
    state = {k: torch.from_numpy(draw(k, tuple(v.shape))) for k, v in net.state_dict().items()
             if not k.endswith("num_batches_tracked")}
    net.load_state_dict(state, strict=False)
    assert len(state) == 472 and sum(v.numel() for v in state.values()) == 23885392
    return net, state


def write_safetensors(path, state):
    header, at = {}, 0
    for name, v in state.items():
        header[name] = {"dtype": "F32", "shape": list(v.shape), "data_offsets": [at, at + 4 * v.numel()]}
        at += 4 * v.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for v in state.values():
            f.write(v.numpy().tobytes())


def write_weights(path, state):
    if path.endswith(".safetensors"):
        write_safetensors(path, state)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.endswith(".zip.pth"))


def read_safetensors(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    kinds = {"F32": np.float32, "I32": np.int32, "I64": np.int64}
    return {k: np.frombuffer(data[8 + n:][slice(*v["data_offsets"])], kinds[v["dtype"]]).reshape(v["shape"])
            for k, v in header.items() if k != "__metadata__"}


# ---- images
def write_png(path, image):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    h, w, _ = image.shape
    rows = b"".join(b"\0" + r.tobytes() for r in image)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def smooth_images(n, h, w, seed=0):
    """(n,h,w,3) bytes: noise of three scales, so that edges and flat parts both occur."""
    r = np.random.RandomState(seed)
    out = np.zeros((n, h, w, 3))
    for cell in (1, 4, 16):
        coarse = r.uniform(0, 255, (n, -(-h // cell), -(-w // cell), 3))
        out += np.repeat(np.repeat(coarse, cell, 1), cell, 2)[:, :h, :w] / 3
    return out.round().astype(np.uint8)


def tf1(n):
    x = np.arange(SIDE, dtype=np.float32) * np.float32(n / SIDE)
    low = x.astype(np.int64)
    m = np.zeros((SIDE, n))
    np.add.at(m, (np.arange(SIDE), low), 1 - (x - low))
    np.add.at(m, (np.arange(SIDE), np.minimum(low + 1, n - 1)), x - low)
    return m


def pillow_bicubic(n):
    scale = n / SIDE
    stretch = max(scale, 1)
    centre = (np.arange(SIDE) + 0.5) * scale
    x = np.abs((np.arange(n)[None] + 0.5 - centre[:, None]) / stretch)
    m = np.where(x < 1, 1.5 * x ** 3 - 2.5 * x ** 2 + 1, np.where(x < 2, -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2, 0))
    return m / m.sum(1, keepdims=True)


def prepare(images, protocol):
    """(N,h,w,3) bytes -> (N,3,299,299) as the protocol feeds the network."""
    x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
    if protocol in ("cbdm", "pytorch-fid"):
        return 2 * F.interpolate(x / 255, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1
    axis = tf1 if protocol == "tf" else pillow_bicubic
    y = np.einsum("ih,nchw,jw->ncij", axis(images.shape[1]), x.double().numpy(), axis(images.shape[2]), optimize=True)
    return torch.from_numpy((y.clip(0, 255) - 128) / 128).float()


# ---- the comparison
def difference(ours, theirs):
    """Largest difference, relative to the largest value; and to the largest distance from the mean over images."""
    theirs, d = theirs.astype(np.float64), np.abs(ours.astype(np.float64) - theirs).max()
    return d / np.abs(theirs).max(), d / np.abs(theirs - theirs.mean(0)).max()


def check_adm(file, images, features, spatial):
    """The statistics of a reference batch of ADM's evaluator, against numpy's."""
    assert (file["arr_0"] == images).all()
    worst = 0
    for end, x in ("", features), ("_s", spatial):
        x = x.double().numpy()
        mean, sigma = x.mean(0), np.cov(x, rowvar=False)
        m, s = (np.abs(file[n + end] - v).max() / np.abs(v).max() for n, v in (("mu", mean), ("sigma", sigma)))
        print(f"{'':12} mu{end} {m:.2e}, sigma{end} {s:.2e} of numpy's largest")
        worst = max(worst, m, s)
    return worst


def check(program, count):
    net, state = random_net()
    worst = 0
    cases = [("cbdm", ".pth", 32, 40), ("pytorch-fid", ".zip.pth", 32, 40), ("tf", ".safetensors", 32, 40),
             ("clean", ".pth", 32, 40), ("pytorch-fid", ".pth", 400, 330), ("tf", ".pth", 400, 330),
             ("clean", ".pth", 400, 330)]
    with tempfile.TemporaryDirectory() as folder:
        for protocol, kind, height, width in cases:
            images = smooth_images(count, height, width)
            data, weights, out = f"{folder}/{height}x{width}", folder + "/weights" + kind, folder + "/out.safetensors"
            os.makedirs(data + "/only", exist_ok=True)
            for i, image in enumerate(images):
                write_png(f"{data}/only/{i:05d}.png", image)
            if not os.path.exists(weights):
                write_weights(weights, state)
            subprocess.run([program, "eval", "ref", "--data", data, "--features", "inception", "--weights",
                            weights, "--protocol", protocol, "--no-cache", "--batch", "3", "--device", "cpu", "--out",
                            out, "--adm", folder + "/adm.npz"], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            ours = read_safetensors(out)
            with torch.no_grad():
                features, logits = net(prepare(images, protocol))
            probs = torch.softmax(logits.double(), 1)
            d, c = difference(ours["features"], features.numpy())
            p, _ = difference(ours["probs"], probs.numpy())
            worst = max(worst, d, c, p)
            if protocol == "tf":
                worst = max(worst, check_adm(np.load(folder + "/adm.npz"), images, features, net.spatial))
            print(f"{protocol:12} {height:3} x {width:<3}  weights{kind:13} features {d:.2e}, centred {c:.2e}, "
                  f"probabilities {p:.2e}", flush=True)
    print(f"torch {torch.__version__}, {count} images a line: largest relative difference {worst:.2e}, allowed 1e-4: "
          f"{'passed' if worst <= 1e-4 else 'FAILED'}")
    return worst <= 1e-4


def golden():
    net, state = random_net()
    e = np.arange(24 * 28 * 3)
    images = np.stack([e * 37 % 251, e // 6 * 37 % 251]).reshape(2, 24, 28, 3).astype(np.uint8)
    with torch.no_grad():
        features, logits = net(prepare(images, "tf"))
        probs = torch.softmax(logits.double(), 1)
    for name, v in (("features", features[:, ::32]), ("probs", probs[:, ::126])):
        print(name, "\n".join(", ".join(f"{x:.6e}f" for x in row) for row in v.numpy()), sep="\n")
    print("units: name, channels in and out, rows, columns")
    for name, v in state.items():
        if name.endswith("conv.weight"):
            print(name[:-len(".conv.weight")], v.shape[1], v.shape[0], v.shape[2], v.shape[3])


if __name__ == "__main__":
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb == "check" and len(sys.argv) in (3, 4):
        sys.exit(0 if check(sys.argv[2], int(sys.argv[3]) if len(sys.argv) == 4 else 8) else 1)
    if verb == "weights" and len(sys.argv) == 3:
        write_weights(sys.argv[2], random_net()[1])
    elif verb == "golden":
        golden()
    else:
        sys.exit("usage: inception_twin.py check CBDM [IMAGES] | weights FILE | golden")
