"""Random draws that several operations make."""

import jax
import jax.numpy as jnp


def per_image(key: jax.Array, image: jax.Array, low: float, high: float) -> jax.Array:
  """Draws one uniform number per image.

  Args:
    key: what is drawn from.
    image: [B, H, W, 3].
    low: the smallest number.
    high: bound of the largest.

  Returns:
    f32[B, 1, 1], to broadcast over an image's plane.
  """
  return jax.random.uniform(key, (image.shape[0], 1, 1), minval=low, maxval=high)


def beta_weight(key: jax.Array, concentration: float) -> jax.Array:
  """Draws from Beta(concentration, concentration).

  Args:
    key: what is drawn from.
    concentration: above 0; 1 is the uniform distribution.

  Returns:
    f32[] in 0..1.
  """
  if concentration == 1:
    # The same distribution; the general sampler takes seconds to compile.
    return jax.random.uniform(key)
  return jax.random.beta(key, concentration, concentration)


def interval(key: jax.Array, fraction: jax.Array, size: int) -> jax.Array:
  """Draws an interval of an axis, centred anywhere and cut off at the ends.

  Args:
    key: what is drawn from.
    fraction: f32[] length of the interval relative to the axis.
    size: length of the axis.

  Returns:
    bool[size], true inside.
  """
  centre = jax.random.randint(key, (), 0, size)
  half = jnp.floor(fraction * size).astype(jnp.int32) // 2
  positions = jnp.arange(size)
  return (positions >= centre - half) & (positions < centre + half)
