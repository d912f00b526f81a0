# tests/peer/torch_golden.py - writes the files of tests/golden that tests/test_torch_file.c reads.
#
# usage: python torch_golden.py legacy|zip FOLDER
# legacy: written with torch 1.13; zip: with torch 2.15. Element e of tensor number k is k + e / 4, of integers k + e,
# of booleans e % 2: exact in every type. Names and order as in `tensors` below.
import collections
import sys

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


kind, folder = sys.argv[1:]
options = {"_use_new_zipfile_serialization": kind == "zip"}
optim = {"state": {0: {"step": 3, "exp_avg": torch.zeros(1)}}, "groups": [{"lr": 0.1, "params": [0]}], "name": None}
if kind == "legacy":
    torch.save(tensors(), folder + "/torch-legacy.pth", **options)
    torch.save({"w": torch.zeros(2, 3).t()}, folder + "/torch-strided.pth", **options)
else:
    torch.save({"epoch": 3, "state_dict": tensors(), "optim": optim}, folder + "/torch-zip.pth", **options)
