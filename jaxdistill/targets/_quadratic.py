"""The convex combination of the lowest quadratic form, in compiled steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.targets._algebra import solve

# Added to the diagonal, relative to it: members that coincide get equal weights.
_RIDGE = 1e-5
# A member comes in if its slope is lower than the mean by more than this, relative.
_TOLERANCE = 1e-6
# The smallest diagonal element relative to the largest; below it a member counts as
# perfect.
_SMALLEST = 1e-12
# Members come in or go one by one, mostly each of them once.
_STEPS_PER_MEMBER = 8


class _Iterate(NamedTuple):
  """Where the solver is.

  Attributes:
    weights: f32[M] on the simplex.
    support: bool[M] members whose weight may be above zero.
    found: bool[] whether these weights are the best.
    step: i32[] steps made.
  """

  weights: jax.Array
  support: jax.Array
  found: jax.Array
  step: jax.Array


def lowest_quadratic_form(matrix: jax.Array) -> jax.Array:
  """Returns the weights w >= 0 with sum 1 that minimise w' C w.

  This is an active-set method. It starts at the best single member. On the members that
  take part the minimum under sum w = 1 has a closed form: if all its weights are above
  zero, the member whose slope (C w)_i is the lowest comes in, until none is lower than
  w' C w, which is the condition of the optimum; if not, the weights move towards it
  until the first of them is zero, and that member goes.

  The matrix is scaled to a unit diagonal, so members may differ by orders of magnitude,
  and 1e-5 is added to it, which moves w' C w by at most that, relative, if no element
  is below zero.

  Args:
    matrix: f32[M, M] C, symmetric and positive semidefinite; it may be singular.

  Returns:
    f32[M]; equal weights if the matrix is zero or not finite.

  Reference:
    J. Nocedal, S. Wright: Numerical Optimization. 2006, section 16.5.
  """
  members = len(matrix)
  equal = jnp.full((members,), 1 / members, jnp.float32)
  diagonal = jnp.diagonal(matrix)
  largest = diagonal.max()
  usable = jnp.isfinite(matrix).all() & (largest > 0)

  # In y = size w the matrix has a unit diagonal.
  safe = jnp.where(usable, matrix / jnp.where(usable, largest, 1), jnp.eye(members))
  size = jnp.sqrt(jnp.maximum(jnp.diagonal(safe), _SMALLEST))
  scaled = safe / (size[:, None] * size[None, :]) + _RIDGE * jnp.eye(members)

  def step(iterate: _Iterate) -> _Iterate:
    candidate = _lowest_on(scaled, size, iterate.support)
    # Should rounding spoil it, the weights stay.
    candidate = jnp.where(jnp.isfinite(candidate).all(), candidate, iterate.weights)
    inside = (candidate >= 0).all()
    added = _add_member(scaled, size, candidate, iterate)
    dropped = _drop_member(candidate, iterate)
    chosen = jax.tree.map(lambda a, b: jnp.where(inside, a, b), added, dropped)
    return chosen._replace(step=iterate.step + 1)

  def goes_on(iterate: _Iterate) -> jax.Array:
    return ~iterate.found & (iterate.step < _STEPS_PER_MEMBER * members)

  best_alone = jnp.arange(members) == jnp.argmin(size)
  first = _Iterate(
    weights=best_alone.astype(jnp.float32),
    support=best_alone,
    found=jnp.bool_(False),
    step=jnp.int32(0),
  )
  last = jax.lax.while_loop(goes_on, step, first)
  return jnp.where(usable, last.weights, equal)


def _lowest_on(scaled: jax.Array, size: jax.Array, support: jax.Array) -> jax.Array:
  """Returns the weights of the lowest w' C w with sum 1 on some members, of any sign.

  Args:
    scaled: f32[M, M] C with a unit diagonal.
    size: f32[M] by which its rows and columns were divided.
    support: bool[M] members that take part; the others get 0.
  """
  both = support[:, None] & support[None, :]
  absent = jnp.diag(jnp.where(support, 0.0, 1.0))
  right = jnp.where(support, 1 / size, 0)
  solution = solve(jnp.where(both, scaled, 0) + absent, right[:, None])[:, 0]
  weights = solution * right
  return weights / weights.sum()


def _add_member(
  scaled: jax.Array, size: jax.Array, weights: jax.Array, iterate: _Iterate
) -> _Iterate:
  """Takes the weights, and in the member that lowers w' C w most, if any does."""
  slopes = size * jnp.einsum("ij,j->i", scaled, size * weights, precision="highest")
  value = slopes @ weights
  outside = jnp.where(iterate.support, jnp.inf, slopes)
  lowest = jnp.argmin(outside)
  comes_in = jnp.arange(len(weights)) == lowest
  found = outside[lowest] >= value - _TOLERANCE * jnp.abs(value)
  return iterate._replace(
    weights=weights, support=iterate.support | comes_in, found=found
  )


def _drop_member(candidate: jax.Array, iterate: _Iterate) -> _Iterate:
  """Moves towards a candidate until a weight is zero, whose member goes."""
  weights = iterate.weights
  falls = candidate < 0
  fractions = jnp.where(falls, weights / (weights - candidate), jnp.inf)
  first = jnp.argmin(fractions)
  moved = weights + fractions[first] * (candidate - weights)
  goes = jnp.arange(len(weights)) == first
  kept = jnp.where(goes, 0, jnp.maximum(moved, 0))
  return iterate._replace(weights=kept / kept.sum(), support=iterate.support & ~goes)
