"""GoogLeNet as papers use it on CIFAR: inception modules with batch normalisation.

Differs from the original in the stem, a single 3x3 convolution, in two 3x3 convolutions
in place of the 5x5, in having normalisation and no auxiliary classifiers. Modules are
named as in github.com/kuangliu/pytorch-cifar.

References:
  C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed, D. Anguelov, D. Erhan, V. Vanhoucke,
    A. Rabinovich: Going Deeper with Convolutions. CVPR 2015, table 1: the channels.
  S. Li, M. Lin, Y. Wang, Y. Wu, Y. Tian, L. Shao, R. Ji: Distilling a Powerful Student
    Model via Online Knowledge Distillation (FFSD). IEEE TNNLS 2022: has this variant in
    its tables.
"""

import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.nn.conv import conv_norm
from jaxdistill.nn.heads import classify, max_pool

IMAGE_SIZE = 32


class Channels(NamedTuple):
  """Channels of an inception module's convolutions, in the columns of table 1.

  Attributes:
    single: of the 1x1 branch.
    reduce3: of the 1x1 convolution of the 3x3 branch.
    out3: of its 3x3 convolution.
    reduce5: of the 1x1 convolution of the 5x5 branch.
    out5: of either of the two 3x3 convolutions that stand for its 5x5.
    pooled: of the pooled branch.
  """

  single: int
  reduce3: int
  out3: int
  reduce5: int
  out5: int
  pooled: int


STAGES = (
  (
    Channels(64, 96, 128, 16, 32, 32),
    Channels(128, 128, 192, 32, 96, 64),
  ),
  (
    Channels(192, 96, 208, 16, 48, 64),
    Channels(160, 112, 224, 24, 64, 64),
    Channels(128, 128, 256, 24, 64, 64),
    Channels(112, 144, 288, 32, 64, 64),
    Channels(256, 160, 320, 32, 128, 128),
  ),
  (
    Channels(256, 160, 320, 32, 128, 128),
    Channels(384, 192, 384, 48, 128, 128),
  ),
)


def _unit(
  x: jax.Array,
  channels: int,
  kernel: int,
  *,
  train: bool,
  dtype: Any,
  branch: str,
  index: int = 0,
) -> jax.Array:
  """Applies a convolution, normalisation and ReLU.

  Args:
    x: [B, H, W, D] map.
    channels: of the result.
    kernel: side of the kernel.
    train: whether to normalise by the batch's own statistics.
    dtype: computation dtype.
    branch: name of the PyTorch module that holds them.
    index: of the convolution in it; the normalisation follows.
  """
  x = conv_norm(
    x,
    channels,
    kernel,
    train=train,
    dtype=dtype,
    bias=True,
    names=(f"{branch}.{index}", f"{branch}.{index + 1}"),
  )
  return nn.relu(x)


class Inception(nn.Module):
  """Four branches side by side: 1x1, 3x3, 5x5 as two 3x3, and max pooling.

  All but the first have a 1x1 convolution too.

  Attributes:
    channels: of the convolutions.
    dtype: computation dtype.
  """

  channels: Channels
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Turns a map [B, H, W, D] into [B, H, W, channels of all branches]."""
    unit = functools.partial(_unit, train=train, dtype=self.dtype)
    channels = self.channels
    single = unit(x, channels.single, 1, branch="b1")

    three = unit(x, channels.reduce3, 1, branch="b2")
    three = unit(three, channels.out3, 3, branch="b2", index=3)

    five = unit(x, channels.reduce5, 1, branch="b3")
    five = unit(five, channels.out5, 3, branch="b3", index=3)
    five = unit(five, channels.out5, 3, branch="b3", index=6)

    # In PyTorch the pooling is this branch's module 0.
    pooled = max_pool(x, 3, 1, padding=1)
    pooled = unit(pooled, channels.pooled, 1, branch="b4", index=1)
    return jnp.concatenate([single, three, five, pooled], axis=-1)


class GoogLeNet(nn.Module):
  """GoogLeNet for small images: three stages with max pooling between them.

  Attributes:
    num_classes: C.
    stem: channels of the first convolution.
    stages: channels of the inception modules of each stage.
    dtype: computation dtype.
  """

  num_classes: int
  stem: int = 192
  stages: tuple[tuple[Channels, ...], ...] = STAGES
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    x = _unit(image, self.stem, 3, train=train, dtype=self.dtype, branch="pre_layers")
    features = {"stem": x}
    for stage, modules in enumerate(self.stages, start=1):
      if stage > 1:
        x = max_pool(x, 3, 2, padding=1)
      for letter, channels in zip("abcde", modules, strict=False):
        # The paper counts the stem as its first two stages: 3a, 3b, 4a, ...
        name = f"{letter}{stage + 2}"
        x = Inception(channels, dtype=self.dtype, name=name)(x, train)
      features[f"stage{stage}"] = x
    return classify(x, features, self.num_classes, name="linear")


def googlenet(*, num_classes: int, dtype: Any = jnp.float32) -> nn.Module:
  """Returns GoogLeNet: 6.17 M parameters with 10 classes."""
  return GoogLeNet(num_classes=num_classes, dtype=dtype)
