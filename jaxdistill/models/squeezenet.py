"""SqueezeNet 1.1, which needs less arithmetic than the paper's SqueezeNet with as many parameters.

Reference:
  F. Iandola, S. Han, M. Moskewicz, K. Ashraf, W. Dally, K. Keutzer: SqueezeNet:
    AlexNet-level accuracy with 50x fewer
  parameters and <0.5MB model size. arXiv:1602.07360, 2016, table 1; version 1.1 is in
  the authors' repository only.

Modules are named as in torchvision.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require_rate
from jaxdistill.nn.conv import convolution, member_conv
from jaxdistill.nn.heads import max_pool, require_side

IMAGE_SIZE = 224
SMALLEST = 17
# (squeezed, expanded) channels of the fire modules of each stage.
STAGES = (
  ((16, 64), (16, 64)),
  ((32, 128), (32, 128)),
  ((48, 192), (48, 192), (64, 256), (64, 256)),
)


class Fire(nn.Module):
  """A fire module: a 1x1 convolution to few channels, then a 1x1 and a 3x3 convolution side by side.

  Attributes:
    squeezed: channels of the first convolution.
    expanded: channels of each of the others.
    dtype: of the arithmetic.
  """

  squeezed: int
  expanded: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = nn.relu(
      convolution(self.squeezed, 1, dtype=self.dtype, bias=True, name="squeeze")(x)
    )
    expanded = [
      convolution(self.expanded, k, dtype=self.dtype, bias=True, name=f"expand{k}x{k}")(
        x
      )
      for k in (1, 3)
    ]
    return nn.relu(jnp.concatenate(expanded, axis=-1))


class SqueezeNet(nn.Module):
  """SqueezeNet 1.1, without normalisation and linear layers.

  Attributes:
    num_classes: C.
    dropout: share of the last convolution's inputs that are dropped.
    width: channels of the first convolution.
    stages: (squeezed, expanded) channels of the fire modules of each stage.
    dtype: of the arithmetic.
  """

  num_classes: int
  dropout: float = 0.5
  width: int = 64
  stages: tuple[tuple[tuple[int, int], ...], ...] = STAGES
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    require_side(image, SMALLEST)
    x = nn.relu(
      convolution(
        self.width, 3, 2, dtype=self.dtype, bias=True, padding=0, name="features.0"
      )(image)
    )
    outputs, index = {"stem": x}, 2
    for stage, fires in enumerate(self.stages, start=1):
      x = max_pool(x, 3, 2, ceil=True)
      index += 1  # torchvision counts the pooling
      for squeezed, expanded in fires:
        x = Fire(squeezed, expanded, self.dtype, name=f"features.{index}")(x)
        index += 1
      outputs[f"stage{stage}"] = x
    x = nn.Dropout(self.dropout, deterministic=not train)(x).astype(jnp.float32)
    # `convolution` scales weights by the number of outputs: with few classes the logits
    # would start out large.
    scores = nn.Conv(
      self.num_classes,
      (1, 1),
      conv_general_dilated=member_conv,
      kernel_init=nn.initializers.normal(0.01),
      name="classifier.1",
    )(x)
    return ModelOutput(
      nn.relu(scores).mean(axis=(1, 2)), {**outputs, "pooled": x.mean(axis=(1, 2))}
    )


def squeezenet1_1(
  *, num_classes: int, dtype: Any = jnp.float32, dropout: float = 0.5
) -> nn.Module:
  """Builds SqueezeNet 1.1: 1.24 M parameters with 1000 classes.

  It classifies every position by a 1x1 convolution and ReLU and averages the outcomes,
  which so are never negative; "pooled" is the mean over positions of what that
  convolution reads.

  Raises:
    ConfigError: for a dropout outside [0, 1), and when called, for images below 17
      pixels.
  """
  require_rate(dropout=dropout)
  return SqueezeNet(num_classes, dropout, dtype=dtype)
