"""CeiT, narrow, written from the paper and the facts of its released code."""

from jaxdistill.models import ceit


def _ceit(side, dim=24, depth=4, heads=3, patch=4, stem=8):
  import torch
  from torch import nn
  from torch.nn import functional as F

  class Attention(nn.Module):
    def __init__(self):
      super().__init__()
      self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, queries):
      heads_of = lambda y: y.unflatten(-1, (heads, dim // heads)).transpose(1, 2)
      q, k, v = map(heads_of, self.qkv(x).split(dim, dim=-1))
      weights = torch.softmax(q[:, :, -queries:] @ k.transpose(2, 3) / (dim // heads)**0.5, dim=-1)
      return self.proj((weights @ v).transpose(1, 2).flatten(2))

  class LeFF(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1, self.bn1 = nn.Conv2d(dim, 4 * dim, 1), nn.BatchNorm2d(4 * dim)
      self.conv2, self.bn2 = nn.Conv2d(4 * dim, 4 * dim, 3, padding=1, groups=4 * dim), nn.BatchNorm2d(4 * dim)
      self.conv3, self.bn3 = nn.Conv2d(4 * dim, dim, 1), nn.BatchNorm2d(dim)

    def forward(self, x):
      first, rest = x[:, :1], x[:, 1:]
      side = int(rest.shape[1]**0.5)
      y = rest.transpose(1, 2).unflatten(2, (side, side))
      y = F.gelu(self.bn2(self.conv2(F.gelu(self.bn1(self.conv1(y))))))
      y = self.bn3(self.conv3(y))
      return torch.cat([first, y.flatten(2).transpose(1, 2)], dim=1)

  class Mlp(nn.Module):
    def __init__(self):
      super().__init__()
      self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
      return self.fc2(F.gelu(self.fc1(x)))

  class Block(nn.Module):
    def __init__(self, last):
      super().__init__()
      self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
      self.attn = Attention()
      setattr(self, "feedforward" if last else "leff", Mlp() if last else LeFF())

    def forward(self, x):
      last = hasattr(self, "feedforward")
      queries = 1 if last else x.shape[1]
      x = x[:, -queries:] + self.attn(self.norm1(x), queries)
      return x + (self.feedforward if last else self.leff)(self.norm2(x))

  class CeiT(nn.Module):
    def __init__(self):
      super().__init__()
      self.i2t = nn.Module()
      self.i2t.backbone = nn.Module()
      self.i2t.backbone.conv = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
      self.i2t.backbone.bn = nn.BatchNorm2d(stem)
      self.i2t.proj = nn.Conv2d(stem, dim, patch, stride=patch)
      self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
      self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (side // 4 // patch)**2, dim))
      self.blocks = nn.ModuleList(Block(False) for _ in range(depth))
      self.pos_layer_embed = nn.Parameter(torch.zeros(1, depth, dim))
      self.lca = Block(True)
      self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 5)

    def forward(self, x):
      x = F.max_pool2d(self.i2t.backbone.bn(self.i2t.backbone.conv(x)), 3, stride=2, padding=1)
      x = self.i2t.proj(x).flatten(2).transpose(1, 2)
      x = torch.cat([self.cls_token.expand(len(x), 1, dim), x], dim=1) + self.pos_embed
      classes = []
      for block in self.blocks:
        x = block(x)
        classes.append(x[:, 0])
      return self.head(self.norm(self.lca(torch.stack(classes, dim=1) + self.pos_layer_embed))[:, 0])

  return CeiT()


def _ours(patch):
  return lambda: ceit.ceit(num_classes=5, dim=24, depth=4, heads=3, patch=patch, stem_width=8)


CASES = {"patch4": (_ours(4), lambda: _ceit(48), 48), "patch2": (_ours(2), lambda: _ceit(32, patch=2), 32)}
