"""Competitive Distillation: in every step the member with the lowest loss teaches the others."""

import jax
import jax.numpy as jnp

from jaxdistill import losses, metrics, targets
from jaxdistill.core.method import Method, Setup
from jaxdistill.core.types import Objective, Outputs
from jaxdistill.errors import (
  ConfigError,
  require_choice,
  require_not_negative,
  require_positive,
)

CHOICES = dict(
  teachers=("winner_only", "all_better"),
  metric=("ce_own", "ce_clean", "accuracy"),
  scope=("batch", "sample"),
  tie=("strict", "first_only"),
  feature_reduce=("mean", "sum", "normalized"),
  projector=("auto", "none"),
  kl_view=("as_is", "mix", "clean", "skip"),
  feature_view=("auto", "as_is", "skip"),
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
  """Trains the winner on the labels and every other member towards the winner as well.

      t = argmin_i CE_i,   L_t = CE_t,   L_i = CE_i + alpha T^2 KL(p_t || p_i) + beta |F_i - F_t|^2

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
      member the mixture of the teacher's predictions, and lets it teach nobody, if
      images were mixed; "clean" compares on the unperturbed images; "skip" drops the
      pairs with the perturbed member.
    feature_view: the same for features: "auto" skips pairs with the perturbed member
      for feature maps, whose positions no longer correspond, and when images were
      mixed; "as_is" never, "skip" always.

  Raises:
    ConfigError: for values out of range, and at initialisation for an unknown feature.

  Reference:
    D. Shi, X. Diao, X. Chen, C. M. John: Competitive Distillation: A Simple Learning
      Strategy for Improving
    Visual Classification, equations 4 to 11.
  """
  chosen = dict(
    teachers=teachers,
    metric=metric,
    scope=scope,
    tie=tie,
    feature_reduce=feature_reduce,
    projector=projector,
    kl_view=kl_view,
    feature_view=feature_view,
  )
  require_choice(**{name: (value, CHOICES[name]) for name, value in chosen.items()})
  require_not_negative(alpha=alpha, beta=beta)
  require_positive(temperature=temperature)

  def loss(step):
    params, memory, outputs, batch, views, context = step
    clean = context.forward_clean
    score = jax.lax.stop_gradient(
      _contest(outputs, clean, batch, views, metric, scope, subtract_label_entropy)
    )
    weigh = lambda s: targets.teaching_weights(s, teachers, tie)
    weights = (
      weigh(score)[..., None] if scope == "batch" else jax.vmap(weigh, 1, 2)(score)
    )
    ce = losses.soft_cross_entropy(outputs.logits, views.target).mean(axis=1)
    seen = jnp.arange(ce.size) == views.perturbation.member
    involved = (seen[:, None] | seen[None, :])[..., None]
    mixed = views.perturbation.weight < 1

    pairs, allowed = _pairwise_kl(
      outputs, clean, views, kl_view, seen, involved, mixed, temperature
    )
    kl = (weights * allowed * pairs).sum(axis=1).mean(axis=-1)
    objective = ce + alpha * kl
    logged = {"kl": kl, "wins": _wins(score)}
    if beta:
      distance, spatial = _pairwise_feature(params, outputs, feature, feature_reduce)
      unfit = (
        involved & (mixed | spatial)
        if feature_view == "auto"
        else involved & (feature_view == "skip")
      )
      logged["feature"] = (weights * ~unfit * distance).sum(axis=1).mean(axis=-1)
      objective += beta * logged["feature"]
    return Objective(objective, jnp.float32(0), logged, memory)

  def init(key, setup):
    return (_init_projectors(key, setup, feature, projector) if beta else {}), {}

  return Method(loss=loss, init=init, min_members=2, columns=("wins",))


def _contest(
  outputs: Outputs, clean, batch, views, metric: str, scope: str, subtract_entropy: bool
) -> jax.Array:
  """Returns what the members compete on, [M] or [M, B], lower is better, NaN for who may not take part."""
  logits, target = outputs.logits, views.label
  if metric == "ce_clean":
    labels = jnp.broadcast_to(batch.label[None], logits.shape[:2])
    score = losses.cross_entropy(clean().logits, labels)
  elif metric == "accuracy":
    score = -metrics.top_k(logits, jnp.argmax(target, axis=-1), 1)
  else:
    score = losses.soft_cross_entropy(logits, target)
    if subtract_entropy:
      score += jax.scipy.special.xlogy(target, target).sum(axis=-1)
  alive = outputs.alive if scope == "batch" else outputs.alive[:, None]
  return jnp.where(alive, score.mean(axis=1) if scope == "batch" else score, jnp.nan)


def _wins(score: jax.Array) -> jax.Array:
  """Share of the contests each member wins: f32[M]."""
  members = jnp.arange(score.shape[0])
  if score.ndim == 1:
    return (members == targets.winner(score)).astype(jnp.float32)
  return (members[:, None] == jax.vmap(targets.winner, 1)(score)[None]).mean(axis=1)


def _pairwise_kl(
  outputs: Outputs, clean, views, view: str, seen, involved, mixed, temperature: float
):
  """Returns KL of every student (row) to every teacher (column), [M, M, B], and where it may be used."""
  logits = clean().logits if view == "clean" else outputs.logits
  teacher = jax.lax.stop_gradient(logits)
  pairs = losses.kl_divergence(logits[:, None], teacher[None], temperature)
  if view == "skip":
    return pairs, ~involved
  if view != "mix":
    return pairs, True
  share, partner = views.perturbation.weight, views.perturbation.permutation
  probabilities = jax.nn.softmax(teacher / temperature)
  blend = jnp.log(
    share * probabilities + (1 - share) * probabilities[:, partner] + 1e-30
  )
  to_blend = (
    losses.kl_divergence(logits[:, None] / temperature, blend[None]) * temperature**2
  )
  use_blend = (seen & mixed)[:, None, None]
  return jnp.where(use_blend, to_blend, pairs), ~(seen & mixed)[None, :, None]


def _init_projectors(
  key: jax.Array, setup: Setup, feature: str, projector: str
) -> dict[str, jax.Array]:
  """Makes one linear map per ordered pair of members of groups whose feature sizes differ."""
  shapes = {}
  for name, output in setup.outputs.groups.items():
    if feature not in output.features:
      raise ConfigError(
        f"method.feature {feature!r} is not a feature of {name}: it has "
        f"{', '.join(output.features) or 'none: set method.beta=0'}"
      )
    shapes[name] = output.features[feature].shape
  maps = {}
  for i, (student, own) in enumerate(shapes.items()):
    for j, (teacher, other) in enumerate(shapes.items()):
      grids = own[2:-1], other[2:-1]
      if len(grids[0]) != len(grids[1]) or any(max(g) % min(g) for g in zip(*grids)):
        raise ConfigError(
          f"method.feature {feature!r} cannot be compared: it is {list(own[1:])} in {student} and "
          f"{list(other[1:])} in {teacher}: use 'pooled'"
        )
      if own[-1] == other[-1]:
        continue
      if projector == "none":
        raise ConfigError(
          f"method.projector is 'none', but {feature} has size {own[-1]} in {student} and "
          f"{other[-1]} in {teacher}: use 'auto'"
        )
      pair_key = jax.random.fold_in(key, i * len(shapes) + j)
      maps[f"{student}>{teacher}"] = own[-1] ** -0.5 * jax.random.normal(
        pair_key, (own[0], other[0], own[-1], other[-1])
      )
  return maps


def _pool(x: jax.Array, grid: tuple[int, ...]) -> jax.Array:
  """Average-pools the axes between batch and channels of [K, B, ..., D] to the sizes in `grid`."""
  for axis, size in enumerate(grid, start=2):
    if x.shape[axis] != size:
      x = x.reshape(*x.shape[:axis], size, -1, *x.shape[axis + 1 :]).mean(axis=axis + 1)
  return x


def _pairwise_feature(
  params, outputs: Outputs, feature: str, reduce: str
) -> tuple[jax.Array, bool]:
  """Returns the feature distance of every student to every teacher, [M, M, B], and whether features are maps."""
  groups = {
    name: output.features[feature].astype(jnp.float32)
    for name, output in outputs.groups.items()
  }
  spatial = next(iter(groups.values())).ndim > 3
  distance = jax.vmap(jax.vmap(lambda s, t: losses.feature_l2(s, t, reduce)))
  rows = []
  for student, own in groups.items():
    row = []
    for teacher, other in groups.items():
      grid = tuple(map(min, own.shape[2:-1], other.shape[2:-1]))
      f, t = _pool(own, grid), jax.lax.stop_gradient(_pool(other, grid))
      shape = (f.shape[0], t.shape[0], *t.shape[1:])
      if f"{student}>{teacher}" in params:
        f = jnp.einsum("ib...d,ijde->ijb...e", f, params[f"{student}>{teacher}"])
      else:
        f = jnp.broadcast_to(f[:, None], shape)
      row.append(distance(f, jnp.broadcast_to(t[None], shape)))
    rows.append(jnp.concatenate(row, axis=1))
  return jnp.concatenate(rows, axis=0), spatial
