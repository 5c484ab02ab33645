"""Algebra of a few members: small enough to be written out."""

import jax
import jax.numpy as jnp


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves a small positive definite system by Gauss-Jordan elimination.

  `jnp.linalg` would call a library for every batch of matrices, which is slow for ones
  this small and cannot be split over devices.

  Args:
    matrix: f32[M, M].
    right: f32[M, K], right-hand sides.

  Returns:
    f32[M, K].
  """
  size = len(matrix)
  rows = jnp.concatenate([matrix, right], axis=1)
  index = jnp.arange(size)
  for i in range(size):
    # No search for a pivot: the matrix is positive definite.
    pivot = rows[i] / rows[i, i]
    factors = jnp.where(index == i, 0, rows[:, i])
    eliminated = rows - factors[:, None] * pivot[None]
    rows = jnp.where(index[:, None] == i, pivot[None], eliminated)
  return rows[:, size:]


def normalized(weights: jax.Array) -> jax.Array:
  """Divides weights by their sum.

  Args:
    weights: f32[M], at least 0.

  Returns:
    f32[M] that sums to one; equal weights if the sum is not a positive finite number.
  """
  total = weights.sum()
  usable = jnp.isfinite(total) & (total > 0)
  divided = weights / jnp.where(usable, total, 1)
  return jnp.where(usable, divided, 1 / weights.size)
