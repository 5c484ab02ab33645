"""The four targets of knowledge distillation via collaborative learning."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.targets._algebra import normalized, solve
from jaxdistill.targets._quadratic import lowest_quadratic_form
from jaxdistill.targets._simplex import lowest_log_sum_exp


class _Cohort(NamedTuple):
  """The members' logits, and which of them take part.

  Attributes:
    logits: f32[M, B, C], zeros for members that take no part.
    alive: bool[M].
  """

  logits: jax.Array
  alive: jax.Array


def _taking_part(logits: jax.Array, alive: jax.Array | None) -> _Cohort:
  """Returns the logits in float32 without those of members that take no part."""
  if alive is None:
    alive = jnp.ones(logits.shape[:1], bool)
  finite = losses.bounded(logits.astype(jnp.float32))
  kept = jnp.where(alive[:, None, None], finite, 0)
  return _Cohort(kept, alive)


def _margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the logits minus that of the label: [M, B, C], i32[B] -> [M, B, C]."""
  index = jnp.broadcast_to(labels[None, :, None], (*logits.shape[:2], 1))
  return logits - jnp.take_along_axis(logits, index, axis=-1)


def kdcl_naive(
  logits: jax.Array, labels: jax.Array, alive: jax.Array | None = None
) -> jax.Array:
  """Returns for every example the logits of the member with the lowest cross-entropy.

  Among equals it is the first.

  Args:
    logits: [M, B, C]; not detached here.
    labels: i32[B].
    alive: bool[M], members that take part; None for all.

  Returns:
    f32[B, C]; zeros if no member is alive.

  Reference:
    Q. Guo, X. Wang, Y. Wu, Z. Yu, D. Liang, X. Hu, P. Luo: Online Knowledge
      Distillation via Collaborative Learning. CVPR 2020, equation 4.
  """
  logits, alive = _taking_part(logits, alive)
  ce = losses.cross_entropy(logits, jnp.broadcast_to(labels[None], logits.shape[:2]))
  competes = alive[:, None] & ~jnp.isnan(ce)
  best = jnp.argmin(jnp.where(competes, ce, jnp.inf), axis=0)
  return jnp.take_along_axis(logits, best[None, :, None], axis=0)[0]


def kdcl_min_logit(
  logits: jax.Array, labels: jax.Array, alive: jax.Array | None = None
) -> jax.Array:
  """Returns class by class the smallest of the members' logits relative to the label's.

  Args:
    logits: [M, B, C]; not detached here.
    labels: i32[B].
    alive: bool[M], members that take part; None for all.

  Returns:
    f32[B, C], 0 at the label; zeros if no member is alive. Its cross-entropy is at most
    every member's.

  Reference:
    Guo et al.: Online Knowledge Distillation via Collaborative Learning, equations 6
      and 7.
  """
  logits, alive = _taking_part(logits, alive)
  margins = _margins(logits, labels)
  smallest = jnp.min(margins, axis=0, initial=jnp.inf, where=alive[:, None, None])
  return jnp.where(alive.any(), smallest, 0)


def kdcl_linear(
  logits: jax.Array,
  labels: jax.Array,
  alive: jax.Array | None = None,
  iterations: int = 40,
) -> jax.Array:
  """Returns for every example the best convex combination of the members' logits.

  That is the one with the lowest cross-entropy. What is found is within 1e-4,
  relative, of the lowest for logits up to about 60, and at most every member's but for
  rounding.

  Args:
    logits: [M, B, C], C >= 2; not detached here.
    labels: i32[B].
    alive: bool[M], members that take part; the others have weight 0; None for all.
    iterations: steps of the solver, the same number for every example; at least 20.

  Returns:
    f32[B, C]; zeros if no member is alive.

  Reference:
    Guo et al.: Online Knowledge Distillation via Collaborative Learning, equation 5.
  """
  logits, alive = _taking_part(logits, alive)
  if len(logits) == 1:
    return logits[0]
  rival = jnp.arange(logits.shape[2])[None] != labels[:, None]
  # With all members on, zero logits give zeros: that is the answer if none is alive.
  takes_part = (alive | ~alive.any()).astype(jnp.float32)

  def best_weights(margins: jax.Array, rival: jax.Array) -> jax.Array:
    return lowest_log_sum_exp(margins, rival, takes_part, iterations)

  weights = jax.vmap(best_weights, in_axes=(1, 0))(_margins(logits, labels), rival)
  return jnp.einsum("bm,mbc->bc", weights, logits, precision="highest")


def kdcl_general_weights(true_class_probs: jax.Array) -> jax.Array:
  """Returns the members' weights from their predictions for held-out examples.

  Args:
    true_class_probs: [M, N] probabilities of the true class.

  Returns:
    f32[M], see `kdcl_weights_from_errors`.

  Reference:
    Guo et al.: Online Knowledge Distillation via Collaborative Learning, equations 8 to
      11.
  """
  error = true_class_probs.astype(jnp.float32) - 1
  total = jnp.einsum("in,jn->ij", error, error, precision="highest")
  return kdcl_weights_from_errors(total / error.shape[1])


def kdcl_weights_from_errors(second_moment: jax.Array) -> jax.Array:
  """Returns the weights of the lowest expected squared error, cut at zero.

      w = C^-1 1 / (1' C^-1 1)

  A ridge of 1e-6 tr(C) / M keeps C invertible when members coincide. Weights below
  zero, which the equation allows and the paper's text does not, become zero; the others
  are divided by their sum.

  Args:
    second_moment: f32[M, M], C_ij = mean of (f_i - 1)(f_j - 1), f being the probability
      of the true class.

  Returns:
    f32[M] that sums to one; equal weights if none is above zero or if anything is not
    finite. For two members they are those of `kdcl_optimal_weights`; for more, their
    error may be half as large again.

  Reference:
    Guo et al.: Online Knowledge Distillation via Collaborative Learning, equation 11.
  """
  members = len(second_moment)
  # Scaled to a mean diagonal of 1; the weights do not depend on the scale.
  scaled = second_moment * (members / jnp.trace(second_moment))
  regular = scaled + 1e-6 * jnp.eye(members)
  weights = solve(regular, jnp.ones((members, 1)))[:, 0]
  return normalized(jnp.maximum(weights, 0))


def kdcl_optimal_weights(second_moment: jax.Array) -> jax.Array:
  """Returns the weights of the lowest expected squared error among those >= 0.

      minimise w' C w,   w >= 0,   sum_i w_i = 1

  Where the weights of equation 11 are all above zero, they are these.

  Args:
    second_moment: f32[M, M], C as for `kdcl_weights_from_errors`; it may be singular,
      and members may differ by orders of magnitude.

  Returns:
    f32[M] that sums to one; members that coincide get about equal weights, and all do
    if C is zero or not finite.

  Reference:
    Guo et al.: Online Knowledge Distillation via Collaborative Learning, equation 9
      with the constraints in the text above it.
  """
  return lowest_quadratic_form(second_moment.astype(jnp.float32))
