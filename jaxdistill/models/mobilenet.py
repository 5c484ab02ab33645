"""MobileNetV2 for 32-pixel images.

Reference:
  M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L. Chen: MobileNetV2: Inverted Residuals and Linear
  Bottlenecks. CVPR 2018, table 2.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.errors import require_positive
from jaxdistill.models import layers
from jaxdistill.types import ModelOutput

# (expansion, channels, blocks, stride) of table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
          (6, 320, 1, 1))


def _channels(count: float) -> int:
  """Rounds to a multiple of 8 that is not more than a tenth below `count`, as the authors' code does."""
  rounded = max(8, int(count + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * count else rounded


class MobileNetV2(nn.Module):
  """MobileNetV2 with the strides of the stem and of the second stage taken out, as is usual for CIFAR.

  A 32-pixel image ends on a 4x4 map; with the paper's strides, made for 224 pixels, on a single pixel.

  Attributes:
    num_classes: C.
    width: factor of all channels.
    dtype: of the arithmetic.
  """

  num_classes: int
  width: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    def unit(x, features, kernel, stride=1, groups=1, activate=True):
      x = layers.conv(features, kernel, stride, groups=groups, dtype=self.dtype)(x)
      x = layers.batch_norm(train, self.dtype)(x)
      return nn.relu6(x) if activate else x

    x = unit(image, _channels(32 * self.width), 3)
    outputs = {"stem": x}
    for stage, (expansion, channels, blocks, stride) in enumerate(STAGES):
      features = _channels(channels * self.width)
      for block in range(blocks):
        step = stride if block == 0 and stage != 1 else 1
        hidden = expansion * x.shape[-1]
        y = unit(x, hidden, 1) if expansion > 1 else x
        y = unit(y, hidden, 3, step, groups=hidden)
        y = unit(y, features, 1, activate=False)
        x = x + y if step == 1 and x.shape[-1] == features else y
      outputs[f"stage{stage + 1}"] = x
    x = unit(x, _channels(1280 * max(1.0, self.width)), 1)
    return layers.classify(x, outputs, self.num_classes)


def v2(*, num_classes: int, dtype: Any = jnp.float32, width: float = 1.0) -> nn.Module:
  """Builds MobileNetV2: 3.5 M parameters with 1000 classes at width 1.

  Raises:
    ConfigError: for a width that is not above 0.
  """
  require_positive(width=width)
  return MobileNetV2(num_classes, width, dtype)
