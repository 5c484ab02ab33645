"""Networks of a user, who knows nothing of this package or only its interface: tests name them by "foreign:factory"."""

from flax import linen as nn
from flax import nnx
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.models import layers
from jaxdistill.nn.adapt import logits_only


class Linen(nn.Module):
  """A module with the interface of ours."""

  num_classes: int

  @nn.compact
  def __call__(self, image, train):
    x = nn.relu(layers.batch_norm(train)(layers.conv(4, 3, 2)(image)))
    return ModelOutput(
      nn.Dense(self.num_classes)(x.mean((1, 2))),
      {"stage1": x, "pooled": x.mean((1, 2))},
    )


class OnlyLogits(nn.Module):
  """A module that returns logits, has dropout and calls its flag as Flax's examples do."""

  num_classes: int

  @nn.compact
  def __call__(self, x, *, deterministic=True):
    x = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
    return nn.Dense(self.num_classes, name="head")(
      nn.Dropout(0.5)(x, deterministic=deterministic)
    )


class Nnx(nnx.Module):
  """An NNX module with batch statistics and dropout."""

  def __init__(self, num_classes, *, rngs):
    self.conv = nnx.Conv(
      3, 4, (3, 3), strides=2, conv_general_dilated=layers.member_conv, rngs=rngs
    )
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)
    self.head = nnx.Linear(4, num_classes, rngs=rngs)

  def __call__(self, x, train):
    x = nnx.relu(self.norm(self.conv(x), use_running_average=not train)).mean((1, 2))
    return self.head(self.dropout(x, deterministic=not train))


class NnxWithFeatures(Nnx):
  """The same with the interface of ours."""

  def __call__(self, x, train):
    x = nnx.relu(self.norm(self.conv(x), use_running_average=not train))
    return ModelOutput(
      self.head(x.mean((1, 2))), {"stage1": x, "pooled": x.mean((1, 2))}
    )


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
