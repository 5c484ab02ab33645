"""SqueezeNet 1.1: fewer operations than the paper's SqueezeNet, as many parameters.

Modules are named as in torchvision.

Reference:
  F. Iandola, S. Han, M. Moskewicz, K. Ashraf, W. Dally, K. Keutzer: SqueezeNet:
    AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size.
    arXiv:1602.07360, 2016, table 1; version 1.1 is in the authors' repository only.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require_rate
from jaxdistill.nn.conv import convolution, member_conv
from jaxdistill.nn.heads import max_pool, require_side

IMAGE_SIZE = 224
# Side of the smallest image, in pixels.
SMALLEST = 17


class FireChannels(NamedTuple):
  """Channels of a fire module.

  Attributes:
    squeezed: of the first convolution.
    expanded: of each of the two others.
  """

  squeezed: int
  expanded: int


# The fire modules of each stage.
STAGES = (
  (FireChannels(16, 64), FireChannels(16, 64)),
  (FireChannels(32, 128), FireChannels(32, 128)),
  (
    FireChannels(48, 192),
    FireChannels(48, 192),
    FireChannels(64, 256),
    FireChannels(64, 256),
  ),
)


class Fire(nn.Module):
  """A fire module: a 1x1 convolution to few channels, then a 1x1 and a 3x3 abreast.

  Attributes:
    channels: of its convolutions.
    dtype: computation dtype.
  """

  channels: FireChannels
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Turns a map [B, H, W, D] into [B, H, W, 2 * expanded]."""

    def conv(x, channels, kernel, *, name):
      return convolution(channels, kernel, dtype=self.dtype, bias=True, name=name)(x)

    x = nn.relu(conv(x, self.channels.squeezed, 1, name="squeeze"))
    by_point = conv(x, self.channels.expanded, 1, name="expand1x1")
    by_window = conv(x, self.channels.expanded, 3, name="expand3x3")
    return nn.relu(jnp.concatenate([by_point, by_window], axis=-1))


class SqueezeNet(nn.Module):
  """SqueezeNet 1.1, without normalisation and linear layers.

  Attributes:
    num_classes: C.
    dropout: rate before the last convolution.
    width: channels of the first convolution.
    stages: the fire modules of each stage.
    dtype: computation dtype.
  """

  num_classes: int
  dropout: float = 0.5
  width: int = 64
  stages: tuple[tuple[FireChannels, ...], ...] = STAGES
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    require_side(image, SMALLEST)
    stem = convolution(
      self.width,
      3,
      stride=2,
      dtype=self.dtype,
      bias=True,
      padding=0,
      name="features.0",
    )
    x = nn.relu(stem(image))
    features = {"stem": x}

    # torchvision counts the ReLU and the poolings too.
    index = 2
    for stage, fires in enumerate(self.stages, start=1):
      x = max_pool(x, 3, 2, ceil=True)
      index += 1
      for channels in fires:
        x = Fire(channels, dtype=self.dtype, name=f"features.{index}")(x)
        index += 1
      features[f"stage{stage}"] = x

    # Every position is classified, then the scores are averaged.
    x = nn.Dropout(self.dropout, deterministic=not train)(x).astype(jnp.float32)
    # `convolution` scales weights by the number of outputs: with few classes the logits
    # would start out large.
    classifier = nn.Conv(
      self.num_classes,
      (1, 1),
      conv_general_dilated=member_conv,
      kernel_init=nn.initializers.normal(0.01),
      name="classifier.1",
    )
    logits = nn.relu(classifier(x)).mean(axis=(1, 2))
    features["pooled"] = x.mean(axis=(1, 2))
    return ModelOutput(logits, features)


def squeezenet1_1(
  *, num_classes: int, dtype: Any = jnp.float32, dropout: float = 0.5
) -> nn.Module:
  """Returns SqueezeNet 1.1: 1.24 M parameters with 1000 classes.

  It classifies every position by a 1x1 convolution and ReLU and averages the outcomes,
  so that its logits are never negative; "pooled" is the mean over positions of what
  that convolution reads.

  Args:
    num_classes: C.
    dtype: computation dtype.
    dropout: rate before the last convolution.

  Raises:
    ConfigError: for a dropout outside [0, 1), and when called, for images below 17
      pixels.
  """
  require_rate(dropout=dropout)
  return SqueezeNet(num_classes=num_classes, dropout=dropout, dtype=dtype)
