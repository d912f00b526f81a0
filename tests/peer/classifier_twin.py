# tests/peer/classifier_twin.py - a PyTorch twin of eval/classifier: the network and its training step.
#
# Written from He et al. 2016, section 4.2 (6 k + 2 layers, option A shortcuts) and the recipe of LDAM-DRW. State-dict
# names are the published ones.
#
# usage: python classifier_twin.py FOLDER      writes the two files that tests/test_classifier.c reads from tests/golden
import json
import os
import struct
import sys

import numpy
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.stride = 2 if cin != cout else 1
        self.conv1 = nn.Conv2d(cin, cout, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.more = (cout - cin) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, depth, width, channels, classes):
        super().__init__()
        k = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for s in range(3):
            c = width << s
            blocks = [Block(c // 2 if s and i == 0 else c, c) for i in range(k)]
            setattr(self, "layer%d" % (s + 1), nn.Sequential(*blocks))
        self.linear = nn.Linear(4 * width, classes)
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight)

    def features(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))

    def forward(self, x):
        return self.linear(self.features(x))


def trainer(net, momentum=0.9, weight_decay=2e-4):
    """step(x, labels, lr, offset): one update; returns the loss."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)

    def step(x, y, lr, offset=None):
        for group in optimiser.param_groups:
            group["lr"] = lr
        logits = net(x)
        loss = F.cross_entropy(logits if offset is None else logits + offset, y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def write_safetensors(path, tensors, meta):
    header, data = {"__metadata__": meta}, b""
    names = {"float32": "F32", "float64": "F64", "int32": "I32", "uint8": "U8"}
    for name, a in tensors.items():
        raw = numpy.ascontiguousarray(a).tobytes()
        header[name] = {"dtype": names[str(a.dtype)], "shape": list(a.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)                              # the test reads doubles in place
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


# ---- the golden files: a tiny network, and what it says before and after ten steps, all in double

RECIPE = {"depth": 8, "width": 4, "epochs": 10, "lr": 0.1, "momentum": 0.9, "weight-decay": 2e-4, "batch": 6,
          "crop-pad": 0, "flip": False, "logit-adjust": 1, "seed": 0}
IMAGES = {"classes": 3, "height": 12, "image-width": 9, "channels": 3}       # neither side halves twice


def golden(folder):
    random = numpy.random.RandomState(20)
    images = random.randint(0, 256, (6, 12, 9, 3)).astype(numpy.uint8)
    labels = numpy.array([0, 0, 1, 0, 2, 1], numpy.int32)
    torch.manual_seed(3)
    net = ResNet(RECIPE["depth"], RECIPE["width"], 3, 3).float()
    for m in net.modules():                                      # statistics and scales that show where they are used
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.2)
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 1.5)
    scaled = images.astype(numpy.float64) / 255
    mean = scaled.mean((0, 1, 2)).astype(numpy.float32)
    std = numpy.sqrt((scaled ** 2).mean((0, 1, 2)) - scaled.mean((0, 1, 2)) ** 2).astype(numpy.float32)
    x = (images.astype(numpy.float32) / numpy.float32(255) - mean) / std             # in float, as classifier_prepare
    x = torch.tensor(x.transpose(0, 3, 1, 2).astype(numpy.float64))
    y = torch.tensor(labels.astype(numpy.int64))
    tensors = {k: v.numpy() for k, v in net.state_dict().items() if "num_batches" not in k}
    tensors.update({"input.mean": mean, "input.std": std})
    write_safetensors(os.path.join(folder, "classifier.safetensors"), tensors,
                      {"format": "cbdm-classifier-1", "config": json.dumps({**RECIPE, **IMAGES})})
    net = net.double().eval()
    out = {"images": images, "labels": labels}
    with torch.no_grad():
        out["features"], out["logits"] = net.features(x).numpy(), net(x).numpy()
    offset = torch.tensor(numpy.log(numpy.array([3, 2, 1]) / 6).astype(numpy.float32).astype(numpy.float64))
    step, losses = trainer(net.train()), []
    for i in range(10):                                          # one step of warm-up; falls at 80% and 90%
        lr = RECIPE["lr"] * (0.01 if i >= 8 else 1) * (0.01 if i >= 9 else 1)
        losses.append(float(step(x, y, float(numpy.float32(lr)), offset)))
    net.eval()
    with torch.no_grad():
        out["trained_logits"] = net(x).numpy()
    out["losses"] = numpy.array(losses)
    write_safetensors(os.path.join(folder, "classifier_said.safetensors"), out, {})
    print("losses %s" % losses)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: classifier_twin.py FOLDER")
    golden(sys.argv[1])
