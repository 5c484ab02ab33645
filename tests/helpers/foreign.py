"""Networks of a user, who knows nothing of this package or only its interface.

Tests name them by "tests.helpers.foreign:factory".
"""

from flax import linen as nn
from flax import nnx
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.nn import batch_norm, convolution, logits_only, member_conv


class Linen(nn.Module):
  """A module with the interface of ours."""

  num_classes: int

  @nn.compact
  def __call__(self, image, train):
    x = convolution(4, 3, 2)(image)
    x = nn.relu(batch_norm(train)(x))
    pooled = x.mean((1, 2))
    logits = nn.Dense(self.num_classes)(pooled)
    return ModelOutput(logits, {"stage1": x, "pooled": pooled})


class OnlyLogits(nn.Module):
  """A module that returns logits, and calls its flag as Flax's examples do."""

  num_classes: int

  @nn.compact
  def __call__(self, x, *, deterministic=True):
    x = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
    x = nn.Dropout(0.5)(x, deterministic=deterministic)
    return nn.Dense(self.num_classes, name="head")(x)


class Nnx(nnx.Module):
  """An NNX module with batch statistics and dropout."""

  def __init__(self, num_classes, *, rngs):
    self.conv = nnx.Conv(
      3, 4, (3, 3), strides=2, conv_general_dilated=member_conv, rngs=rngs
    )
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)
    self.head = nnx.Linear(4, num_classes, rngs=rngs)

  def feature_map(self, x, train):
    """Returns the map that both kinds of output come from."""
    return nnx.relu(self.norm(self.conv(x), use_running_average=not train))

  def __call__(self, x, train):
    pooled = self.feature_map(x, train).mean((1, 2))
    return self.head(self.dropout(pooled, deterministic=not train))


class NnxWithFeatures(Nnx):
  """The same with the interface of ours."""

  def __call__(self, x, train):
    x = self.feature_map(x, train)
    pooled = x.mean((1, 2))
    return ModelOutput(self.head(pooled), {"stage1": x, "pooled": pooled})


def linen(*, num_classes, dtype=jnp.float32):
  return Linen(num_classes)


def only_logits(*, num_classes, dtype=jnp.float32):
  return logits_only(OnlyLogits(num_classes))


def from_nnx(*, num_classes, dtype=jnp.float32):
  return logits_only(nnx.bridge.to_linen(Nnx, num_classes))


def nnx_with_features(*, num_classes, dtype=jnp.float32):
  return nnx.bridge.to_linen(NnxWithFeatures, num_classes)


def wrong(*, num_classes, dtype=jnp.float32):
  return logits_only(nn.Conv(num_classes, (3, 3)))
