"""DenseNet for 32-pixel images.

Modules are named as torchvision names those of its DenseNet for ImageNet.

References:
  G. Huang, Z. Liu, L. van der Maaten, K. Weinberger: Densely Connected Convolutional
    Networks. CVPR 2017, table 2.
  S. Li, M. Lin, Y. Wang, Y. Wu, Y. Tian, L. Shao, R. Ji: Distilling a Powerful Student
    Model via Online Knowledge Distillation (FFSD). IEEE TNNLS 2022: its DenseNet-40-12
    begins with 24 channels.
  L. Gao, X. Lan, H. Mi, D. Feng, K. Xu, Y. Peng: Multistructure-Based Collaborative
    Online Distillation. Entropy 2019: interval distillation, with DenseNet-BC-100-12.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require
from jaxdistill.nn.conv import convolution
from jaxdistill.nn.heads import classify
from jaxdistill.nn.norm import batch_norm

IMAGE_SIZE = 32
NUM_BLOCKS = 3


class DenseLayer(nn.Module):
  """Appends channels to a map: normalisation, ReLU and a 3x3 convolution of it.

  Attributes:
    growth: channels that it appends.
    bottleneck: whether a 1x1 convolution first reduces the input to four times as many.
    dtype: computation dtype.
  """

  growth: int
  bottleneck: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Turns a map [B, H, W, D] into [B, H, W, D + growth]."""

    def unit(x, index, channels, kernel):
      x = nn.relu(batch_norm(train, self.dtype, name=f"norm{index}")(x))
      conv = convolution(channels, kernel, dtype=self.dtype, name=f"conv{index}")
      return conv(x)

    if self.bottleneck:
      y = unit(x, 1, 4 * self.growth, kernel=1)
      y = unit(y, 2, self.growth, kernel=3)
    else:
      y = unit(x, 1, self.growth, kernel=3)
    return jnp.concatenate([x, y], axis=-1)


class DenseNet(nn.Module):
  """A DenseNet of three blocks of equal depth.

  Dropout, which the paper has without augmentation, is left out. The maps that it
  returns are those after the normalisation and ReLU at the end of each block; FFSD's
  code takes the first two before them.

  Attributes:
    count: number of layers in each block.
    growth: channels that each layer appends.
    initial: channels of the first convolution.
    num_classes: C.
    bottleneck: whether the layers have a 1x1 convolution before the 3x3.
    compression: fraction of the channels that the transitions between blocks keep.
    dtype: computation dtype.
  """

  count: int
  growth: int
  initial: int
  num_classes: int
  bottleneck: bool = False
  compression: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    x = convolution(self.initial, 3, dtype=self.dtype, name="features.conv0")(image)
    features = {"stem": x}
    for block in range(1, NUM_BLOCKS + 1):
      for layer in range(1, self.count + 1):
        name = f"features.denseblock{block}.denselayer{layer}"
        dense = DenseLayer(self.growth, self.bottleneck, dtype=self.dtype, name=name)
        x = dense(x, train)

      is_last = block == NUM_BLOCKS
      norm = "features.norm5" if is_last else f"features.transition{block}.norm"
      x = nn.relu(batch_norm(train, self.dtype, name=norm)(x))
      features[f"stage{block}"] = x
      if is_last:
        break

      # The paper pools after the 1x1 convolution: the same numbers for four times the
      # work.
      x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
      channels = int(self.compression * x.shape[-1])
      name = f"features.transition{block}.conv"
      x = convolution(channels, 1, dtype=self.dtype, name=name)(x)
    return classify(x, features, self.num_classes, name="classifier")


def densenet(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  depth: int = 40,
  growth: int = 12,
  bottleneck: bool = False,
  compression: float = 1.0,
  initial: int = 0,
) -> nn.Module:
  """Returns a DenseNet: 1.02 M parameters with 10 classes at depth 40 and growth 12.

  Args:
    num_classes: C.
    dtype: computation dtype.
    depth: number of layers, 3n + 4, or 6n + 4 with a bottleneck.
    growth: channels that each layer appends.
    bottleneck: whether the layers have a 1x1 convolution before the 3x3.
    compression: fraction of the channels that the transitions between blocks keep.
    initial: channels of the first convolution; 0 takes the paper's number: 16, or
      2 * growth with a bottleneck.

  Raises:
    ConfigError: for a depth other than 3n + 4, with a bottleneck 6n + 4, or a size that
      is out of range.
  """
  step = 6 if bottleneck else 3
  require(
    depth > 4 and (depth - 4) % step == 0,
    f"depth must be {step}n + 4 with n of at least 1, got {depth}",
  )
  require(growth >= 1, f"growth must be at least 1, got {growth}")
  require(
    0 < compression <= 1,
    f"compression must be above 0 and at most 1, got {compression}",
  )
  require(initial >= 0, f"initial must be at least 0, got {initial}")
  papers_initial = 2 * growth if bottleneck else 16
  return DenseNet(
    count=(depth - 4) // step,
    growth=growth,
    initial=initial or papers_initial,
    num_classes=num_classes,
    bottleneck=bottleneck,
    compression=compression,
    dtype=dtype,
  )


def densenet40(
  *, num_classes: int, dtype: Any = jnp.float32, initial: int = 0
) -> nn.Module:
  """Returns DenseNet-40-12: 1.02 M parameters with 10 classes.

  Args:
    num_classes: C.
    dtype: computation dtype.
    initial: channels of the first convolution; 0 for 16 as in the paper, 24 for FFSD's
      network of 1.06 M parameters.

  Raises:
    ConfigError: for a negative `initial`.
  """
  return densenet(
    num_classes=num_classes, dtype=dtype, depth=40, growth=12, initial=initial
  )


def densenet100(*, num_classes: int, dtype: Any = jnp.float32) -> nn.Module:
  """Returns DenseNet-100-12: 6.98 M parameters with 10 classes."""
  return densenet(num_classes=num_classes, dtype=dtype, depth=100, growth=12)


def densenet_bc100(*, num_classes: int, dtype: Any = jnp.float32) -> nn.Module:
  """Returns DenseNet-BC-100-12: 0.77 M parameters with 10 classes.

  Interval distillation has it as a member.
  """
  return densenet(
    num_classes=num_classes,
    dtype=dtype,
    depth=100,
    growth=12,
    bottleneck=True,
    compression=0.5,
  )
