"""ResNet and ResNeXt in four stages, with the stem for ImageNet or the one that papers use on 32-pixel images.

References:
  K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition. CVPR
    2016, table 1.
  S. Xie, R. Girshick, P. Dollar, Z. Tu, K. He: Aggregated Residual Transformations for
    Deep Neural Networks.
  CVPR 2017, table 1.

Modules are named as in torchvision.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require, require_choice
from jaxdistill.nn.conv import batch_norm, convolution
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
    dtype: of the arithmetic.
  """

  hidden: int
  features: int
  stride: int
  bottleneck: bool
  groups: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    def unit(x, index, features, kernel, stride=1, groups=1):
      x = convolution(
        features, kernel, stride, groups=groups, dtype=self.dtype, name=f"conv{index}"
      )(x)
      return batch_norm(train, self.dtype, name=f"bn{index}")(x)

    if self.bottleneck:
      y = nn.relu(unit(x, 1, self.hidden, 1))
      # The paper has the stride on the first 1x1, which skips three positions in four;
      # torchvision has it here.
      y = nn.relu(unit(y, 2, self.hidden, 3, self.stride, self.groups))
      y = unit(y, 3, self.features, 1)
    else:
      y = nn.relu(unit(x, 1, self.hidden, 3, self.stride))
      y = unit(y, 2, self.features, 3)
    if self.stride > 1 or x.shape[-1] != self.features:
      x = convolution(
        self.features, 1, self.stride, dtype=self.dtype, name="downsample.0"
      )(x)
      x = batch_norm(train, self.dtype, name="downsample.1")(x)
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
    dtype: of the arithmetic.
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
    kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
    x = convolution(self.width, kernel, stride, dtype=self.dtype, name="conv1")(image)
    x = nn.relu(batch_norm(train, self.dtype, name="bn1")(x))
    if self.stem == "imagenet":
      x = max_pool(x, 3, 2, padding=1)
    outputs = {"stem": x}
    for stage, count in enumerate(self.blocks, start=1):
      channels = self.width * 2 ** (stage - 1)
      features = 4 * channels if self.bottleneck else channels
      for block in range(count):
        stride = 2 if stage > 1 and block == 0 else 1
        x = Block(
          self.hidden * channels,
          features,
          stride,
          self.bottleneck,
          self.groups,
          self.dtype,
          name=f"layer{stage}.{block}",
        )(x, train)
      outputs[f"stage{stage}"] = x
    return classify(x, outputs, self.num_classes)


def _build(
  blocks: tuple[int, ...],
  bottleneck: bool,
  num_classes: int,
  dtype: Any,
  stem: str,
  width: int,
  *,
  groups: int = 1,
  hidden: int = 1,
) -> nn.Module:
  """Builds a network after checking what can be configured.

  Raises:
    ConfigError: for an unknown stem, or a width that is less than 1 or does not fill
      the groups evenly.
  """
  require_choice(stem=(stem, STEMS))
  step = groups // hidden or 1
  require(
    width >= 1 and width % step == 0,
    f"width must be a positive multiple of {step}, got {width}",
  )
  return ResNet(blocks, bottleneck, num_classes, stem, width, groups, hidden, dtype)


def resnet18(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Builds ResNet-18: 11.69 M parameters with 1000 classes.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _build((2, 2, 2, 2), False, num_classes, dtype, stem, width)


def resnet34(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Builds ResNet-34: 21.80 M parameters with 1000 classes.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _build((3, 4, 6, 3), False, num_classes, dtype, stem, width)


def resnet50(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Builds ResNet-50: 25.56 M parameters with 1000 classes.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _build((3, 4, 6, 3), True, num_classes, dtype, stem, width)


def resnet101(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Builds ResNet-101: 44.55 M parameters with 1000 classes.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _build((3, 4, 23, 3), True, num_classes, dtype, stem, width)


def resnet152(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Builds ResNet-152: 60.19 M parameters with 1000 classes; Competitive Distillation's table names 60.2 M.

  Raises:
    ConfigError: for an unknown stem or a width less than 1.
  """
  return _build((3, 8, 36, 3), True, num_classes, dtype, stem, width)


def resnext50(
  *, num_classes: int, dtype: Any = jnp.float32, stem: str = "imagenet", width: int = 64
) -> nn.Module:
  """Builds ResNeXt-50 32x4d: 25.03 M parameters with 1000 classes.

  The 32 groups stay when the width changes; their channels, four in the first stage at
  width 64, change with it.

  Raises:
    ConfigError: for an unknown stem, or a width that is not a positive multiple of 16.
  """
  return _build(
    (3, 4, 6, 3), True, num_classes, dtype, stem, width, groups=32, hidden=2
  )
