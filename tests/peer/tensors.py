# tests/peer/tensors.py - safetensors files to and from dictionaries of torch tensors.
import json
import os
import struct

import numpy as np
import torch

KINDS = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


def load(path):
    """(tensors by name, in the order of their data; metadata) of a safetensors file."""
    with open(path, "rb") as f:
        body = f.read()
    n = struct.unpack("<Q", body[:8])[0]
    head, data = json.loads(body[8:8 + n]), body[8 + n:]
    meta = head.pop("__metadata__", {})
    order = sorted(head.items(), key=lambda item: item[1]["data_offsets"])
    return {k: torch.from_numpy(np.frombuffer(data[slice(*v["data_offsets"])], KINDS[v["dtype"]])
                                .reshape(v["shape"]).copy()) for k, v in order}, meta


def save(path, tensors, meta):
    """Whole or absent, as our own writer does it."""
    names = {np.dtype(v): k for k, v in KINDS.items()}
    head, parts, at = {"__metadata__": meta}, [], 0
    for name, value in tensors.items():
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        head[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        parts.append(array.tobytes())
        at += array.nbytes
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".tmp", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)
