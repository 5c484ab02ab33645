"""Numbers so large that what is computed from them would overflow."""

import jax
import jax.numpy as jnp

# Its square is far from float32's end, so that sums of squares are finite too.
LARGEST = 1e15


def bounded(values: jax.Array, largest: float = LARGEST) -> jax.Array:
  """Returns logits or features, cut off where losses of them would overflow.

  Two finite numbers at the end of float32 have an infinite difference, and 0 times
  infinity is NaN: one member's would spoil what is computed of all. Infinities and NaN
  stay what they are, so that they are still found; the gradient beyond the bound is 0.

  Args:
    values: of any shape.
    largest: the largest size that is kept.
  """
  cut = jnp.clip(values, -largest, largest)
  return jnp.where(jnp.isfinite(values), cut, values)
