"""MobileNets, with the strides for 224-pixel images or fewer of them for 32-pixel ones.

References:
  A. Howard, M. Zhu, B. Chen, D. Kalenichenko, W. Wang, T. Weyand, M. Andreetto, H.
    Adam: MobileNets: Efficient
  Convolutional Neural Networks for Mobile Vision Applications. arXiv 1704.04861, 2017,
  table 1. M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L. Chen: MobileNetV2: Inverted
  Residuals and Linear Bottlenecks. CVPR 2018, table 2.

The modules of V1 are named as in timm, those of V2 as in torchvision. Competitive
Distillation (Shi et al.) gives its "MobileNet", for which it cites V1, 3.5 M
parameters: those of V2 with 1000 classes, while V1 has 4.2 M.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require_choice, require_positive, require_rate
from jaxdistill.nn.conv import batch_norm, convolution
from jaxdistill.nn.heads import classify

IMAGE_SIZE = 224
STEMS = ("imagenet", "cifar")
# (channels, blocks, stride) of table 1, whose last stride should be 1: the map stays at
# 7x7.
V1_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
# (expansion, channels, blocks, stride) of table 2.
V2_STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


def _channels(count: float) -> int:
  """Rounds to a multiple of 8 that is not more than a tenth below `count`, as the authors' code does."""
  rounded = max(8, int(count + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * count else rounded


def _classify(
  x: jax.Array,
  outputs: dict[str, jax.Array],
  num_classes: int,
  dropout: float,
  train: bool,
  name: str,
) -> ModelOutput:
  """Classifies the mean of a map, in training with dropout."""
  pooled = x.astype(jnp.float32).mean(axis=(1, 2))
  pooled = nn.Dropout(dropout, deterministic=not train)(pooled)
  return classify(pooled, outputs, num_classes, name)


class MobileNetV1(nn.Module):
  """MobileNetV1: depthwise 3x3 and 1x1 convolutions in turn.

  Attributes:
    num_classes: C.
    width: factor of all channels.
    stem: "imagenet", or "cifar" without the strides of the first convolution and of the
      second stage, so that a 32-pixel image ends on a 4x4 map.
    dropout: share of the pooled features that is dropped in training.
    stages: channels, blocks and stride of each stage.
    dtype: of the arithmetic.
  """

  num_classes: int
  width: float = 1.0
  stem: str = "imagenet"
  dropout: float = 0.0
  stages: tuple[tuple[int, ...], ...] = V1_STAGES
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    def unit(x, features, kernel, conv, norm, stride=1, groups=1):
      x = convolution(
        features, kernel, stride, groups=groups, dtype=self.dtype, name=conv
      )(x)
      # The paper says ReLU; the released code has ReLU6.
      return nn.relu6(batch_norm(train, self.dtype, name=norm)(x))

    small = self.stem == "cifar"
    x = unit(
      image, _channels(32 * self.width), 3, "conv_stem", "bn1", 1 if small else 2
    )
    outputs = {"stem": x}
    for stage, (channels, blocks, stride) in enumerate(self.stages):
      for block in range(blocks):
        at = f"blocks.{stage}.{block}"
        step = stride if block == 0 and not (small and stage == 1) else 1
        x = unit(
          x, x.shape[-1], 3, f"{at}.conv_dw", f"{at}.bn1", step, groups=x.shape[-1]
        )
        x = unit(x, _channels(channels * self.width), 1, f"{at}.conv_pw", f"{at}.bn2")
      outputs[f"stage{stage + 1}"] = x
    return _classify(x, outputs, self.num_classes, self.dropout, train, "classifier")


class MobileNetV2(nn.Module):
  """MobileNetV2: inverted residuals, in which a depthwise convolution lies between an expansion and a projection.

  Attributes:
    num_classes: C.
    width: factor of all channels; the last 1x1 convolution has at least 1280.
    stem: "imagenet", or "cifar" without the strides of the first convolution and of the
      second stage, so that a 32-pixel image ends on a 4x4 map.
    dropout: share of the pooled features that is dropped in training.
    stages: expansion, channels, blocks and stride of each stage.
    dtype: of the arithmetic.
  """

  num_classes: int
  width: float = 1.0
  stem: str = "imagenet"
  dropout: float = 0.0
  stages: tuple[tuple[int, ...], ...] = V2_STAGES
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    def linear(x, features, kernel, conv, norm, stride=1, groups=1):
      x = convolution(
        features, kernel, stride, groups=groups, dtype=self.dtype, name=conv
      )(x)
      return batch_norm(train, self.dtype, name=norm)(x)

    def unit(x, features, kernel, at, stride=1, groups=1):
      return nn.relu6(linear(x, features, kernel, f"{at}.0", f"{at}.1", stride, groups))

    small = self.stem == "cifar"
    x = unit(image, _channels(32 * self.width), 3, "features.0", 1 if small else 2)
    outputs, index = {"stem": x}, 1
    for stage, (expansion, channels, blocks, stride) in enumerate(self.stages):
      features = _channels(channels * self.width)
      for block in range(blocks):
        at, expands = f"features.{index}.conv", int(expansion > 1)
        step = stride if block == 0 and not (small and stage == 1) else 1
        hidden = expansion * x.shape[-1]
        y = unit(x, hidden, 1, f"{at}.0") if expands else x
        y = unit(y, hidden, 3, f"{at}.{expands}", step, groups=hidden)
        y = linear(y, features, 1, f"{at}.{expands + 1}", f"{at}.{expands + 2}")
        x = x + y if step == 1 and x.shape[-1] == features else y
        index += 1
      outputs[f"stage{stage + 1}"] = x
    x = unit(x, _channels(1280 * max(1.0, self.width)), 1, f"features.{index}")
    return _classify(x, outputs, self.num_classes, self.dropout, train, "classifier.1")


def _check(width: float, stem: str, dropout: float) -> None:
  """Raises `ConfigError` for keywords that give no network."""
  require_positive(width=width)
  require_choice(stem=(stem, STEMS))
  require_rate(dropout=dropout)


def v1(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  width: float = 1.0,
  stem: str = "imagenet",
  dropout: float = 0.0,
) -> nn.Module:
  """Builds MobileNetV1: 4.23 M parameters with 1000 classes at width 1.

  Raises:
    ConfigError: for a width that is not above 0, an unknown stem or a dropout outside
      [0, 1).
  """
  _check(width, stem, dropout)
  return MobileNetV1(num_classes, width, stem, dropout, dtype=dtype)


def v2(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  width: float = 1.0,
  stem: str = "imagenet",
  dropout: float = 0.0,
) -> nn.Module:
  """Builds MobileNetV2: 3.50 M parameters with 1000 classes at width 1; torchvision trains it with a dropout of 0.2.

  Raises:
    ConfigError: for a width that is not above 0, an unknown stem or a dropout outside
      [0, 1).
  """
  _check(width, stem, dropout)
  return MobileNetV2(num_classes, width, stem, dropout, dtype=dtype)
