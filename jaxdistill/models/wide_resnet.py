"""Wide ResNet for 32-pixel images: pre-activation blocks with more channels.

Modules are named as in github.com/xternalz/WideResNet-pytorch.

Reference:
  S. Zagoruyko, N. Komodakis: Wide Residual Networks. BMVC 2016, table 1.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require
from jaxdistill.nn.conv import convolution
from jaxdistill.nn.heads import classify
from jaxdistill.nn.norm import batch_norm

IMAGE_SIZE = 32


class WideResNet(nn.Module):
  """A WRN-depth-widen; dropout, optional in the paper, is left out.

  Attributes:
    depth: 6n + 4 for n blocks in each stage, or 6n + 2 where the convolutions of the
      shortcuts do not count.
    widen: factor of the channels 16, 32, 64.
    num_classes: C.
    dtype: computation dtype.
  """

  depth: int
  widen: int
  num_classes: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""

    def conv(x, channels, kernel, stride=1, *, name):
      return convolution(channels, kernel, stride, dtype=self.dtype, name=name)(x)

    def activate(x, name):
      return nn.relu(batch_norm(train, self.dtype, name=name)(x))

    blocks = (self.depth - 2) // 6
    x = conv(image, 16, 3, name="conv1")
    features = {}
    # A stage ends with the non-linearity that begins the next one.
    ending = "stem"
    for stage in (1, 2, 3):
      channels = 16 * self.widen * 2 ** (stage - 1)
      for block in range(blocks):
        at = f"block{stage}.layer.{block}"
        stride = 2 if stage > 1 and block == 0 else 1
        before = activate(x, f"{at}.bn1")
        if block == 0:
          features[ending] = before
        shortcut = x
        if x.shape[-1] != channels:
          name = f"{at}.convShortcut"
          shortcut = conv(before, channels, 1, stride=stride, name=name)
        y = conv(before, channels, 3, stride=stride, name=f"{at}.conv1")
        y = activate(y, f"{at}.bn2")
        x = shortcut + conv(y, channels, 3, name=f"{at}.conv2")
      ending = f"stage{stage}"
    x = activate(x, "bn1")
    features[ending] = x
    return classify(x, features, self.num_classes)


def wrn(
  *, num_classes: int, dtype: Any = jnp.float32, depth: int = 16, widen: int = 2
) -> nn.Module:
  """Returns a WRN-depth-widen: 36.5 M parameters for WRN-28-10 with 10 classes.

  Competitive Distillation's table 1 gives 36.5 M for "WRN28-12", which are those of
  WRN-28-10 (WRN-28-12 has 52.5 M), and 25.6 M for "WRN44-8", which has 41.9 M.

  Args:
    num_classes: C.
    dtype: computation dtype.
    depth: number of layers, 6n + 4 or 6n + 2.
    widen: factor of the channels 16, 32, 64.

  Raises:
    ConfigError: unless the depth is 6n + 4 or 6n + 2, or if `widen` is less than 1.
  """
  require(
    depth >= 8 and depth % 6 in (2, 4),
    f"depth must be 6n + 4 or 6n + 2 (16, 28, 40), got {depth}",
  )
  require(widen >= 1, f"widen must be at least 1, got {widen}")
  return WideResNet(depth=depth, widen=widen, num_classes=num_classes, dtype=dtype)
