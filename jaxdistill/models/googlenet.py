"""GoogLeNet as papers use it on CIFAR: the inception modules of the original with batch normalisation.

References:
  C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed, D. Anguelov, D. Erhan, V. Vanhoucke,
    A. Rabinovich: Going
  Deeper with Convolutions. CVPR 2015, table 1: the channels.
  S. Li, M. Lin, Y. Wang, Y. Wu, Y. Tian, L. Shao, R. Ji: Distilling a Powerful Student
    Model via Online Knowledge
  Distillation (FFSD). IEEE TNNLS 2022: has this variant in its tables.

Differs from the original in the stem, a single 3x3 convolution, in two 3x3 convolutions
in place of the 5x5, in having normalisation and no auxiliary classifiers. Modules are
named as in github.com/kuangliu/pytorch-cifar.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.nn.conv import batch_norm, convolution
from jaxdistill.nn.heads import classify, max_pool

IMAGE_SIZE = 32
# The inception modules of each stage, in the columns of table 1: channels of the 1x1
# branch, of the two convolutions of the 3x3 branch, of those of the 5x5 branch and of
# the pooled branch.
STAGES = (
  ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
  (
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
  ),
  ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def _unit(
  x: jax.Array,
  train: bool,
  dtype: Any,
  features: int,
  kernel: int,
  at: str,
  index: int = 0,
) -> jax.Array:
  """Applies the convolution `at.index`, the normalisation after it and a ReLU."""
  x = convolution(features, kernel, dtype=dtype, bias=True, name=f"{at}.{index}")(x)
  return nn.relu(batch_norm(train, dtype, name=f"{at}.{index + 1}")(x))


class Inception(nn.Module):
  """Four branches side by side: 1x1, 3x3, 5x5 as two 3x3, and max pooling, each with a 1x1 convolution.

  Attributes:
    channels: of the convolutions, as in `STAGES`.
    dtype: of the arithmetic.
  """

  channels: tuple[int, ...]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    def branch(name, x, *convolutions, first=0):
      for i, (features, kernel) in enumerate(convolutions):
        x = _unit(x, train, self.dtype, features, kernel, name, first + 3 * i)
      return x

    single, reduce3, out3, reduce5, out5, pooled = self.channels
    return jnp.concatenate(
      [
        branch("b1", x, (single, 1)),
        branch("b2", x, (reduce3, 1), (out3, 3)),
        branch("b3", x, (reduce5, 1), (out5, 3), (out5, 3)),
        branch("b4", max_pool(x, 3, 1, padding=1), (pooled, 1), first=1),
      ],
      axis=-1,
    )


class GoogLeNet(nn.Module):
  """GoogLeNet for small images: three stages of inception modules with max pooling between them.

  Attributes:
    num_classes: C.
    stem: channels of the first convolution.
    stages: channels of the inception modules of each stage.
    dtype: of the arithmetic.
  """

  num_classes: int
  stem: int = 192
  stages: tuple[tuple[tuple[int, ...], ...], ...] = STAGES
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    x = _unit(image, train, self.dtype, self.stem, 3, "pre_layers")
    outputs = {"stem": x}
    for stage, modules in enumerate(self.stages, start=1):
      if stage > 1:
        x = max_pool(x, 3, 2, padding=1)
      for letter, channels in zip("abcde", modules):
        x = Inception(channels, self.dtype, name=f"{letter}{stage + 2}")(x, train)
      outputs[f"stage{stage}"] = x
    return classify(x, outputs, self.num_classes, name="linear")


def googlenet(*, num_classes: int, dtype: Any = jnp.float32) -> nn.Module:
  """Builds GoogLeNet: 6.17 M parameters with 10 classes."""
  return GoogLeNet(num_classes, dtype=dtype)
