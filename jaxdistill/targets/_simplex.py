"""Small optimisation problems on the simplex, solved in a fixed number of steps inside a compiled function."""

import jax
import jax.numpy as jnp


def lowest_log_sum_exp(
  margins: jax.Array, rival: jax.Array, alive: jax.Array, iterations: int
) -> jax.Array:
  """Returns the weights that minimise g(w) = log sum_rivals exp(w' margins), on the simplex of the living members.

  The cross-entropy is softplus(g), so both have one minimum, but g keeps its digits
  where the cross-entropy is next to 0. The minimum is mostly at a kink or a corner,
  where first-order methods crawl. This is a primal-dual interior-point method: one
  Newton step for each value of a barrier that falls to 1e-6, on g smoothed by a
  temperature that falls to 1. Steps are relative to w, which keeps the matrix within
  float32.

  Args:
    margins: f32[M, C], logits minus the label's.
    rival: bool[C], the classes other than the label.
    alive: f32[M] of 0 and 1.
    iterations: number of steps.

  Returns:
    f32[M].

  Reference:
    S. Boyd, L. Vandenberghe: Convex Optimization. 2004, section 11.7.
  """
  members = len(margins)
  largest = jnp.maximum(jnp.max(jnp.abs(margins)), 1)
  # From a full Newton step down to none.
  fractions = jnp.append(0.5 ** jnp.arange(12), 0)

  def objective(weights, temperature):
    scores = (
      jnp.einsum("...m,mc->...c", weights, margins, precision="highest") / temperature
    )
    rivals = jnp.broadcast_to(
      rival.reshape((1,) * (scores.ndim - 1) + rival.shape), scores.shape
    )
    return temperature * jax.nn.logsumexp(scores, axis=-1, where=rivals), jnp.where(
      rivals, scores, -jnp.inf
    )

  def step(index, carry):
    weights, slack = carry
    progress = jnp.minimum(index / max(iterations - 5, 1), 1)
    barrier = largest ** (1 - progress) * 1e-6**progress
    temperature = largest ** jnp.maximum(1 - 1.5 * progress, 0)
    share = jax.nn.softmax(objective(weights, temperature)[1])
    gradient = jnp.einsum("mc,c->m", margins, share, precision="highest")
    root = (
      jnp.sqrt(share / temperature)[None]
      * (margins - gradient[:, None])
      * weights[:, None]
    )
    matrix = jnp.einsum("ic,jc->ij", root, root, precision="highest") + jnp.diag(
      weights * slack + 1 - alive
    )
    free, along = solve(
      matrix, jnp.stack([alive * (barrier - weights * gradient), weights], axis=1)
    ).T
    # The second solution takes out the part of the step that would change the sum of
    # the weights.
    move = free - along * (weights @ free) / (weights @ along)
    move = jnp.where(jnp.isfinite(move), move, 0)
    fraction = fractions * jnp.minimum(1, 0.9 / jnp.maximum(jnp.max(-move), 1e-9))
    trial = weights[None] * (1 + fraction[:, None] * move[None])
    trial /= trial.sum(axis=1, keepdims=True)
    logs = jnp.sum(jnp.log(trial + 1 - alive[None]), axis=1)
    merit = objective(trial, temperature)[0] - barrier * logs
    best = jnp.argmin(jnp.where(jnp.isnan(merit), jnp.inf, merit))
    slack += fraction[best] * (barrier / (weights + 1 - alive) - slack - slack * move)
    centre = barrier / (trial[best] + 1 - alive)
    return trial[best], jnp.clip(slack, centre / 10, centre * 10)

  start = alive / alive.sum()
  inner, _ = jax.lax.fori_loop(
    0, iterations, step, (start, largest / (start + 1 - alive))
  )
  candidates = jnp.concatenate([inner[None], jnp.eye(members)])
  allowed = jnp.append(1, alive)
  return candidates[
    jnp.argmin(jnp.where(allowed > 0, objective(candidates, 1.0)[0], jnp.inf))
  ]


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves a small positive definite system, [M, M] and [M, K] -> [M, K], by Gauss-Jordan elimination.

  `jnp.linalg` would call a library for every batch of matrices, which is slow for ones
  this small and cannot be split over devices.
  """
  size = len(matrix)
  rows = jnp.concatenate([matrix, right], axis=1)
  for i in range(size):
    pivot = rows[i] / rows[i, i]
    others = jnp.where(jnp.arange(size) == i, 0, rows[:, i])
    rows = jnp.where(
      jnp.arange(size)[:, None] == i, pivot[None], rows - others[:, None] * pivot[None]
    )
  return rows[:, size:]


def normalized(weights: jax.Array) -> jax.Array:
  """Divides weights by their sum, and returns equal ones if that is not a positive number."""
  total = weights.sum()
  usable = jnp.isfinite(total) & (total > 0)
  return jnp.where(usable, weights / jnp.where(usable, total, 1), 1 / weights.size)
