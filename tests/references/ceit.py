"""CeiT, narrow, written from the paper and the facts of its released code."""

from jaxdistill.models import ceit
from tests.references.case import Case

CLASSES = 5
DIM = 24
DEPTH = 4
HEADS = 3
STEM = 8


def _reference(side, patch):
  import torch
  from torch import nn
  from torch.nn import functional as F

  class Attention(nn.Module):
    def __init__(self):
      super().__init__()
      self.qkv = nn.Linear(DIM, 3 * DIM)
      self.proj = nn.Linear(DIM, DIM)

    def forward(self, x, queries):
      size = DIM // HEADS
      q, k, v = (
        part.unflatten(-1, (HEADS, size)).transpose(1, 2)
        for part in self.qkv(x).split(DIM, dim=-1)
      )
      scores = q[:, :, -queries:] @ k.transpose(2, 3) / size**0.5
      weights = torch.softmax(scores, dim=-1)
      return self.proj((weights @ v).transpose(1, 2).flatten(2))

  class LeFF(nn.Module):
    def __init__(self):
      super().__init__()
      hidden = 4 * DIM
      self.conv1 = nn.Conv2d(DIM, hidden, 1)
      self.bn1 = nn.BatchNorm2d(hidden)
      self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
      self.bn2 = nn.BatchNorm2d(hidden)
      self.conv3 = nn.Conv2d(hidden, DIM, 1)
      self.bn3 = nn.BatchNorm2d(DIM)

    def forward(self, x):
      first = x[:, :1]
      rest = x[:, 1:]
      side = int(rest.shape[1] ** 0.5)
      y = rest.transpose(1, 2).unflatten(2, (side, side))
      y = F.gelu(self.bn1(self.conv1(y)))
      y = F.gelu(self.bn2(self.conv2(y)))
      y = self.bn3(self.conv3(y))
      return torch.cat([first, y.flatten(2).transpose(1, 2)], dim=1)

  class Mlp(nn.Module):
    def __init__(self):
      super().__init__()
      self.fc1 = nn.Linear(DIM, 4 * DIM)
      self.fc2 = nn.Linear(4 * DIM, DIM)

    def forward(self, x):
      return self.fc2(F.gelu(self.fc1(x)))

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm1 = nn.LayerNorm(DIM, eps=1e-6)
      self.norm2 = nn.LayerNorm(DIM, eps=1e-6)
      self.attn = Attention()
      self.leff = LeFF()

    def forward(self, x):
      x = x + self.attn(self.norm1(x), x.shape[1])
      return x + self.leff(self.norm2(x))

  class ClassAttention(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm1 = nn.LayerNorm(DIM, eps=1e-6)
      self.norm2 = nn.LayerNorm(DIM, eps=1e-6)
      self.attn = Attention()
      self.feedforward = Mlp()

    def forward(self, x):
      x = x[:, -1:] + self.attn(self.norm1(x), 1)
      return x + self.feedforward(self.norm2(x))

  class CeiT(nn.Module):
    def __init__(self):
      super().__init__()
      self.i2t = nn.Module()
      self.i2t.backbone = nn.Module()
      self.i2t.backbone.conv = nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False)
      self.i2t.backbone.bn = nn.BatchNorm2d(STEM)
      self.i2t.proj = nn.Conv2d(STEM, DIM, patch, stride=patch)
      count = (side // 4 // patch) ** 2
      self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
      self.pos_embed = nn.Parameter(torch.zeros(1, 1 + count, DIM))
      self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
      self.pos_layer_embed = nn.Parameter(torch.zeros(1, DEPTH, DIM))
      self.lca = ClassAttention()
      self.norm = nn.LayerNorm(DIM, eps=1e-6)
      self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x):
      x = self.i2t.backbone.bn(self.i2t.backbone.conv(x))
      x = F.max_pool2d(x, 3, stride=2, padding=1)
      x = self.i2t.proj(x).flatten(2).transpose(1, 2)
      x = torch.cat([self.cls_token.expand(len(x), 1, DIM), x], dim=1)
      x = x + self.pos_embed
      classes = []
      for block in self.blocks:
        x = block(x)
        classes.append(x[:, 0])
      x = self.lca(torch.stack(classes, dim=1) + self.pos_layer_embed)
      return self.head(self.norm(x)[:, 0])

  return CeiT()


def _case(side, patch):
  def ours():
    return ceit.ceit(
      num_classes=CLASSES,
      dim=DIM,
      depth=DEPTH,
      heads=HEADS,
      patch=patch,
      stem_width=STEM,
    )

  def reference():
    return _reference(side, patch)

  return Case(ours=ours, reference=reference, side=side)


CASES = {"patch4": _case(side=48, patch=4), "patch2": _case(side=32, patch=2)}
