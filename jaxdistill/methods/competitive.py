"""Competitive Distillation: in every step the member with the lowest loss teaches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill import losses, metrics, targets
from jaxdistill.core.method import Method, Setup, Step
from jaxdistill.core.types import Objective, PyTree, Variables, Views
from jaxdistill.errors import (
  require,
  require_choice,
  require_not_negative,
  require_positive,
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
    feature_reduce=(feature_reduce, ("mean", "sum", "normalized")),
    projector=(projector, ("auto", "none")),
    kl_view=(kl_view, ("as_is", "mix", "clean", "skip")),
    feature_view=(feature_view, ("auto", "as_is", "skip")),
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
    kl = _mean_over_teachers(weights, _compare_logits(step, kl_view, temperature))
    member = label_loss + alpha * kl
    logged = {"kl": kl, "wins": _win_rates(scores)}

    # And from their features.
    if beta:
      pairs = _compare_features(step, feature, feature_reduce, feature_view)
      logged["feature"] = _mean_over_teachers(weights, pairs)
      member += beta * logged["feature"]
    return Objective(member=member, metrics=logged)

  def init(key: jax.Array, setup: Setup) -> tuple[Variables, PyTree]:
    if not beta:
      return {}, {}
    return _init_projectors(key, setup, feature, projector), {}

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


class _Pairs(NamedTuple):
  """Every student (row) compared with every teacher (column).

  Attributes:
    distance: f32[M, M, B].
    comparable: bool[M, M, 1] (or broadcast to it) whether the pair may be compared.
  """

  distance: jax.Array
  comparable: jax.Array


def _mean_over_teachers(weights: jax.Array, pairs: _Pairs) -> jax.Array:
  """Returns each student's distance to its teachers, mean over the batch: f32[M]."""
  weights = weights * pairs.comparable
  # What is not compared may be infinite, and zero times infinity is not zero.
  counted = jnp.where(weights > 0, weights * pairs.distance, 0)
  return counted.sum(axis=1).mean(axis=-1)


def _involves_perturbed(views: Views) -> jax.Array:
  """Returns whether student or teacher saw perturbed images: bool[M, M, 1]."""
  perturbed = views.is_perturbed
  return (perturbed[:, None] | perturbed[None, :])[..., None]


def _compare_logits(step: Step, view: str, temperature: float) -> _Pairs:
  """Returns the KL of every student to every teacher, as `kl_view` says."""
  logits = step.outputs.logits
  if view == "clean":
    logits = step.context.forward_clean().logits
  teachers = jax.lax.stop_gradient(logits)
  kl = losses.pairwise_kl(logits, teachers, temperature)
  involved = _involves_perturbed(step.views)
  if view == "skip":
    return _Pairs(distance=kl, comparable=~involved)
  if view != "mix":
    return _Pairs(distance=kl, comparable=jnp.ones_like(involved))

  # The member whose images were mixed learns the same mixture of predictions.
  perturbation = step.views.perturbation
  mixture = perturbation.mix(jax.nn.softmax(teachers / temperature), axis=1)
  log_mixture = jnp.log(mixture + 1e-30)
  kl_to_mixture = losses.pairwise_kl(logits / temperature, log_mixture)
  mixed = step.views.is_mixed_apart
  distance = jnp.where(mixed[:, None, None], kl_to_mixture * temperature**2, kl)
  return _Pairs(distance=distance, comparable=~mixed[None, :, None])


def _compare_features(step: Step, feature: str, reduce: str, view: str) -> _Pairs:
  """Returns the feature distance of every student to every teacher."""
  outputs, fits = step.outputs.within_range(feature)
  features = {}
  for name, output in outputs.groups.items():
    features[name] = output.features[feature]
  distance = _pairwise_distance(step.modules, features, reduce)

  both_fit = (fits[:, None] & fits[None, :])[..., None]
  involved = _involves_perturbed(step.views)
  if view == "auto":
    # A perturbation may move what is seen: positions of maps no longer correspond.
    are_maps = any(values.ndim > 3 for values in features.values())
    unfit = involved & (step.views.perturbation.mixes | are_maps)
  elif view == "skip":
    unfit = involved
  else:
    unfit = jnp.zeros_like(involved)
  return _Pairs(distance=distance, comparable=both_fit & ~unfit)


def _pairwise_distance(
  modules: Variables, features: dict[str, jax.Array], reduce: str
) -> jax.Array:
  """Returns the distance of every student's feature to every teacher's: f32[M, M, B].

  Args:
    modules: from `_init_projectors`.
    features: group name -> f32[K, B, ..., D].
    reduce: of `losses.feature_l2`.
  """
  rows = []
  for student, own in features.items():
    projectors, _ = modules.get(student, ({}, {}))
    row = []
    for teacher, other in features.items():
      row.append(_group_distance(own, other, projectors.get(teacher), reduce))
    rows.append(jnp.concatenate(row, axis=1))
  return jnp.concatenate(rows, axis=0)


def _group_distance(
  own: jax.Array, other: jax.Array, projector: jax.Array | None, reduce: str
) -> jax.Array:
  """Returns the distance of a group's students to another group's teachers.

  Args:
    own: f32[K, B, ..., D] of the students.
    other: f32[L, B, ..., E] of the teachers; detached here.
    projector: f32[K, L, D, E], or None where the sizes are the same.
    reduce: of `losses.feature_l2`.

  Returns:
    f32[K, L, B].
  """
  grid = tuple(map(min, own.shape[2:-1], other.shape[2:-1]))
  students = _pool(own, grid)
  teachers = jax.lax.stop_gradient(_pool(other, grid))
  shape = (len(students), *teachers.shape)
  if projector is None:
    projected = jnp.broadcast_to(students[:, None], shape)
  else:
    projected = jnp.einsum("ib...d,ijde->ijb...e", students, projector)

  def distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    return losses.feature_l2(student, teacher, reduce)

  return jax.vmap(jax.vmap(distance))(
    projected, jnp.broadcast_to(teachers[None], shape)
  )


def _pool(features: jax.Array, grid: tuple[int, ...]) -> jax.Array:
  """Average-pools the features [K, B, ..., D] of a group to a smaller grid."""
  if features.shape[2:-1] == grid:
    return features
  if len(grid) == 1:
    # Tokens [K, B, tokens, D] are a map of a single column.
    return _pool(features[..., None, :], (*grid, 1))[..., 0, :]
  height, width = grid

  def pool(x: jax.Array) -> jax.Array:
    # Rows, then columns: the order decides how sums are rounded.
    x = losses.average_pool(x, (height, x.shape[2]))
    return losses.average_pool(x, (height, width))

  return jax.vmap(pool)(features)


def _init_projectors(
  key: jax.Array, setup: Setup, feature: str, projector: str
) -> Variables:
  """Initialises a linear map for every ordered pair of members of different sizes.

  Args:
    key: PRNG key.
    setup: of the run.
    feature: of `competitive`.
    projector: of `competitive`.

  Returns:
    Group of the students -> (group of the teachers -> f32[K, L, D, E], {}).

  Raises:
    ConfigError: for a feature that is unknown or cannot be compared, or for different
      sizes where there may be no projector.
  """
  shapes = {}
  for name, output in setup.outputs.groups.items():
    known = ", ".join(output.features) or "none: set method.beta=0"
    require(
      feature in output.features,
      f"method.feature {feature!r} is not a feature of {name}: it has {known}",
    )
    shapes[name] = output.features[feature].shape
  modules = {}
  for i, (student, own) in enumerate(shapes.items()):
    projectors = {}
    for j, (teacher, other) in enumerate(shapes.items()):
      require(
        _have_common_grid(own[2:-1], other[2:-1]),
        f"method.feature {feature!r} cannot be compared: it is {list(own[1:])} in "
        f"{student} and {list(other[1:])} in {teacher}: use 'pooled'",
      )
      if own[-1] == other[-1]:
        continue
      require(
        projector != "none",
        f"method.projector is 'none', but {feature} has size {own[-1]} in {student} "
        f"and {other[-1]} in {teacher}: use 'auto'",
      )
      pair_key = jax.random.fold_in(key, i * len(shapes) + j)
      shape = (own[0], other[0], own[-1], other[-1])
      scale = own[-1] ** -0.5
      projectors[teacher] = scale * jax.random.normal(pair_key, shape)
    if projectors:
      modules[student] = (projectors, {})
  return modules


def _have_common_grid(own: tuple[int, ...], other: tuple[int, ...]) -> bool:
  """Tells whether one grid can be pooled to the other along every axis."""
  if len(own) != len(other):
    return False
  pairs = zip(own, other, strict=True)
  return all(max(sizes) % min(sizes) == 0 for sizes in pairs)
