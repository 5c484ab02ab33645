"""Deep Mutual Learning: each member matches every other member's predictions."""

import jax
import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.core.method import Method, Setup, Step
from jaxdistill.core.types import Objective, PyTree, Variables
from jaxdistill.errors import require_choice, require_not_negative, require_positive
from jaxdistill.methods._pairs import (
  compare_features,
  init_projectors,
  mean_over_teachers,
  require_comparison,
)


def dml(
  *,
  weight: float = 1.0,
  temperature: float = 1.0,
  reduce: str = "mean",
  target: str = "pairwise",
  feature_weight: float = 0.0,
  feature: str = "pooled",
  feature_reduce: str = "mean",
  projector: str = "auto",
  feature_view: str = "auto",
) -> Method:
  """Returns the method that trains each member towards the predictions of the others.

      L_i = CE(z_i, y) + weight * reduce_{j != i} T^2 KL(p_j || p_i)

  Every p_j is detached. The order of updates is a property of the step
  (`update_order`): "simultaneous", or "sequential" as in the paper's algorithm 1.
  `feature_weight` adds the feature term with which Competitive Distillation compares
  itself; it is reduced over the peers as the KL is.

  Args:
    weight: factor of the mutual term, at least 0.
    temperature: T > 0.
    reduce: "mean" over the peers (the paper), or their "sum" (the released TensorFlow
      code).
    target: "pairwise", one KL for each peer, or "mean_logits", a single KL to the mean
      of the peers' logits.
    feature_weight: of the feature term, which DML itself does not have.
    feature: name of the compared feature, "pooled" or "stem", "stage1", ...
    feature_reduce: see `losses.feature_l2`.
    projector: "auto" learns a linear map for every pair of members whose features
      differ in size; "none" refuses such cohorts.
    feature_view: whether features of perturbed images are compared with others: "auto"
      not for maps, whose positions no longer correspond, nor when images were mixed;
      "as_is" always, "skip" never.

  Raises:
    ConfigError: for values out of range, and at initialisation for an unknown feature.

  Reference:
    Y. Zhang, T. Xiang, T. Hospedales, H. Lu: Deep Mutual Learning. CVPR 2018, equations
      5 to 9.
    D. Shi, X. Diao, X. Chen, C. M. John: Competitive Distillation: A Simple Learning
      Strategy for Improving Visual Classification, table 4, for the feature term.
  Differs from the released code: both members see the same batch, and the KL has no
  epsilon in its logarithms.
  """
  require_not_negative(weight=weight, feature_weight=feature_weight)
  require_positive(temperature=temperature)
  require_choice(
    reduce=(reduce, ("mean", "sum")), target=(target, ("pairwise", "mean_logits"))
  )
  require_comparison(
    feature_reduce=feature_reduce, projector=projector, feature_view=feature_view
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

  def over_peers(step: Step) -> jax.Array:
    """Returns how much of the distance to each peer is counted: f32[M, M, 1]."""
    peers = step.outputs.peers
    weights = peers.astype(jnp.float32)
    if reduce == "mean":
      weights /= jnp.maximum(peers.sum(axis=1, keepdims=True), 1)
    return weights[..., None]

  def loss(step: Step) -> Objective:
    logits = step.outputs.logits
    teachers = jax.lax.stop_gradient(logits)
    kl = mutual(logits, teachers, step.outputs.peers)
    member = step.label_loss + weight * kl
    logged = {"kl": kl}
    if feature_weight:
      pairs = compare_features(step, feature, feature_reduce, feature_view)
      logged["feature"] = mean_over_teachers(over_peers(step), pairs)
      member += feature_weight * logged["feature"]
    return Objective(member=member, metrics=logged)

  def init(key: jax.Array, setup: Setup) -> tuple[Variables, PyTree]:
    if not feature_weight:
      return {}, {}
    projectors = init_projectors(
      key, setup, feature, projector, weight="feature_weight"
    )
    return projectors, {}

  return Method(loss=loss, init=init, min_members=2)
