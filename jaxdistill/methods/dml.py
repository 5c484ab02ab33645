"""Deep Mutual Learning: each member matches every other member's predictions."""

import jax
import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.core.method import Method, Step
from jaxdistill.core.types import Objective
from jaxdistill.errors import require_choice, require_not_negative, require_positive


def dml(
  *,
  weight: float = 1.0,
  temperature: float = 1.0,
  reduce: str = "mean",
  target: str = "pairwise",
) -> Method:
  """Returns the method that trains each member towards the predictions of the others.

      L_i = CE(z_i, y) + weight * reduce_{j != i} T^2 KL(p_j || p_i)

  Every p_j is detached. The order of updates is a property of the step
  (`update_order`): "simultaneous", or "sequential" as in the paper's algorithm 1.

  Args:
    weight: factor of the mutual term, at least 0.
    temperature: T > 0.
    reduce: "mean" over the peers (the paper), or their "sum" (the released TensorFlow
      code).
    target: "pairwise", one KL for each peer, or "mean_logits", a single KL to the mean
      of the peers' logits.

  Raises:
    ConfigError: for values out of range.

  Reference:
    Y. Zhang, T. Xiang, T. Hospedales, H. Lu: Deep Mutual Learning. CVPR 2018, equations
      5 to 9.
  Differs from the released code: both members see the same batch, and the KL has no
  epsilon in its logarithms.
  """
  require_not_negative(weight=weight)
  require_positive(temperature=temperature)
  require_choice(
    reduce=(reduce, ("mean", "sum")), target=(target, ("pairwise", "mean_logits"))
  )

  def pairwise(logits: jax.Array, teachers: jax.Array, peers: jax.Array) -> jax.Array:
    pairs = losses.pairwise_kl(logits, teachers, temperature).mean(axis=-1)
    total = jnp.where(peers, pairs, 0).sum(axis=1)
    if reduce == "sum":
      return total
    return total / jnp.maximum(peers.sum(axis=1), 1)

  def to_mean_logits(
    logits: jax.Array, teachers: jax.Array, peers: jax.Array
  ) -> jax.Array:
    weights = peers.astype(jnp.float32)
    bounded = losses.bounded(teachers)
    total = jnp.einsum("ij,jbc->ibc", weights, bounded, precision="highest")
    mean = total / jnp.maximum(peers.sum(axis=1), 1)[:, None, None]
    kl = losses.kl_divergence(logits, mean, temperature).mean(axis=1)
    return jnp.where(peers.any(axis=1), kl, 0)

  mutual = pairwise if target == "pairwise" else to_mean_logits

  def loss(step: Step) -> Objective:
    logits = step.outputs.logits
    teachers = jax.lax.stop_gradient(logits)
    kl = mutual(logits, teachers, step.outputs.peers)
    return Objective(member=step.label_loss + weight * kl, metrics={"kl": kl})

  return Method(loss=loss, min_members=2)
