"""The best convex combination of logits, in a fixed number of compiled steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.targets._algebra import solve

# The logarithmic barrier falls to this weight.
_LAST_BARRIER = 1e-6
# The last steps are made at the final barrier.
_STEPS_AT_THE_END = 5
# A step goes at most this far towards the border of the simplex.
_TOWARDS_THE_BORDER = 0.9
# The line search tries the full step, its halves down to 2^-11, and no step.
_HALVINGS = 12


class _Problem(NamedTuple):
  """Minimise g(w) = log sum_rivals exp(w' margins) over the simplex.

  Attributes:
    margins: f32[M, C], logits minus the label's.
    rival: bool[C], the classes other than the label.
    alive: f32[M], 1 for members that take part, 0 for those whose weight is 0.
    largest: f32[] the largest margin in size, at least 1: the scale of g.
  """

  margins: jax.Array
  rival: jax.Array
  alive: jax.Array
  largest: jax.Array


class _Iterate(NamedTuple):
  """Where the solver is.

  Attributes:
    weights: f32[M] inside the simplex of the members that take part.
    slack: f32[M] multipliers of weights >= 0; weights * slack nears the barrier.
  """

  weights: jax.Array
  slack: jax.Array


class _Relaxation(NamedTuple):
  """How far a step's problem is from the one to be solved.

  Attributes:
    barrier: f32[] weight of the logarithmic barrier at the border of the simplex.
    temperature: f32[] by which g is smoothed: T log sum_rivals exp(w' margins / T).
  """

  barrier: jax.Array
  temperature: jax.Array


def lowest_log_sum_exp(
  margins: jax.Array, rival: jax.Array, alive: jax.Array, iterations: int
) -> jax.Array:
  """Returns the weights that minimise g(w) = log sum_rivals exp(w' margins).

  The weights are on the simplex of the members that take part. The cross-entropy is
  softplus(g), so both have one minimum, but g keeps its digits where the cross-entropy
  is next to 0. The minimum is mostly at a kink or a corner, where first-order methods
  crawl. This is a primal-dual interior-point method: one Newton step for each value of
  a barrier that falls to 1e-6, on g smoothed by a temperature that falls to 1. Steps
  are relative to w, which keeps the matrix within float32.

  Args:
    margins: f32[M, C], logits minus the label's.
    rival: bool[C], the classes other than the label.
    alive: f32[M], 1 for members that take part, 0 for the others.
    iterations: number of steps.

  Returns:
    f32[M].

  Reference:
    S. Boyd, L. Vandenberghe: Convex Optimization. 2004, section 11.7.
  """
  largest = jnp.maximum(jnp.max(jnp.abs(margins)), 1)
  problem = _Problem(margins, rival, alive, largest)

  def step(index: jax.Array, iterate: _Iterate) -> _Iterate:
    relaxation = _relaxation(problem, index, iterations)
    move = _newton_move(problem, iterate, relaxation)
    fraction, weights = _line_search(problem, iterate.weights, move, relaxation)
    slack = _next_slack(
      problem,
      iterate,
      move=move,
      fraction=fraction,
      new_weights=weights,
      barrier=relaxation.barrier,
    )
    return _Iterate(weights, slack)

  start = alive / alive.sum()
  first = _Iterate(start, largest / _one_if_absent(start, alive))
  last = jax.lax.fori_loop(0, iterations, step, first)
  return _better_of_inner_and_corners(problem, last.weights)


def _relaxation(problem: _Problem, index: jax.Array, iterations: int) -> _Relaxation:
  """Returns the barrier and the temperature of a step: the later, the lower."""
  progress = jnp.minimum(index / max(iterations - _STEPS_AT_THE_END, 1), 1)
  barrier = problem.largest ** (1 - progress) * _LAST_BARRIER**progress
  # The temperature is at 1 after two thirds of the way.
  temperature = problem.largest ** jnp.maximum(1 - 1.5 * progress, 0)
  return _Relaxation(barrier, temperature)


def _newton_move(
  problem: _Problem, iterate: _Iterate, relaxation: _Relaxation
) -> jax.Array:
  """Returns the Newton step relative to the weights, f32[M]: w becomes w (1 + move)."""
  margins = problem.margins
  alive = problem.alive
  weights, slack = iterate
  barrier, temperature = relaxation

  # The smoothed g: its gradient is the mean of the margins under the rivals'
  # probabilities, its Hessian their covariance divided by the temperature.
  probs = jax.nn.softmax(_rival_scores(problem, weights, temperature))
  gradient = jnp.einsum("mc,c->m", margins, probs, precision="highest")
  centred = margins - gradient[:, None]
  root = jnp.sqrt(probs / temperature)[None] * centred * weights[:, None]
  hessian = jnp.einsum("ic,jc->ij", root, root, precision="highest")

  # A member that takes no part has a 1 on the diagonal and moves by 0.
  matrix = hessian + jnp.diag(_one_if_absent(weights * slack, alive))
  descent = alive * (barrier - weights * gradient)
  # Whatever is along the weights would be taken out below, and most digits with it.
  descent -= weights * descent.sum()
  free, along = solve(matrix, jnp.stack([descent, weights], axis=1)).T
  # The second solution takes out the part of the step that would change the sum of the
  # weights.
  move = free - along * (weights @ free) / (weights @ along)
  return jnp.where(jnp.isfinite(move), move, 0)


def _line_search(
  problem: _Problem, weights: jax.Array, move: jax.Array, relaxation: _Relaxation
) -> tuple[jax.Array, jax.Array]:
  """Returns the best fraction of the move, f32[], and the weights it leads to."""
  halves = jnp.append(0.5 ** jnp.arange(_HALVINGS), 0)
  towards_zero = jnp.maximum(jnp.max(-move), 1e-9)
  fractions = halves * jnp.minimum(1, _TOWARDS_THE_BORDER / towards_zero)
  trials = weights[None] * (1 + fractions[:, None] * move[None])
  trials /= trials.sum(axis=1, keepdims=True)

  logs = jnp.log(_one_if_absent(trials, problem.alive[None])).sum(axis=1)
  values = _objective(problem, trials, relaxation.temperature)
  merits = values - relaxation.barrier * logs
  best = jnp.argmin(jnp.where(jnp.isnan(merits), jnp.inf, merits))
  return fractions[best], trials[best]


def _next_slack(
  problem: _Problem,
  iterate: _Iterate,
  *,
  move: jax.Array,
  fraction: jax.Array,
  new_weights: jax.Array,
  barrier: jax.Array,
) -> jax.Array:
  """Returns the multipliers after the step, f32[M]."""
  weights, slack = iterate
  centre = barrier / _one_if_absent(weights, problem.alive)
  slack += fraction * (centre - slack - slack * move)
  # Kept near the central path, where the next Newton step can be trusted.
  new_centre = barrier / _one_if_absent(new_weights, problem.alive)
  return jnp.clip(slack, new_centre / 10, new_centre * 10)


def _better_of_inner_and_corners(problem: _Problem, inner: jax.Array) -> jax.Array:
  """Returns the inner point, or the corner of one member if g is lower there.

  An interior-point method only nears the corners, where the minimum often is.
  """
  corners = jnp.eye(len(inner))
  candidates = jnp.concatenate([inner[None], corners])
  allowed = jnp.append(1, problem.alive) > 0
  values = jnp.where(allowed, _objective(problem, candidates, 1.0), jnp.inf)
  return candidates[jnp.argmin(values)]


def _objective(
  problem: _Problem, weights: jax.Array, temperature: jax.Array | float
) -> jax.Array:
  """Computes g smoothed by a temperature: weights f32[n, M] -> f32[n]."""
  scores = _scores(problem, weights, temperature)
  rivals = jnp.broadcast_to(problem.rival, scores.shape)
  return temperature * jax.nn.logsumexp(scores, axis=-1, where=rivals)


def _rival_scores(
  problem: _Problem, weights: jax.Array, temperature: jax.Array | float
) -> jax.Array:
  """Returns w' margins / T for the rivals, -inf for the label: f32[M] -> f32[C]."""
  scores = _scores(problem, weights, temperature)
  return jnp.where(problem.rival, scores, -jnp.inf)


def _scores(
  problem: _Problem, weights: jax.Array, temperature: jax.Array | float
) -> jax.Array:
  """Returns w' margins / T: weights f32[..., M] -> f32[..., C]."""
  combined = jnp.einsum("...m,mc->...c", weights, problem.margins, precision="highest")
  return combined / temperature


def _one_if_absent(values: jax.Array, alive: jax.Array) -> jax.Array:
  """Returns values, 0 for members that take no part, with 1 in place of these zeros.

  Their logarithms are 0 then, and quotients by them finite.
  """
  return jnp.where(alive > 0, values, 1)
