"""Vision Mamba as its paper and the authors' code have it, with a loop over tokens for the scan."""

from jaxdistill.models import vim

CLASSES, PATCH = 5, 8


def _reference(dim, depth, state, side):
  def build():
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
        inner, self.rank = 2 * dim, -(-dim // 16)
        self.in_proj, self.out_proj = nn.Linear(dim, 2 * inner, bias=False), nn.Linear(inner, dim, bias=False)
        for suffix in ("", "_b"):
          setattr(self, f"conv1d{suffix}", nn.Conv1d(inner, inner, 4, groups=inner, padding=3))
          setattr(self, f"x_proj{suffix}", nn.Linear(inner, self.rank + 2 * state, bias=False))
          setattr(self, f"dt_proj{suffix}", nn.Linear(self.rank, inner))
          setattr(self, f"A{suffix}_log", nn.Parameter(torch.zeros(inner, state)))
          setattr(self, f"D{suffix}", nn.Parameter(torch.ones(inner)))

      def direction(self, xz, suffix):
        get = lambda name: getattr(self, name + suffix)
        x, z = xz.chunk(2, dim=-1)
        x = functional.silu(get("conv1d")(x.transpose(1, 2))[..., :x.shape[1]]).transpose(1, 2)
        step, enter, read = get("x_proj")(x).split((self.rank, state, state), dim=-1)
        delta = functional.softplus(get("dt_proj")(step))
        rates = -torch.exp(getattr(self, f"A{suffix}_log"))
        hidden, outputs = torch.zeros(x.shape[0], x.shape[2], state), []
        for t in range(x.shape[1]):
          hidden = torch.exp(delta[:, t, :, None] * rates) * hidden
          hidden = hidden + (delta[:, t] * x[:, t])[..., None] * enter[:, t, None]
          outputs.append((hidden * read[:, t, None]).sum(-1) + get("D") * x[:, t])
        return torch.stack(outputs, 1) * functional.silu(z)

      def forward(self, x):
        xz = self.in_proj(x)
        return self.out_proj((self.direction(xz, "") + self.direction(xz.flip(1), "_b").flip(1)) / 2)

    class Layer(nn.Module):
      def __init__(self):
        super().__init__()
        self.norm, self.mixer = Norm(), Mixer()

    class Net(nn.Module):
      def __init__(self):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (side // PATCH)**2 + 1, dim))
        self.layers = nn.ModuleList(Layer() for _ in range(depth))
        self.norm_f, self.head = Norm(), nn.Linear(dim, CLASSES)

      def forward(self, x):
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        middle = x.shape[1] // 2
        hidden = torch.cat((x[:, :middle], self.cls_token.expand(len(x), 1, dim), x[:, middle:]), 1) + self.pos_embed
        residual = 0
        for layer in self.layers:
          residual = residual + hidden
          hidden = layer.mixer(layer.norm(residual))
        return self.head(self.norm_f(residual + hidden)[:, middle])

    return Net()
  return build


def _case(dim, depth, state, side):
  return lambda: vim.Vim(CLASSES, dim, depth, PATCH, state), _reference(dim, depth, state, side), side


# The second has step sizes of rank 2 and an odd number of patches.
CASES = {"narrow": _case(12, 4, 16, 32), "odd": _case(24, 2, 3, 24)}
