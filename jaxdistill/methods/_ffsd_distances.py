"""Distances between maps in FFSD: as the authors' code has them, and as printed.

Each is a function of two maps [B, H, W, D] and returns f32[], the mean over the batch.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill import losses

Distance = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distances:
  """The distances of one variant of the method.

  Attributes:
    attention: between the attention of two maps, the squared map over its channels.
    features: between the maps themselves.
    leader: what the leader's maps are compared by, one of the two above.
    diversity: (map, previous student's map) -> (how far the map's attention is from
      where the previous student does not look, that target as a map).
  """

  attention: Distance
  features: Distance
  leader: Distance
  diversity: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _root(squared: jax.Array) -> jax.Array:
  """Returns the square root, with the slope zero at zero."""
  # The root's slope at zero is infinite; where its argument is clipped it is zero.
  return jnp.sqrt(jnp.maximum(squared, 1e-24))


def _released_attention(student: jax.Array, teacher: jax.Array) -> jax.Array:
  return losses.attention_transfer(student, teacher).mean()


def _released_features(student: jax.Array, teacher: jax.Array) -> jax.Array:
  squared = losses.feature_l2(student, teacher, "normalized")
  return (squared / student[0].size).mean()


def _released_diversity(
  features: jax.Array, previous: jax.Array
) -> tuple[jax.Array, jax.Array]:
  distance = losses.diversity(features, previous).mean()
  return distance, losses.diversity_target(previous)


def _printed_attention(student: jax.Array, teacher: jax.Array) -> jax.Array:
  mean_squared = losses.attention_transfer(student, teacher)
  positions = student[0, :, :, 0].size
  return _root(mean_squared * positions).mean()


def _printed_features(student: jax.Array, teacher: jax.Array) -> jax.Array:
  return _root(losses.feature_l2(student, teacher, "normalized")).mean()


def _printed_diversity(
  features: jax.Array, previous: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes equations 7 and 8."""
  attention = _attention(previous)
  half = _root(jnp.sum(attention**2, axis=1, keepdims=True)) / 2
  rank = max(attention.shape[1] // 3, 1) - 1
  threshold = jnp.sort(attention, axis=1)[:, rank : rank + 1]
  shifted = (half - attention) * jnp.sign(attention - threshold) + half
  squared = losses.feature_l2(_attention(features), shifted, "normalized")

  # The paper leaves open how attention becomes a map: as in the released code, spread
  # evenly over the channels.
  batch, height, width, channels = previous.shape
  change = ((shifted - attention) / channels).reshape(batch, height, width, 1)
  return _root(squared).mean(), previous + change


def _attention(features: jax.Array) -> jax.Array:
  """Returns the attention of a map, not normalised: f32[B, H * W]."""
  return jnp.sum(features**2, axis=-1).reshape(features.shape[0], -1)


RELEASED = Distances(
  attention=_released_attention,
  features=_released_features,
  leader=_released_attention,
  diversity=_released_diversity,
)
PRINTED = Distances(
  attention=_printed_attention,
  features=_printed_features,
  leader=_printed_features,
  diversity=_printed_diversity,
)
