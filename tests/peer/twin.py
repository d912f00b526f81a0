# tests/peer/twin.py - a PyTorch twin of the CBDM network, training step and reverse step: the yardstick for our own.
#
# Written from the description of the method. State-dict names and layouts are the published ones, so that weights go
# from one to the other by name. Runs on torch 1.13 and on current releases, and uses each release's fastest standard
# means: F.silu, scaled dot-product attention, fused or foreach Adam, foreach averages, one forward of 2N images.
import contextlib
import copy
import math

import torch
from torch import nn
from torch.nn import functional as F



def time_table(T, dim):
    """(T, dim): row t holds sin(t f_0), cos(t f_0), sin(t f_1), ... with f_i = 10000^(-2i/dim)."""
    freq = torch.exp(-math.log(10000) / dim * torch.arange(0, dim, 2, dtype=torch.float32))
    angle = torch.arange(T, dtype=torch.float32)[:, None] * freq
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(T, dim)


class TimeEmbedding(nn.Module):
    def __init__(self, T, ch, dim):
        super().__init__()
        self.timembedding = nn.Sequential(nn.Embedding.from_pretrained(time_table(T, ch)), nn.Linear(ch, dim),
                                          nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t):
        return self.timembedding(t)


class Attention(nn.Module):
    """One head over all pixels: x + proj(softmax(q k' / sqrt(C)) v), with q, k, v from the normalised x."""

    def __init__(self, ch, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, ch)
        self.proj_q = nn.Conv2d(ch, ch, 1)
        self.proj_k = nn.Conv2d(ch, ch, 1)
        self.proj_v = nn.Conv2d(ch, ch, 1)
        self.proj = nn.Conv2d(ch, ch, 1)

    def forward(self, x):
        n, c, h, w = x.shape
        u = self.group_norm(x)
        q, k, v = (p(u).flatten(2).transpose(1, 2) for p in (self.proj_q, self.proj_k, self.proj_v))  # (n, hw, c)
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            y = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) * c ** -0.5, dim=-1), v)
        return x + self.proj(y.transpose(1, 2).reshape(n, c, h, w))


class ResBlock(nn.Module):
    def __init__(self, cin, cout, temb_dim, groups, dropout, attn):
        super().__init__()
        self.block1 = nn.Sequential(nn.GroupNorm(groups, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(temb_dim, cout))
        self.block2 = nn.Sequential(nn.GroupNorm(groups, cout), nn.SiLU(), nn.Dropout(dropout),
                                    nn.Conv2d(cout, cout, 3, padding=1))
        self.shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()
        self.attn = Attention(cout, groups) if attn else nn.Identity()

    def forward(self, x, temb):
        h = self.block1(x) + self.temb_proj(temb)[:, :, None, None]
        return self.attn(self.block2(h) + self.shortcut(x))


class Down(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.main = nn.Conv2d(ch, ch, 3, stride=2, padding=1)

    def forward(self, x, temb):
        return self.main(x)


class Up(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.main = nn.Conv2d(ch, ch, 3, padding=1)

    def forward(self, x, temb):
        return self.main(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    def __init__(self, ch, ch_mult, attn, num_res_blocks, num_class, T=1000, in_channels=3, groups=32, dropout=0.0,
                 augm=False):
        super().__init__()
        dim = 4 * ch
        self.time_embedding = TimeEmbedding(T, ch, dim)
        self.label_embedding = nn.Embedding(num_class, dim)
        self.augm_embedding = nn.Linear(9, dim, bias=False) if augm else None
        self.head = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.downblocks, self.upblocks = nn.ModuleList(), nn.ModuleList()
        skips, now, last = [ch], ch, len(ch_mult) - 1
        for level, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(ResBlock(now, ch * mult, dim, groups, dropout, level in attn))
                now = ch * mult
                skips.append(now)
            if level < last:
                self.downblocks.append(Down(now))
                skips.append(now)
        self.middleblocks = nn.ModuleList([ResBlock(now, now, dim, groups, dropout, True),
                                           ResBlock(now, now, dim, groups, dropout, False)])
        for level, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(ResBlock(now + skips.pop(), ch * mult, dim, groups, dropout, level in attn))
                now = ch * mult
            if level > 0:
                self.upblocks.append(Up(now))
        self.tail = nn.Sequential(nn.GroupNorm(groups, now), nn.SiLU(), nn.Conv2d(now, in_channels, 3, padding=1))
        self.initialise()

    def initialise(self):
        """Xavier everywhere; the last convolution of each residual block and the tail begin near zero."""
        for name, m in self.named_modules():
            if isinstance(m, nn.Conv2d) or (isinstance(m, nn.Linear) and name != "augm_embedding"):
                nn.init.xavier_uniform_(m.weight, gain=1e-5 if name.endswith("block2.3") or name == "tail.2" else 1.0)
                nn.init.zeros_(m.bias)

    def forward(self, x, t, label=None, augment=None):
        """x (n,c,h,w), t (n) integers, label (n) or None where dropped, augment (n,9) or None. The predicted noise."""
        temb = self.time_embedding(t)
        if label is not None:
            temb = temb + self.label_embedding(label)
        if augment is not None and self.augm_embedding is not None:
            temb = temb + self.augm_embedding(augment)
        h = self.head(x)
        skips = [h]
        for block in self.downblocks:
            h = block(h, temb)
            skips.append(h)
        for block in self.middleblocks:
            h = block(h, temb)
        for block in self.upblocks:
            if isinstance(block, ResBlock):
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, temb)
        return self.tail(h)


class Schedule:
    """Linear betas in float32, everything derived from them in float64, float32 where it meets images."""

    def __init__(self, beta_1=1e-4, beta_T=0.02, T=1000, var_type="fixedlarge"):
        beta = torch.linspace(beta_1, beta_T, T).double()
        alpha_bar = torch.cumprod(1 - beta, 0)
        before = F.pad(alpha_bar, [1, 0], value=1.0)[:T]
        posterior = beta * (1 - before) / (1 - alpha_bar)
        tail = beta if var_type == "fixedlarge" else posterior
        self.T = T
        self.signal, self.noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        self.inv, self.inv_m1 = (1 / alpha_bar).sqrt(), (1 / alpha_bar - 1).sqrt()
        self.coef_x0 = before.sqrt() * beta / (1 - alpha_bar)
        self.coef_xt = (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar)
        self.log_var = torch.log(torch.cat([posterior[1:2], tail[1:]]))

    def to(self, device):
        """Moves the tables; returns self."""
        for name, value in vars(self).items():
            if torch.is_tensor(value):
                setattr(self, name, value.to(device))
        return self

    @staticmethod
    def at(values, t):
        return values[t].float()[:, None, None, None]

    def noised(self, x0, t, noise):
        return self.at(self.signal, t) * x0 + self.at(self.noise, t) * noise


def cbdm_loss(eps, eps_balanced, noise, t, T, tau, gamma):
    """(mean squared error, regulariser with its commitment part). eps_balanced None: the second is zero."""
    ddpm = F.mse_loss(eps, noise)
    if eps_balanced is None:
        return ddpm, torch.zeros(())
    w = tau * (t / T)[:, None, None, None]
    reg = (w * (eps - eps_balanced.detach()) ** 2).mean() + gamma * (w * (eps.detach() - eps_balanced) ** 2).mean()
    return ddpm, reg


def make_adam(params, lr):
    """Fused where this release has it for the CPU, else foreach. Returns (optimiser, its kind in a word)."""
    params = list(params)
    try:
        return torch.optim.Adam(params, lr=lr, fused=True), "fused"
    except (RuntimeError, TypeError):
        return torch.optim.Adam(params, lr=lr, foreach=True), "foreach"


class Trainer:
    """The published training step: 2N batch, loss, clip, Adam under a linear warm-up, moving average of all weights."""

    def __init__(self, net, schedule, tau=1.0, gamma=0.25, lr=2e-4, warmup=5000, ema_decay=0.9999, grad_clip=1.0,
                 compiled=False, amp=False):
        """amp: forward pass and loss under bf16 autocast, on a GPU."""
        self.net, self.schedule, self.tau, self.gamma, self.amp = net, schedule, tau, gamma, amp
        self.decay, self.clip = ema_decay, grad_clip
        self.ema = copy.deepcopy(net)
        self.optimiser, self.adam_kind = make_adam((p for p in net.parameters() if p.requires_grad), lr)
        self.warmup = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda s: min(s, warmup) / warmup)
        self.weights = [p for p in net.parameters() if p.requires_grad]
        self.averages = [p for p in self.ema.parameters() if p.requires_grad]
        self.forward_loss = torch.compile(self.plain_forward_loss) if compiled else self.plain_forward_loss

    def plain_forward_loss(self, x_t, t, label, label_balanced, noise, augment):
        """Both predictions from one batch [x_t; x_t] under labels [y; y']; without y' one batch of N."""
        if label_balanced is None:
            eps, balanced = self.net(x_t, t, label, augment), None
        else:
            twice = None if augment is None else torch.cat([augment, augment])
            both = self.net(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([label, label_balanced]), twice)
            eps, balanced = both.chunk(2)
        return (*cbdm_loss(eps, balanced, noise, t, self.schedule.T, self.tau, self.gamma), eps, balanced)

    def backward(self, x0, t, label, label_balanced, noise, augment=None, keep_zeros=False):
        """label None: labels dropped. Fills the gradients; returns (ddpm, reg, eps, eps_balanced)."""
        self.optimiser.zero_grad(set_to_none=not keep_zeros)
        x_t = self.schedule.noised(x0, t, noise)
        with torch.autocast("cuda", dtype=torch.bfloat16) if self.amp else contextlib.nullcontext():
            out = self.forward_loss(x_t, t, label, label_balanced, noise, augment)
        (out[0] + out[1] if out[3] is not None else out[0]).backward()
        return out

    def update(self):
        """Clip, Adam, schedule, moving average. Returns the gradient norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.optimiser.step()
        self.warmup.step()
        with torch.no_grad():
            if hasattr(torch, "_foreach_lerp_"):
                torch._foreach_lerp_(self.averages, self.weights, 1 - self.decay)
            else:
                torch._foreach_mul_(self.averages, self.decay)
                torch._foreach_add_(self.averages, self.weights, alpha=1 - self.decay)
        return norm


@torch.no_grad()
def reverse_step(net, schedule, x, t, label, omega, noise):
    """One guided DDPM step without clipping, eps = eps_c + omega (eps_c - eps_u). Returns (mean, next x)."""
    eps = net(x, t, label)
    if omega > 0:
        eps = eps + omega * (eps - net(x, t, None))
    x0 = schedule.at(schedule.inv, t) * x - schedule.at(schedule.inv_m1, t) * eps
    mean = schedule.at(schedule.coef_x0, t) * x0 + schedule.at(schedule.coef_xt, t) * x
    spread = torch.exp(0.5 * schedule.at(schedule.log_var, t)) * noise
    return mean, torch.where(t[:, None, None, None] > 0, mean + spread, mean)
