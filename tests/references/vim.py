"""Vision Mamba as its paper and the authors' code have it.

A loop over tokens stands for the scan.
"""

from jaxdistill.models import vim
from tests.references.case import Case

CLASSES = 5
PATCH = 8


def _reference(dim, depth, state, side):
  import torch
  from torch import nn
  from torch.nn import functional

  class Norm(nn.Module):
    def __init__(self):
      super().__init__()
      self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
      return self.weight * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)

  class Mixer(nn.Module):
    def __init__(self):
      super().__init__()
      inner = 2 * dim
      self.rank = -(-dim // 16)
      self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
      self.out_proj = nn.Linear(inner, dim, bias=False)
      for suffix in ("", "_b"):
        conv = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        setattr(self, f"conv1d{suffix}", conv)
        setattr(self, f"x_proj{suffix}", x_proj)
        setattr(self, f"dt_proj{suffix}", nn.Linear(self.rank, inner))
        setattr(self, f"A{suffix}_log", nn.Parameter(torch.zeros(inner, state)))
        setattr(self, f"D{suffix}", nn.Parameter(torch.ones(inner)))

    def direction(self, xz, suffix):
      conv = getattr(self, f"conv1d{suffix}")
      x_proj = getattr(self, f"x_proj{suffix}")
      dt_proj = getattr(self, f"dt_proj{suffix}")
      rates = -torch.exp(getattr(self, f"A{suffix}_log"))
      weight = getattr(self, f"D{suffix}")

      x, z = xz.chunk(2, dim=-1)
      length = x.shape[1]
      x = functional.silu(conv(x.transpose(1, 2))[..., :length]).transpose(1, 2)
      step, enter, read = x_proj(x).split((self.rank, state, state), dim=-1)
      delta = functional.softplus(dt_proj(step))
      hidden = torch.zeros(x.shape[0], x.shape[2], state)
      outputs = []
      for t in range(length):
        hidden = torch.exp(delta[:, t, :, None] * rates) * hidden
        hidden = hidden + (delta[:, t] * x[:, t])[..., None] * enter[:, t, None]
        outputs.append((hidden * read[:, t, None]).sum(-1) + weight * x[:, t])
      return torch.stack(outputs, 1) * functional.silu(z)

    def forward(self, x):
      xz = self.in_proj(x)
      forwards = self.direction(xz, "")
      backwards = self.direction(xz.flip(1), "_b").flip(1)
      return self.out_proj((forwards + backwards) / 2)

  class Layer(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm = Norm()
      self.mixer = Mixer()

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      count = (side // PATCH) ** 2
      self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, PATCH)})
      self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
      self.pos_embed = nn.Parameter(torch.zeros(1, count + 1, dim))
      self.layers = nn.ModuleList(Layer() for _ in range(depth))
      self.norm_f = Norm()
      self.head = nn.Linear(dim, CLASSES)

    def forward(self, x):
      x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
      middle = x.shape[1] // 2
      token = self.cls_token.expand(len(x), 1, dim)
      hidden = torch.cat((x[:, :middle], token, x[:, middle:]), 1) + self.pos_embed
      residual = 0
      for layer in self.layers:
        residual = residual + hidden
        hidden = layer.mixer(layer.norm(residual))
      return self.head(self.norm_f(residual + hidden)[:, middle])

  return Net()


def _case(dim, depth, state, side):
  def ours():
    return vim.Vim(num_classes=CLASSES, dim=dim, depth=depth, patch=PATCH, state=state)

  def reference():
    return _reference(dim, depth, state, side)

  return Case(ours=ours, reference=reference, side=side)


CASES = {
  "narrow": _case(dim=12, depth=4, state=16, side=32),
  # Step sizes of rank 2, and an odd number of patches.
  "odd": _case(dim=24, depth=2, state=3, side=24),
}
