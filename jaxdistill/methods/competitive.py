"""Competitive Distillation: in every step the member with the lowest loss teaches."""

import jax
import jax.numpy as jnp

from jaxdistill import losses, metrics, targets
from jaxdistill.core.method import Method, Setup, Step
from jaxdistill.core.types import Objective, PyTree, Variables
from jaxdistill.errors import require_choice, require_not_negative, require_positive
from jaxdistill.methods._pairs import (
  Pairs,
  compare_features,
  init_projectors,
  involves_perturbed,
  mean_over_teachers,
  require_comparison,
)


def competitive(
  *,
  alpha: float = 1.0,
  beta: float = 1.0,
  temperature: float = 1.0,
  teachers: str = "winner_only",
  metric: str = "ce_own",
  scope: str = "batch",
  tie: str = "strict",
  subtract_label_entropy: bool = False,
  feature: str = "pooled",
  feature_reduce: str = "mean",
  projector: str = "auto",
  kl_view: str = "as_is",
  feature_view: str = "auto",
) -> Method:
  """Returns the method in which the winner of a step also teaches the other members.

      t = argmin_i CE_i,   L_t = CE_t
      L_i = CE_i + alpha T^2 KL(p_t || p_i) + beta |F_i - F_t|^2

  The contest is decided on the global batch; the winner is a mask and its outputs are
  detached. Members whose loss is not finite neither win nor learn. Cross-entropy and KL
  are means over the batch, where equations 7 and 8 print sums: with the paper's
  learning rate a sum would be a step 128 times larger.

  Args:
    alpha: weight of the KL term.
    beta: weight of the feature term.
    temperature: T of the KL term; the contest is always at T = 1.
    teachers: "winner_only" (the paper), or "all_better", the mean over all members that
      did better (the released code). The two agree for two members.
    metric: what the contest is about: "ce_own", cross-entropy on the member's own
      images and labels; "ce_clean", on the unperturbed ones (one more forward pass in
      perturbed steps); "accuracy", own images.
    scope: one contest for the "batch", or one for every "sample".
    tie: see `targets.teaching_weights`.
    subtract_label_entropy: subtract the entropy of mixed labels, a floor no prediction
      can go below, from the contest's cross-entropy.
    feature: name of the compared feature, "pooled" or "stem", "stage1", ...; maps of
      different size are average-pooled to the smaller one.
    feature_reduce: see `losses.feature_l2`; equation 9 is "sum" summed over the batch.
    projector: "auto" learns a linear map from the student's feature size to the
      teacher's for every pair of members that differ, trained by the feature term and
      dropped with the method's state; "none" refuses such cohorts.
    kl_view: what KL means in a step in which one member saw other images: "as_is"
      compares example by example (the released code); "mix" teaches the perturbed
      member the mixture of the teacher's predictions, and keeps it from teaching, if
      images were mixed; "clean" compares on the unperturbed images; "skip" drops the
      pairs with the perturbed member.
    feature_view: the same for features: "auto" skips pairs with the perturbed member
      for feature maps, whose positions no longer correspond, and when images were
      mixed; "as_is" never, "skip" always.

  Raises:
    ConfigError: for values out of range, and at initialisation for an unknown feature.

  Reference:
    D. Shi, X. Diao, X. Chen, C. M. John: Competitive Distillation: A Simple Learning
      Strategy for Improving Visual Classification, equations 4 to 11.
  """
  require_choice(
    teachers=(teachers, ("winner_only", "all_better")),
    metric=(metric, ("ce_own", "ce_clean", "accuracy")),
    scope=(scope, ("batch", "sample")),
    tie=(tie, ("strict", "first_only")),
    kl_view=(kl_view, ("as_is", "mix", "clean", "skip")),
  )
  require_comparison(
    feature_reduce=feature_reduce, projector=projector, feature_view=feature_view
  )
  require_not_negative(alpha=alpha, beta=beta)
  require_positive(temperature=temperature)

  def loss(step: Step) -> Objective:
    # The contest: who teaches whom.
    scores = _scores(
      step,
      metric=metric,
      scope=scope,
      subtract_label_entropy=subtract_label_entropy,
    )
    weights = _teaching_weights(scores, rule=teachers, tie=tie)

    # Every member learns from the labels, and from the logits of its teachers.
    label_loss = step.label_loss
    kl = mean_over_teachers(weights, _compare_logits(step, kl_view, temperature))
    member = label_loss + alpha * kl
    logged = {"kl": kl, "wins": _win_rates(scores)}

    # And from their features.
    if beta:
      pairs = compare_features(step, feature, feature_reduce, feature_view)
      logged["feature"] = mean_over_teachers(weights, pairs)
      member += beta * logged["feature"]
    return Objective(member=member, metrics=logged)

  def init(key: jax.Array, setup: Setup) -> tuple[Variables, PyTree]:
    if not beta:
      return {}, {}
    projectors = init_projectors(key, setup, feature, projector, weight="beta")
    return projectors, {}

  return Method(loss=loss, init=init, min_members=2, columns=("wins",))


def _scores(
  step: Step, *, metric: str, scope: str, subtract_label_entropy: bool
) -> jax.Array:
  """Returns what the members compete on: lower is better, detached.

  Args:
    step: the step.
    metric: of `competitive`.
    scope: of `competitive`.
    subtract_label_entropy: of `competitive`.

  Returns:
    f32[M] or, for scope "sample", f32[M, B]; NaN for members that may not take part.
  """
  logits = step.outputs.logits
  label = step.views.label
  if metric == "ce_clean":
    score = _clean_cross_entropy(step)
  elif metric == "accuracy":
    score = -metrics.top_k(logits, jnp.argmax(label, axis=-1), 1)
  else:
    score = losses.soft_cross_entropy(logits, label)
    if subtract_label_entropy:
      score += jax.scipy.special.xlogy(label, label).sum(axis=-1)
  alive = step.outputs.alive
  if scope == "batch":
    score = jnp.where(alive, score.mean(axis=1), jnp.nan)
  else:
    score = jnp.where(alive[:, None], score, jnp.nan)
  return jax.lax.stop_gradient(score)


def _clean_cross_entropy(step: Step) -> jax.Array:
  """Returns every member's cross-entropy on the unperturbed images: f32[M, B]."""
  logits = step.context.forward_clean().logits
  mixture = step.views.mixture
  if mixture is None:
    return losses.cross_entropy(logits, step.labels)
  # Those are mixed, for all members alike.
  target = mixture.mix_labels(step.batch.label, logits.shape[-1])
  return losses.soft_cross_entropy(logits, jnp.broadcast_to(target[None], logits.shape))


def _teaching_weights(scores: jax.Array, *, rule: str, tie: str) -> jax.Array:
  """Returns how much student i learns from teacher j: f32[M, M, 1 or B]."""

  def weigh(score: jax.Array) -> jax.Array:
    return targets.teaching_weights(score, rule, tie)

  if scores.ndim == 1:
    return weigh(scores)[..., None]
  return jax.vmap(weigh, in_axes=1, out_axes=2)(scores)


def _win_rates(scores: jax.Array) -> jax.Array:
  """Returns the fraction of the contests that each member wins: f32[M]."""
  members = jnp.arange(scores.shape[0])
  if scores.ndim == 1:
    return (members == targets.winner(scores)).astype(jnp.float32)
  winners = jax.vmap(targets.winner, in_axes=1)(scores)
  return (members[:, None] == winners[None]).mean(axis=1)


def _compare_logits(step: Step, view: str, temperature: float) -> Pairs:
  """Returns the KL of every student to every teacher, as `kl_view` says."""
  logits = step.outputs.logits
  if view == "clean":
    logits = step.context.forward_clean().logits
  teachers = jax.lax.stop_gradient(logits)
  kl = losses.pairwise_kl(logits, teachers, temperature)
  involved = involves_perturbed(step.views)
  if view == "skip":
    return Pairs(distance=kl, comparable=~involved)
  if view != "mix":
    return Pairs(distance=kl, comparable=jnp.ones_like(involved))

  # The member whose images were mixed learns the same mixture of predictions.
  perturbation = step.views.perturbation
  mixture = perturbation.mix(jax.nn.softmax(teachers / temperature), axis=1)
  log_mixture = jnp.log(mixture + 1e-30)
  kl_to_mixture = losses.pairwise_kl(logits / temperature, log_mixture)
  mixed = step.views.is_mixed_apart
  distance = jnp.where(mixed[:, None, None], kl_to_mixture * temperature**2, kl)
  return Pairs(distance=distance, comparable=~mixed[None, :, None])
