# tests/peer/torch_golden.py - writes the files of tests/golden that tests/test_torch_file.c reads.
#
# usage: python torch_golden.py legacy|zip FOLDER
# legacy: written with torch 1.13; zip: with torch 2.15. Element e of tensor number k is k + e / 4, of integers k + e,
# of booleans e % 2: exact in every type. Names and order as in `tensors` below.
import collections
import struct
import sys
import zlib

import torch


def values(k, shape, dtype):
    n = 1
    for s in shape:
        n *= s
    e = torch.arange(n)
    if dtype == torch.bool:
        return (e % 2 == 1).reshape(shape)
    return (k + e if not dtype.is_floating_point else k + e.double() / 4).to(dtype).reshape(shape)


def tensors():
    shared = values(8, (4, 3), torch.float32)
    d = collections.OrderedDict()
    d["conv.weight"] = values(0, (2, 1, 2, 1), torch.float32)
    d["half"] = values(1, (3,), torch.float16)
    d["bfloat"] = values(2, (3,), torch.bfloat16)
    d["double"] = values(3, (2, 2), torch.float64)
    d["long"] = values(4, (2,), torch.int64)
    d["int"] = values(5, (2,), torch.int32)
    d["byte"] = values(6, (3,), torch.uint8)
    d["bool"] = values(7, (3,), torch.bool)
    d["shared"] = shared
    d["rows"] = shared[1:3]                     # rows 1 and 2 of the same storage
    d["scalar"] = values(9, (), torch.float32)
    d["none"] = values(10, (0, 3), torch.float32)
    d["parameter"] = torch.nn.Parameter(values(11, (2,), torch.float32))
    d["bn.num_batches_tracked"] = torch.tensor(12)
    d._metadata = collections.OrderedDict([("", {"version": 1})])
    return d


def write_overlapping(path):
    """A zip of four storages that all lie in the same bytes."""
    pickle = b"\x80\x02}("
    for k in b"0123":
        pickle += b"X\1\0\0\0%cctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0%c" \
                  b"X\3\0\0\0cpuM\0\4tQK\0M\0\4\x85K\1\x85\x89}tR" % (k, k)
    pickle, data, directory = pickle + b"u.", bytes(4096), b""
    body = b""
    for names, content in (["a/data.pkl"], pickle), (["a/data/%d" % k for k in range(4)], data):
        facts = struct.pack("<5H3I", 20, 0, 0, 0, 0, zlib.crc32(content), len(content), len(content))
        for name in names:
            entry = struct.pack("<5H2I", len(name), 0, 0, 0, 0, 0, len(body))
            directory += b"PK\1\2\x14\0" + facts + entry + name.encode()
        body += b"PK\3\4" + facts + struct.pack("<2H", len(names[0]), 0) + names[0].encode() + content
    with open(path, "wb") as f:
        f.write(body + directory + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 5, 5, len(directory), len(body), 0))


kind, folder = sys.argv[1:]
options = {"_use_new_zipfile_serialization": kind == "zip"}
optim = {"state": {0: {"step": 3, "exp_avg": torch.zeros(1)}}, "groups": [{"lr": 0.1, "params": [0]}], "name": None}
if kind == "legacy":
    torch.save(tensors(), folder + "/torch-legacy.pth", **options)
    torch.save({"w": torch.zeros(2, 3).t()}, folder + "/torch-strided.pth", **options)
else:
    write_overlapping(folder + "/torch-overlap.pth")
    torch.save({"epoch": 3, "state_dict": tensors(), "optim": optim}, folder + "/torch-zip.pth", **options)
