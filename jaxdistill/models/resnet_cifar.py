"""ResNet for 32-pixel images: 6n + 2 layers in three stages, shortcuts without parameters.

Reference:
  K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition. CVPR
    2016, section 4.2.

Modules are named as in github.com/akamaster/pytorch_resnet_cifar10, which has weights
for CIFAR-10.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.nn.conv import batch_norm, convolution
from jaxdistill.nn.heads import classify

IMAGE_SIZE = 32


def _shortcut(x: jax.Array, stride: int, features: int) -> jax.Array:
  """Option A: every `stride`-th position, and zeros for the new channels, half of them on either side."""
  missing = features - x.shape[-1]
  return jnp.pad(
    x[:, ::stride, ::stride],
    ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)),
  )


class ResNet(nn.Module):
  """A CIFAR ResNet.

  Attributes:
    depth: layers, 6n + 2.
    num_classes: C.
    width: channels of the first stage; the others have twice and four times as many.
    dtype: of the arithmetic.
  """

  depth: int
  num_classes: int
  width: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    def unit(x, at, index, features, stride=1):
      x = convolution(features, 3, stride, dtype=self.dtype, name=f"{at}conv{index}")(x)
      return batch_norm(train, self.dtype, name=f"{at}bn{index}")(x)

    x = nn.relu(unit(image, "", 1, self.width))
    outputs = {"stem": x}
    for stage in range(3):
      features = self.width * 2**stage
      for block in range((self.depth - 2) // 6):
        at, stride = f"layer{stage + 1}.{block}.", 2 if stage and not block else 1
        y = nn.relu(unit(x, at, 1, features, stride))
        x = nn.relu(_shortcut(x, stride, features) + unit(y, at, 2, features))
      outputs[f"stage{stage + 1}"] = x
    return classify(x, outputs, self.num_classes, name="linear")


def resnet8(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Builds the ResNet with 8 layers, for quick trials; it is not in the paper."""
  return ResNet(8, num_classes, width, dtype)


def resnet20(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Builds ResNet-20: 0.27 M parameters with 10 classes."""
  return ResNet(20, num_classes, width, dtype)


def resnet32(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Builds ResNet-32: 0.47 M parameters with 100 classes.

  So many has the ResNet-32 of Competitive Distillation's Table 1. Its Table 2 gives
  that network 72.86 % on ImageNet, which this one cannot reach: there it must be a
  larger network, which the paper does not describe.
  """
  return ResNet(32, num_classes, width, dtype)


def resnet44(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Builds ResNet-44: 0.66 M parameters with 100 classes."""
  return ResNet(44, num_classes, width, dtype)


def resnet56(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Builds ResNet-56: 0.86 M parameters with 100 classes."""
  return ResNet(56, num_classes, width, dtype)


def resnet110(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Builds ResNet-110: 1.73 M parameters with 100 classes."""
  return ResNet(110, num_classes, width, dtype)
