"""ResNet and ResNeXt in four stages, with the stem for ImageNet or one for 32 pixels.

Modules are named as in torchvision.

References:
  K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition. CVPR
    2016, table 1.
  S. Xie, R. Girshick, P. Dollar, Z. Tu, K. He: Aggregated Residual Transformations for
    Deep Neural Networks. CVPR 2017, table 1.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require, require_choice
from jaxdistill.nn.conv import conv_norm
from jaxdistill.nn.heads import classify, max_pool

IMAGE_SIZE = 224
STEMS = ("imagenet", "cifar")


class Block(nn.Module):
  """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1.

  The shortcut is the identity, or a 1x1 convolution with normalisation where the shape
  changes.

  Attributes:
    hidden: channels of the 3x3 convolutions.
    features: channels of the output; a block of two convolutions has as many hidden
      ones.
    stride: of the first 3x3 convolution.
    bottleneck: whether the block is a bottleneck.
    groups: of the 3x3 convolution of a bottleneck.
    dtype: computation dtype.
  """

  hidden: int
  features: int
  stride: int
  bottleneck: bool
  groups: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Turns a map [B, H, W, D] into [B, H / stride, W / stride, features]."""
    unit = functools.partial(conv_norm, train=train, dtype=self.dtype)
    if self.bottleneck:
      y = nn.relu(unit(x, self.hidden, 1, names=("conv1", "bn1")))
      # The paper has the stride on the first 1x1, which skips three positions in four;
      # torchvision has it here.
      y = unit(
        y,
        self.hidden,
        3,
        stride=self.stride,
        groups=self.groups,
        names=("conv2", "bn2"),
      )
      y = unit(nn.relu(y), self.features, 1, names=("conv3", "bn3"))
    else:
      y = nn.relu(unit(x, self.hidden, 3, stride=self.stride, names=("conv1", "bn1")))
      y = unit(y, self.features, 3, names=("conv2", "bn2"))

    if self.stride > 1 or x.shape[-1] != self.features:
      names = ("downsample.0", "downsample.1")
      x = unit(x, self.features, 1, stride=self.stride, names=names)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """A ResNet, or with groups a ResNeXt.

  Attributes:
    blocks: number of blocks in each stage.
    bottleneck: whether the blocks are bottlenecks, whose output has four times the
      channels of their stage.
    num_classes: C.
    stem: "imagenet" for a strided 7x7 convolution and pooling, "cifar" for a 3x3
      convolution.
    width: channels of the first stage; each further stage has twice as many.
    groups: of the 3x3 convolutions in bottlenecks.
    hidden: hidden channels of a block as a multiple of those of its stage.
    dtype: computation dtype.
  """

  blocks: tuple[int, ...]
  bottleneck: bool
  num_classes: int
  stem: str = "imagenet"
  width: int = 64
  groups: int = 1
  hidden: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    unit = functools.partial(conv_norm, train=train, dtype=self.dtype)
    if self.stem == "imagenet":
      x = nn.relu(unit(image, self.width, 7, stride=2, names=("conv1", "bn1")))
      x = max_pool(x, 3, 2, padding=1)
    else:
      x = nn.relu(unit(image, self.width, 3, names=("conv1", "bn1")))

    features = {"stem": x}
    for stage, count in enumerate(self.blocks, start=1):
      channels = self.width * 2 ** (stage - 1)
      for block in range(count):
        module = Block(
          hidden=self.hidden * channels,
          features=4 * channels if self.bottleneck else channels,
          stride=2 if stage > 1 and block == 0 else 1,
          bottleneck=self.bottleneck,
          groups=self.groups,
          dtype=self.dtype,
          name=f"layer{stage}.{block}",
        )
        x = module(x, train)
      features[f"stage{stage}"] = x
    return classify(x, features, self.num_classes)


def _resnet(
  blocks: tuple[int, ...],
  *,
  bottleneck: bool,
  num_classes: int,
  dtype: Any,
  stem: str,
  width: int,
  groups: int = 1,
  hidden: int = 1,
) -> nn.Module:
  """Returns a network after checking what can be configured; arguments as `ResNet`.

  Raises:
    ConfigError: for an unknown stem, or a width that is less than 1 or does not fill
      the groups evenly.
  """
  require_choice(stem=(stem, STEMS))
  # Hidden channels, `hidden` times the width, must be a multiple of the groups.
  step = max(1, groups // hidden)
  require(
    width >= 1 and width % step == 0,
    f"width must be a positive multiple of {step}, got {width}",
  )
  return ResNet(
    blocks=blocks,
    bottleneck=bottleneck,
    num_classes=num_classes,
    stem=stem,
    width=width,
    groups=groups,
    hidden=hidden,
    dtype=dtype,
  )


def resnet18(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Returns ResNet-18: 11.69 M parameters with 1000 classes.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images.
    width: channels of the first stage.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _resnet(
    (2, 2, 2, 2),
    bottleneck=False,
    num_classes=num_classes,
    dtype=dtype,
    stem=stem,
    width=width,
  )


def resnet34(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Returns ResNet-34: 21.80 M parameters with 1000 classes.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images.
    width: channels of the first stage.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _resnet(
    (3, 4, 6, 3),
    bottleneck=False,
    num_classes=num_classes,
    dtype=dtype,
    stem=stem,
    width=width,
  )


def resnet50(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Returns ResNet-50: 25.56 M parameters with 1000 classes.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images.
    width: channels of the first stage.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _resnet(
    (3, 4, 6, 3),
    bottleneck=True,
    num_classes=num_classes,
    dtype=dtype,
    stem=stem,
    width=width,
  )


def resnet101(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Returns ResNet-101: 44.55 M parameters with 1000 classes.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images.
    width: channels of the first stage.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _resnet(
    (3, 4, 23, 3),
    bottleneck=True,
    num_classes=num_classes,
    dtype=dtype,
    stem=stem,
    width=width,
  )


def resnet152(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Returns ResNet-152: 60.19 M parameters with 1000 classes.

  Competitive Distillation's table 1 gives 60.2 M.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images.
    width: channels of the first stage.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _resnet(
    (3, 8, 36, 3),
    bottleneck=True,
    num_classes=num_classes,
    dtype=dtype,
    stem=stem,
    width=width,
  )


def resnext50(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Returns ResNeXt-50 32x4d: 25.03 M parameters with 1000 classes.

  The 32 groups stay when the width changes; their channels, four in the first stage at
  width 64, change with it.

  Args:
    num_classes: C.
    dtype: computation dtype.
    stem: "imagenet", or "cifar" for small images.
    width: channels of the first stage.

  Raises:
    ConfigError: for an unknown stem, or a width that is not a positive multiple of 16.
  """
  return _resnet(
    (3, 4, 6, 3),
    bottleneck=True,
    num_classes=num_classes,
    dtype=dtype,
    stem=stem,
    width=width,
    groups=32,
    hidden=2,
  )
