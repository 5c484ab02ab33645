"""A small network for small images and quick runs."""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.nn.conv import conv_norm
from jaxdistill.nn.heads import classify

IMAGE_SIZE = 32


class ConvNet(nn.Module):
  """Three plain convolutions with batch normalisation, the last two strided.

  Attributes:
    num_classes: C.
    width: channels of the first convolution; the others have twice and four times as
      many.
    dtype: computation dtype.
  """

  num_classes: int
  width: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    unit = functools.partial(conv_norm, kernel=3, train=train, dtype=self.dtype)
    stem = unit(image, self.width, names=("Conv_0", "BatchNorm_0"))
    stem = nn.relu(stem)
    stage1 = unit(stem, 2 * self.width, stride=2, names=("Conv_1", "BatchNorm_1"))
    stage1 = nn.relu(stage1)
    stage2 = unit(stage1, 4 * self.width, stride=2, names=("Conv_2", "BatchNorm_2"))
    stage2 = nn.relu(stage2)
    features = {"stem": stem, "stage1": stage1, "stage2": stage2}
    return classify(stage2, features, self.num_classes)


def convnet(
  *, num_classes: int, dtype: Any = jnp.float32, width: int = 16
) -> nn.Module:
  """Returns the network: 25 thousand parameters with 10 classes."""
  return ConvNet(num_classes=num_classes, width=width, dtype=dtype)
