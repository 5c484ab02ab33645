"""What operations return."""

import jax
import jax.numpy as jnp

from jaxdistill.core.types import Perturbed


def own_index(image: jax.Array) -> jax.Array:
  """Returns every image's own index: the permutation that mixes nothing.

  Args:
    image: [B, H, W, 3].

  Returns:
    i32[B].
  """
  return jnp.arange(image.shape[0], dtype=jnp.int32)


def unmixed(image: jax.Array) -> Perturbed:
  """Returns the result of an operation that mixes no images.

  Args:
    image: f32[B, H, W, 3], perturbed.
  """
  return Perturbed(image, own_index(image), jnp.ones((), jnp.float32))
