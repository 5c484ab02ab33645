"""Flips."""

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Augment


def hflip(*, probability: float = 0.5) -> Augment:
  """Returns the left-right flip of some of the images.

  Args:
    probability: of every image.

  Raises:
    ConfigError: for a probability outside [0, 1].
  """
  errors.require_probability(probability=probability)

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    # The other parts are those of `pad_crop`, see `pool.make_augment`.
    _, _, flip_key = jax.random.split(key, 3)
    flipped = jax.random.bernoulli(flip_key, probability, (image.shape[0], 1))
    return jnp.where(flipped[..., None, None], image[:, :, ::-1], image)

  return augment
