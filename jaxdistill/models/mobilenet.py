"""MobileNets, with the strides for 224-pixel images or fewer of them for 32-pixel ones.

The modules of V1 are named as in timm, those of V2 as in torchvision. Competitive
Distillation (Shi et al.) gives its "MobileNet", for which it cites V1, 3.5 M
parameters: those of V2 with 1000 classes, while V1 has 4.2 M.

References:
  A. Howard, M. Zhu, B. Chen, D. Kalenichenko, W. Wang, T. Weyand, M. Andreetto, H.
    Adam: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications. arXiv:1704.04861, 2017, table 1.
  M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L. Chen: MobileNetV2: Inverted Residuals
    and Linear Bottlenecks. CVPR 2018, table 2.
"""

import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require_choice, require_positive, require_rate
from jaxdistill.nn.activations import relu6
from jaxdistill.nn.conv import conv_norm
from jaxdistill.nn.heads import classify

IMAGE_SIZE = 224
STEMS = ("imagenet", "cifar")


class V1Stage(NamedTuple):
  """A stage of MobileNetV1.

  Attributes:
    channels: of its 1x1 convolutions, at width 1.
    blocks: pairs of a depthwise and a 1x1 convolution.
    stride: of the first depthwise convolution.
  """

  channels: int
  blocks: int
  stride: int


class V2Stage(NamedTuple):
  """A stage of MobileNetV2.

  Attributes:
    expansion: channels inside a block as a multiple of those of its input.
    channels: of the blocks' outputs, at width 1.
    blocks: inverted residuals.
    stride: of the first block.
  """

  expansion: int
  channels: int
  blocks: int
  stride: int


# The paper's table 1, whose last stride should be 1: the map stays at 7x7.
V1_STAGES = (
  V1Stage(channels=64, blocks=1, stride=1),
  V1Stage(channels=128, blocks=2, stride=2),
  V1Stage(channels=256, blocks=2, stride=2),
  V1Stage(channels=512, blocks=6, stride=2),
  V1Stage(channels=1024, blocks=2, stride=2),
)
# The paper's table 2.
V2_STAGES = (
  V2Stage(expansion=1, channels=16, blocks=1, stride=1),
  V2Stage(expansion=6, channels=24, blocks=2, stride=2),
  V2Stage(expansion=6, channels=32, blocks=3, stride=2),
  V2Stage(expansion=6, channels=64, blocks=4, stride=2),
  V2Stage(expansion=6, channels=96, blocks=3, stride=1),
  V2Stage(expansion=6, channels=160, blocks=3, stride=2),
  V2Stage(expansion=6, channels=320, blocks=1, stride=1),
)


def _channels(count: float) -> int:
  """Rounds to a multiple of 8, at most a tenth below `count`, as the authors' code."""
  rounded = max(8, int(count + 4) // 8 * 8)
  if rounded < 0.9 * count:
    return rounded + 8
  return rounded


def _stem_stride(stem: str) -> int:
  """Returns the stride of the first convolution."""
  return 1 if stem == "cifar" else 2


def _block_stride(stride: int, stem: str, *, stage: int, block: int) -> int:
  """Returns the stride of a block.

  Args:
    stride: of its stage in the paper.
    stem: "imagenet" or "cifar".
    stage: number of the stage, from 1.
    block: number of the block in it, from 0.
  """
  if block > 0:
    return 1
  if stem == "cifar" and stage == 2:
    return 1
  return stride


def _classify(
  x: jax.Array,
  features: dict[str, jax.Array],
  num_classes: int,
  *,
  dropout: float,
  train: bool,
  name: str,
) -> ModelOutput:
  """Classifies the mean of a map [B, H, W, D], in training with dropout."""
  pooled = x.astype(jnp.float32).mean(axis=(1, 2))
  pooled = nn.Dropout(dropout, deterministic=not train)(pooled)
  return classify(pooled, features, num_classes, name=name)


class MobileNetV1(nn.Module):
  """MobileNetV1: depthwise 3x3 and 1x1 convolutions in turn.

  Attributes:
    num_classes: C.
    width: factor of all channels.
    stem: "imagenet", or "cifar" without the strides of the first convolution and of the
      second stage, so that a 32-pixel image ends on a 4x4 map.
    dropout: rate before the classifier.
    stages: see `V1Stage`.
    dtype: computation dtype.
  """

  num_classes: int
  width: float = 1.0
  stem: str = "imagenet"
  dropout: float = 0.0
  stages: tuple[V1Stage, ...] = V1_STAGES
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""

    def unit(x, channels, kernel, stride=1, *, names, groups=1):
      x = conv_norm(
        x,
        channels,
        kernel,
        stride,
        train=train,
        dtype=self.dtype,
        names=names,
        groups=groups,
      )
      # The paper says ReLU; the released code has ReLU6.
      return relu6(x)

    stride = _stem_stride(self.stem)
    channels = _channels(32 * self.width)
    x = unit(image, channels, 3, stride=stride, names=("conv_stem", "bn1"))
    features = {"stem": x}
    for number, stage in enumerate(self.stages, start=1):
      channels = _channels(stage.channels * self.width)
      for block in range(stage.blocks):
        at = f"blocks.{number - 1}.{block}"
        stride = _block_stride(stage.stride, self.stem, stage=number, block=block)
        before = x.shape[-1]
        depthwise = (f"{at}.conv_dw", f"{at}.bn1")
        x = unit(x, before, 3, stride=stride, groups=before, names=depthwise)
        x = unit(x, channels, 1, names=(f"{at}.conv_pw", f"{at}.bn2"))
      features[f"stage{number}"] = x
    return _classify(
      x,
      features,
      self.num_classes,
      dropout=self.dropout,
      train=train,
      name="classifier",
    )


class MobileNetV2(nn.Module):
  """MobileNetV2: inverted residuals.

  In each of them a depthwise convolution lies between an expansion and a projection.

  Attributes:
    num_classes: C.
    width: factor of all channels; the last 1x1 convolution has at least 1280.
    stem: "imagenet", or "cifar" without the strides of the first convolution and of the
      second stage, so that a 32-pixel image ends on a 4x4 map.
    dropout: rate before the classifier.
    stages: see `V2Stage`.
    dtype: computation dtype.
  """

  num_classes: int
  width: float = 1.0
  stem: str = "imagenet"
  dropout: float = 0.0
  stages: tuple[V2Stage, ...] = V2_STAGES
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    linear = functools.partial(conv_norm, train=train, dtype=self.dtype)

    def unit(x, channels, kernel, stride=1, *, at, groups=1):
      names = (f"{at}.0", f"{at}.1")
      x = linear(x, channels, kernel, stride=stride, groups=groups, names=names)
      return relu6(x)

    def inverted_residual(x, channels, expansion, *, stride, at):
      hidden = expansion * x.shape[-1]
      index = 0
      y = x
      if expansion > 1:
        y = unit(y, hidden, 1, at=f"{at}.{index}")
        index += 1
      y = unit(y, hidden, 3, stride=stride, groups=hidden, at=f"{at}.{index}")
      y = linear(y, channels, 1, names=(f"{at}.{index + 1}", f"{at}.{index + 2}"))
      if stride == 1 and x.shape[-1] == channels:
        return x + y
      return y

    stride = _stem_stride(self.stem)
    channels = _channels(32 * self.width)
    x = unit(image, channels, 3, stride=stride, at="features.0")
    features = {"stem": x}
    index = 1
    for number, stage in enumerate(self.stages, start=1):
      channels = _channels(stage.channels * self.width)
      for block in range(stage.blocks):
        stride = _block_stride(stage.stride, self.stem, stage=number, block=block)
        at = f"features.{index}.conv"
        x = inverted_residual(x, channels, stage.expansion, stride=stride, at=at)
        index += 1
      features[f"stage{number}"] = x

    last = _channels(1280 * max(1.0, self.width))
    x = unit(x, last, 1, at=f"features.{index}")
    return _classify(
      x,
      features,
      self.num_classes,
      dropout=self.dropout,
      train=train,
      name="classifier.1",
    )


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
  """Returns MobileNetV1: 4.23 M parameters with 1000 classes at width 1.

  Args:
    num_classes: C.
    dtype: computation dtype.
    width: factor of all channels.
    stem: "imagenet", or "cifar" with fewer strides for small images.
    dropout: rate before the classifier.

  Raises:
    ConfigError: for a width that is not above 0, an unknown stem or a dropout outside
      [0, 1).
  """
  _check(width, stem, dropout)
  return MobileNetV1(
    num_classes=num_classes, width=width, stem=stem, dropout=dropout, dtype=dtype
  )


def v2(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  width: float = 1.0,
  stem: str = "imagenet",
  dropout: float = 0.0,
) -> nn.Module:
  """Returns MobileNetV2: 3.50 M parameters with 1000 classes at width 1.

  Args:
    num_classes: C.
    dtype: computation dtype.
    width: factor of all channels.
    stem: "imagenet", or "cifar" with fewer strides for small images.
    dropout: rate before the classifier; torchvision trains with 0.2.

  Raises:
    ConfigError: for a width that is not above 0, an unknown stem or a dropout outside
      [0, 1).
  """
  _check(width, stem, dropout)
  return MobileNetV2(
    num_classes=num_classes, width=width, stem=stem, dropout=dropout, dtype=dtype
  )
