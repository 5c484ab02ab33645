"""Wide ResNet for 32-pixel images: pre-activation blocks, `widen` times the usual channels.

Reference:
  S. Zagoruyko, N. Komodakis: Wide Residual Networks. BMVC 2016, table 1.

Modules are named as in github.com/xternalz/WideResNet-pytorch.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require
from jaxdistill.nn.conv import batch_norm, convolution
from jaxdistill.nn.heads import classify

IMAGE_SIZE = 32


class WideResNet(nn.Module):
  """A WRN-depth-widen; dropout, optional in the paper, is left out.

  Attributes:
    depth: 6n + 4 for n blocks in each stage, or 6n + 2 where the convolutions of the
      shortcuts do not count.
    widen: factor of the channels 16, 32, 64.
    num_classes: C.
    dtype: of the arithmetic.
  """

  depth: int
  widen: int
  num_classes: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    conv = lambda name, features, kernel, stride=1: convolution(
      features, kernel, stride, dtype=self.dtype, name=name
    )
    activate = lambda name, x: nn.relu(batch_norm(train, self.dtype, name=name)(x))
    x, outputs, last = conv("conv1", 16, 3)(image), {}, "stem"
    for stage in range(3):
      features = 16 * self.widen * 2**stage
      for block in range((self.depth - 2) // 6):
        at, stride = f"block{stage + 1}.layer.{block}.", 2 if stage and not block else 1
        before = activate(f"{at}bn1", x)
        if (
          not block
        ):  # the non-linearity that ends a stage is the one that begins the next
          outputs[last] = before
        shortcut = (
          x
          if x.shape[-1] == features
          else conv(f"{at}convShortcut", features, 1, stride)(before)
        )
        y = activate(f"{at}bn2", conv(f"{at}conv1", features, 3, stride)(before))
        x = shortcut + conv(f"{at}conv2", features, 3)(y)
      last = f"stage{stage + 1}"
    outputs[last] = activate("bn1", x)
    return classify(outputs[last], outputs, self.num_classes)


def wrn(
  *, num_classes: int, dtype: Any = jnp.float32, depth: int = 16, widen: int = 2
) -> nn.Module:
  """Builds a WRN-depth-widen: 36.5 M parameters for WRN-28-10 with 10 classes.

  Competitive Distillation's Table 1 gives 36.5 M for "WRN28-12", which are those of
  WRN-28-10 (WRN-28-12 has 52.5 M), and 25.6 M for "WRN44-8", which has 41.9 M.

  Raises:
    ConfigError: unless the depth is 6n + 4 or 6n + 2, or if `widen` is less than 1.
  """
  require(
    depth >= 8 and depth % 6 in (2, 4),
    f"depth must be 6n + 4 or 6n + 2 (16, 28, 40), got {depth}",
  )
  require(widen >= 1, f"widen must be at least 1, got {widen}")
  return WideResNet(depth, widen, num_classes, dtype)
