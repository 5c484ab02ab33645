"""Knowledge Distillation via Collaborative Learning: one target for all members.

The target is made anew in every step. All four methods share
L_i = CE(z_i, y) + weight T^2 KL(target || p_i) with a detached target, and differ in
the target. What the paper calls invariant collaborative learning, each image augmented
independently for every member, is the run's key `views = "per_member"` and goes with
any method.

In a step in which a perturbation mixes a member's images, its logits belong to no image
that the others see, and no label of theirs to what it sees. It takes no part in the
target then, and learns the same mixture of the target's probabilities. Where the images
of all members are mixed alike, which the paper does not do, the label that a target is
made with is the class that most of an image shows. It thus is one class, as in the
paper.

Reference:
  Q. Guo, X. Wang, Y. Wu, Z. Yu, D. Liang, X. Hu, P. Luo: Online Knowledge Distillation
    via Collaborative Learning. CVPR 2020. No code of the authors was released.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill import losses, targets
from jaxdistill.core.method import Init, Method, Setup, Step, Survey, no_state
from jaxdistill.core.types import Batch, Objective, Outputs, PyTree, Views
from jaxdistill.errors import require_choice, require_not_negative, require_positive

# The smallest probability of a mixture: its logarithm is finite, and nothing is learned
# of it.
_TINY = 1e-30


class _Target(NamedTuple):
  """What all members learn.

  Attributes:
    logits: [B, C], of the images that unperturbed members see.
    metrics: name -> what is logged about it.
  """

  logits: jax.Array
  metrics: dict[str, jax.Array]


def _collaborative(
  make_target: Callable[[Step, jax.Array, jax.Array], _Target],
  *,
  weight: float,
  temperature: float,
  init: Init = no_state,
  surveys: tuple[Survey, ...] = (),
  columns: tuple[str, ...] = (),
) -> Method:
  """Returns the method with this target.

  Args:
    make_target: (step, detached logits f32[M, B, C], bool[M] members that take part)
      -> the target.
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.
    init: see `Method`.
    surveys: see `Method`.
    columns: see `Method`.
  """
  require_not_negative(weight=weight)
  require_positive(temperature=temperature)

  def loss(step: Step) -> Objective:
    logits = step.outputs.logits
    takes_part = step.outputs.alive & ~step.views.is_mixed_apart
    target = make_target(step, jax.lax.stop_gradient(logits), takes_part)
    teacher = _as_seen(step.views, target.logits, temperature)
    kl = losses.kl_divergence(logits, teacher, temperature).mean(axis=1)
    kl = jnp.where(takes_part.any(), kl, 0)
    return Objective(
      member=step.label_loss + weight * kl, metrics={"kl": kl, **target.metrics}
    )

  return Method(loss=loss, init=init, surveys=surveys, min_members=2, columns=columns)


def _as_seen(views: Views, target: jax.Array, temperature: float) -> jax.Array:
  """Returns what each member learns of a target, given what it sees.

  Args:
    views: of the step.
    target: [B, C] logits.
    temperature: at which probabilities are mixed.

  Returns:
    [M, B, C] logits: the target, or its mixture for a member whose perturbation mixed
    its images.
  """
  probabilities = jax.nn.softmax(target / temperature)
  mixture = views.perturbation.mix(probabilities)
  log_mixture = temperature * jnp.log(jnp.maximum(mixture, _TINY))
  mixed = views.is_mixed_apart[:, None, None]
  return jnp.where(mixed, log_mixture[None], target[None])


def naive(
  *, weight: float = 1.0, temperature: float = 2.0, scope: str = "sample"
) -> Method:
  """Returns the method whose target is the best member's logits (equation 4).

  The best member is the one with the lowest cross-entropy.

  Args:
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.
    scope: "sample", the best member of every example, or "batch", one for all.

  Raises:
    ConfigError: for values out of range.
  """
  require_choice(scope=(scope, ("sample", "batch")))

  def make_target(step: Step, logits: jax.Array, takes_part: jax.Array) -> _Target:
    label = step.views.larger_part(step.batch.label)
    ce = losses.cross_entropy(logits, step.outputs.repeat(label))
    if scope == "sample":
      best = jnp.argmin(jnp.where(takes_part[:, None], ce, jnp.inf), axis=0)
      teacher = targets.kdcl_naive(logits, label, takes_part)
    else:
      winner = targets.winner(jnp.where(takes_part, ce.mean(axis=1), jnp.nan))
      best = jnp.broadcast_to(winner, label.shape)
      teacher = losses.bounded(logits[jnp.maximum(winner, 0)])
    members = jnp.arange(len(logits))
    wins = (members[:, None] == best[None]) & takes_part[:, None]
    return _Target(logits=teacher, metrics={"wins": wins.mean(axis=1)})

  return _collaborative(
    make_target, weight=weight, temperature=temperature, columns=("wins",)
  )


def linear(*, weight: float = 1.0, temperature: float = 2.0) -> Method:
  """Returns the method whose target combines the logits of all members (equation 5).

  For every example it is the convex combination with the lowest cross-entropy.

  Args:
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.

  Raises:
    ConfigError: for values out of range.
  """

  def make_target(step: Step, logits: jax.Array, takes_part: jax.Array) -> _Target:
    label = step.views.larger_part(step.batch.label)
    combined = targets.kdcl_linear(logits, label, takes_part)
    return _Target(logits=combined, metrics={})

  return _collaborative(make_target, weight=weight, temperature=temperature)


def min_logit(*, weight: float = 1.0, temperature: float = 2.0) -> Method:
  """Returns the method whose target is the smallest logit (equations 6 and 7).

  It is taken class by class, among the members' logits relative to the label's.

  Args:
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.

  Raises:
    ConfigError: for values out of range.
  """

  def make_target(step: Step, logits: jax.Array, takes_part: jax.Array) -> _Target:
    label = step.views.larger_part(step.batch.label)
    smallest = targets.kdcl_min_logit(logits, label, takes_part)
    return _Target(logits=smallest, metrics={})

  return _collaborative(make_target, weight=weight, temperature=temperature)


# How the weights of `general` come from the second moment of the members' errors.
_WEIGHTS = {
  "optimal": targets.kdcl_optimal_weights,
  "clip": targets.kdcl_weights_from_errors,
}


def general(
  *, weight: float = 1.0, temperature: float = 2.0, weights: str = "optimal"
) -> Method:
  """Returns the method whose target is a mean with the lowest held-out error.

      target = sum_i w_i softmax(z_i / T)
      w = argmin w' C w,   w >= 0,   sum_i w_i = 1,   C_ij = mean (f_i - 1) (f_j - 1)

  f is the probability of the true class on the examples that `holdout` takes out of the
  training set, measured in evaluation mode before every epoch but the first, in which
  all weights are equal (equations 8 to 11).

  Args:
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.
    weights: "optimal" as above, the constraints being those of the text; "clip",
      equation 11, C^-1 1 / (1' C^-1 1), which may give weights below zero: these are
      cut to zero, and the others divided by their sum.

  Raises:
    ConfigError: for values out of range, and when the run is built without held-out
      examples.
  """
  require_choice(weights=(weights, tuple(_WEIGHTS)))
  weigh = _WEIGHTS[weights]

  def make_target(step: Step, logits: jax.Array, takes_part: jax.Array) -> _Target:
    member_weights = _weights_of(step.memory["weights"], takes_part)
    # softmax((T log p) / T) = p. The mean is taken in the log domain, where no
    # probability underflows.
    log_p = jax.nn.logsumexp(
      jax.nn.log_softmax(losses.bounded(logits) / temperature),
      axis=0,
      b=member_weights[:, None, None],
    )
    mean = temperature * jnp.where(takes_part.any(), log_p, 0)
    return _Target(logits=mean, metrics={"weight": member_weights})

  def init(key: jax.Array, setup: Setup) -> tuple[PyTree, PyTree]:
    del key
    members = len(setup.outputs.members)
    return {}, {"weights": jnp.full((members,), 1 / members, jnp.float32)}

  def finish(memory: PyTree, collected: PyTree) -> PyTree:
    del memory
    second_moment = collected["errors"] / collected["count"]
    return {"weights": weigh(second_moment)}

  survey = Survey(
    split="holdout",
    due=lambda epoch: epoch > 0,
    start=_start_errors,
    collect=_collect_errors,
    finish=finish,
  )
  return _collaborative(
    make_target, weight=weight, temperature=temperature, init=init, surveys=(survey,)
  )


def _weights_of(weights: jax.Array, takes_part: jax.Array) -> jax.Array:
  """Returns weights f32[M] that sum to one, 0 for members that take no part."""
  weights = jnp.where(takes_part, weights, 0)
  weights = jnp.where(weights.sum() > 0, weights, takes_part.astype(jnp.float32))
  return weights / jnp.maximum(weights.sum(), 1e-9)


def _start_errors(memory: PyTree) -> PyTree:
  """Returns the sums of no example."""
  members = memory["weights"].size
  return {"errors": jnp.zeros((members, members)), "count": jnp.zeros(())}


def _collect_errors(
  collected: PyTree, memory: PyTree, outputs: Outputs, batch: Batch
) -> PyTree:
  """Adds a batch's products of errors f - 1 of every two members."""
  del memory
  labels = outputs.repeat(batch.label)
  true_class = jnp.exp(-losses.cross_entropy(outputs.logits, labels))
  error = (true_class - 1) * batch.mask[None]
  products = jnp.einsum("ib,jb->ij", error, error, precision="highest")
  return {
    "errors": collected["errors"] + products,
    "count": collected["count"] + batch.mask.sum(),
  }
