"""Knowledge Distillation via Collaborative Learning: one target for all members, made anew in every step.

All four share L_i = CE(z_i, y) + weight T^2 KL(target || p_i) with a detached target,
and differ in the target. What the paper calls invariant collaborative learning, every
member seeing an augmentation of its own, is the run's key `views = "per_member"` and
goes with any method.

Reference:
  Q. Guo, X. Wang, Y. Wu, Z. Yu, D. Liang, X. Hu, P. Luo: Online Knowledge Distillation
    via Collaborative Learning.
  CVPR 2020. No code of the authors was released.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill import losses, targets
from jaxdistill.core.method import Method, Survey
from jaxdistill.core.types import Objective
from jaxdistill.errors import require_choice, require_not_negative, require_positive


def _collaborative(
  teach: Callable, weight: float, temperature: float, **parts
) -> Method:
  """Makes the method from its target, (memory, detached logits, alive, labels) -> (logits f32[B, C], metrics)."""
  require_not_negative(weight=weight)
  require_positive(temperature=temperature)

  def loss(step):
    params, memory, outputs, batch, views, context = step
    teacher, logged = teach(
      memory, jax.lax.stop_gradient(outputs.logits), outputs.alive, batch.label
    )
    ce = losses.soft_cross_entropy(outputs.logits, views.target).mean(axis=1)
    everyone = jnp.broadcast_to(teacher[None], outputs.logits.shape)
    kl = losses.kl_divergence(outputs.logits, everyone, temperature).mean(axis=1)
    return Objective(ce + weight * kl, jnp.float32(0), {"kl": kl, **logged}, memory)

  return Method(loss=loss, min_members=2, **parts)


def naive(
  *, weight: float = 1.0, temperature: float = 2.0, scope: str = "sample"
) -> Method:
  """Takes the logits of the member with the lowest cross-entropy as the target (equation 4).

  Args:
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.
    scope: "sample", the best member of every example, or "batch", one for all.

  Raises:
    ConfigError: for values out of range.
  """
  require_choice(scope=(scope, ("sample", "batch")))

  def teach(memory, logits, alive, labels):
    del memory
    ce = losses.cross_entropy(logits, jnp.broadcast_to(labels[None], logits.shape[:2]))
    if scope == "sample":
      best = jnp.argmin(jnp.where(alive[:, None], ce, jnp.inf), axis=0)
      teacher = targets.kdcl_naive(logits, labels, alive)
    else:
      best = jnp.broadcast_to(
        targets.winner(jnp.where(alive, ce.mean(axis=1), jnp.nan)), labels.shape
      )
      teacher = logits[jnp.maximum(best[0], 0)]
    return teacher, {
      "wins": ((jnp.arange(len(logits))[:, None] == best[None]) & alive[:, None]).mean(
        axis=1
      )
    }

  return _collaborative(teach, weight, temperature, columns=("wins",))


def linear(*, weight: float = 1.0, temperature: float = 2.0) -> Method:
  """Takes for every example the convex combination of the members' logits with the lowest cross-entropy (equation 5).

  Args:
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.

  Raises:
    ConfigError: for values out of range.
  """

  def teach(memory, logits, alive, labels):
    return targets.kdcl_linear(logits, labels, alive), {}

  return _collaborative(teach, weight, temperature)


def min_logit(*, weight: float = 1.0, temperature: float = 2.0) -> Method:
  """Takes the smallest of the members' logits relative to the label's, class by class (equations 6 and 7).

  Args:
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.

  Raises:
    ConfigError: for values out of range.
  """

  def teach(memory, logits, alive, labels):
    return targets.kdcl_min_logit(logits, labels, alive), {}

  return _collaborative(teach, weight, temperature)


def general(*, weight: float = 1.0, temperature: float = 2.0) -> Method:
  """Takes a weighted mean of the members' probabilities, weighted for the lowest error on held-out examples.

      target = sum_i w_i softmax(z_i / T),   w = C^-1 1 / (1' C^-1 1),   C_ij = mean (f_i - 1) (f_j - 1)

  f is the probability of the true class on the examples that `holdout` takes out of the
  training set, measured in evaluation mode before every epoch but the first, in which
  all weights are equal (equations 8 to 11). Weights below zero, which the text excludes
  and equation 11 does not, are cut to zero.

  Args:
    weight: lambda of equation 2, at least 0.
    temperature: T > 0.

  Raises:
    ConfigError: for values out of range, and when the run is built without held-out
      examples.
  """

  def teach(memory, logits, alive, labels):
    del labels
    shares = jnp.where(alive, memory["weights"], 0)
    shares = jnp.where(shares.sum() > 0, shares, alive.astype(jnp.float32))
    shares /= jnp.maximum(shares.sum(), 1e-9)
    # softmax((T log p) / T) = p. The mean is taken in the log domain, where no
    # probability underflows.
    log_p = jax.nn.logsumexp(
      jax.nn.log_softmax(logits / temperature), axis=0, b=shares[:, None, None]
    )
    return temperature * jnp.where(alive.any(), log_p, 0), {"weight": shares}

  def init(key, setup):
    members = len(setup.outputs.members)
    return {}, {"weights": jnp.full((members,), 1 / members, jnp.float32)}

  def start(memory):
    members = memory["weights"].size
    return {"errors": jnp.zeros((members, members)), "count": jnp.zeros(())}

  def collect(collected, memory, outputs, batch):
    del memory
    labels = jnp.broadcast_to(batch.label[None], outputs.logits.shape[:2])
    error = (jnp.exp(-losses.cross_entropy(outputs.logits, labels)) - 1) * batch.mask[
      None
    ]
    return {
      "errors": collected["errors"]
      + jnp.einsum("ib,jb->ij", error, error, precision="highest"),
      "count": collected["count"] + batch.mask.sum(),
    }

  def finish(memory, collected):
    del memory
    return {
      "weights": targets.kdcl_weights_from_errors(
        collected["errors"] / collected["count"]
      )
    }

  survey = Survey("holdout", lambda epoch: epoch > 0, start, collect, finish)
  return _collaborative(teach, weight, temperature, init=init, surveys=(survey,))
