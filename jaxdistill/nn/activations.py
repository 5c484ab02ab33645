"""Non-linearities that JAX has with another derivative."""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def relu6(x: jax.Array) -> jax.Array:
  """Clips to 0..6, with a derivative of 0 at the bounds, as PyTorch has it.

  JAX's own halves the derivative there, which takes two divisions at every element. A
  channel whose scale and bias are zero lies on a bound everywhere.

  Args:
    x: of any shape.
  """
  return jnp.clip(x, 0, 6)


@relu6.defjvp
def _relu6_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (x,) = primals
  (tangent,) = tangents
  is_inside = (x > 0) & (x < 6)
  return relu6(x), jnp.where(is_inside, tangent, jnp.zeros_like(tangent))
