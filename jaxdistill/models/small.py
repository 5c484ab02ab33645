"""A small network for small images and quick runs."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.nn.conv import batch_norm, convolution
from jaxdistill.nn.heads import classify

IMAGE_SIZE = 32


class ConvNet(nn.Module):
  """Three plain convolutions with batch normalisation, the last two strided.

  Attributes:
    num_classes: C.
    width: channels of the first convolution; the others have twice and four times as
      many.
    dtype: of the arithmetic.
  """

  num_classes: int
  width: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    x, outputs = image, {}
    for name, factor, stride in (("stem", 1, 1), ("stage1", 2, 2), ("stage2", 4, 2)):
      x = convolution(factor * self.width, 3, stride, dtype=self.dtype)(x)
      x = nn.relu(batch_norm(train, self.dtype)(x))
      outputs[name] = x
    return classify(x, outputs, self.num_classes)


def convnet(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Builds the network: 25 thousand parameters with 10 classes."""
  return ConvNet(num_classes, width, dtype)
