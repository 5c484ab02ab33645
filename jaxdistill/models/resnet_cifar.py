"""ResNet for 32-pixel images: 6n + 2 layers in three stages, shortcuts without weights.

Modules are named as in github.com/akamaster/pytorch_resnet_cifar10, which has weights
for CIFAR-10.

Reference:
  K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition. CVPR
    2016, section 4.2.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.nn.conv import conv_norm
from jaxdistill.nn.heads import classify

IMAGE_SIZE = 32


def padded_shortcut(x: jax.Array, stride: int, features: int) -> jax.Array:
  """Returns a map in the shape that a block gives it: option A of the paper.

  Args:
    x: [B, H, W, D] input of the block.
    stride: every `stride`-th position is kept, in rows and in columns.
    features: channels F of the block's output. Those that `x` has not are zeros, half
      of them on either side.

  Returns:
    [B, H / stride, W / stride, F].
  """
  missing = features - x.shape[-1]
  before = missing // 2
  after = missing - before
  kept = x[:, ::stride, ::stride]
  return jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (before, after)))


class ResNet(nn.Module):
  """A CIFAR ResNet.

  Attributes:
    depth: layers, 6n + 2.
    num_classes: C.
    width: channels of the first stage; the others have twice and four times as many.
    dtype: computation dtype.
  """

  depth: int
  num_classes: int
  width: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    unit = functools.partial(conv_norm, kernel=3, train=train, dtype=self.dtype)
    blocks = (self.depth - 2) // 6
    x = nn.relu(unit(image, self.width, names=("conv1", "bn1")))
    features = {"stem": x}
    for stage in (1, 2, 3):
      channels = self.width * 2 ** (stage - 1)
      for block in range(blocks):
        at = f"layer{stage}.{block}"
        stride = 2 if stage > 1 and block == 0 else 1
        y = unit(x, channels, stride=stride, names=(f"{at}.conv1", f"{at}.bn1"))
        y = nn.relu(y)
        shortcut = padded_shortcut(x, stride, channels)
        y = unit(y, channels, names=(f"{at}.conv2", f"{at}.bn2"))
        x = nn.relu(shortcut + y)
      features[f"stage{stage}"] = x
    return classify(x, features, self.num_classes, name="linear")


def resnet8(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Returns ResNet-8, for quick trials: 0.08 M parameters; it is not in the paper."""
  return ResNet(depth=8, num_classes=num_classes, width=width, dtype=dtype)


def resnet20(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Returns ResNet-20: 0.27 M parameters with 10 classes."""
  return ResNet(depth=20, num_classes=num_classes, width=width, dtype=dtype)


def resnet32(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Returns ResNet-32: 0.47 M parameters with 100 classes.

  This is also the size of the ResNet-32 in Competitive Distillation's table 1. Its
  table 2 gives that network 72.86 % on ImageNet, which this one cannot reach: there it
  must be a larger network, which the paper does not describe.
  """
  return ResNet(depth=32, num_classes=num_classes, width=width, dtype=dtype)


def resnet44(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Returns ResNet-44: 0.66 M parameters with 100 classes."""
  return ResNet(depth=44, num_classes=num_classes, width=width, dtype=dtype)


def resnet56(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Returns ResNet-56: 0.86 M parameters with 100 classes."""
  return ResNet(depth=56, num_classes=num_classes, width=width, dtype=dtype)


def resnet110(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Returns ResNet-110: 1.73 M parameters with 100 classes."""
  return ResNet(depth=110, num_classes=num_classes, width=width, dtype=dtype)
