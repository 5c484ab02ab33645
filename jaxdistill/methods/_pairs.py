"""Every member compared with every other, above all by features."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.core.method import Setup, Step
from jaxdistill.core.types import Variables, Views
from jaxdistill.errors import require, require_choice


class Pairs(NamedTuple):
  """Every student (row) compared with every teacher (column).

  Attributes:
    distance: f32[M, M, B].
    comparable: bool[M, M, 1] (or broadcast to it) whether the pair may be compared.
  """

  distance: jax.Array
  comparable: jax.Array


def involves_perturbed(views: Views) -> jax.Array:
  """Returns whether student or teacher saw perturbed images: bool[M, M, 1]."""
  perturbed = views.is_perturbed
  return (perturbed[:, None] | perturbed[None, :])[..., None]


def mean_over_teachers(weights: jax.Array, pairs: Pairs) -> jax.Array:
  """Returns each student's distance to its teachers, mean over the batch: f32[M].

  Args:
    weights: f32[M, M, 1 or B] how much student i learns from teacher j.
    pairs: that are compared; those that may not be count as no distance.
  """
  weights = weights * pairs.comparable
  # What is not compared may be infinite, and zero times infinity is not zero.
  counted = jnp.where(weights > 0, weights * pairs.distance, 0)
  return counted.sum(axis=1).mean(axis=-1)


def require_comparison(
  *, feature_reduce: str, projector: str, feature_view: str
) -> None:
  """Raises `ConfigError` for values of a method's keywords that are not known."""
  require_choice(
    feature_reduce=(feature_reduce, ("mean", "sum", "normalized")),
    projector=(projector, ("auto", "none")),
    feature_view=(feature_view, ("auto", "as_is", "skip")),
  )


def compare_features(step: Step, feature: str, reduce: str, view: str) -> Pairs:
  """Returns the feature distance of every student to every teacher.

  Args:
    step: the step; its modules are those of `init_projectors`.
    feature: name of the feature.
    reduce: see `losses.feature_l2`.
    view: what is compared in a step in which one member saw other images: "auto" skips
      pairs with that member for feature maps, whose positions no longer correspond, and
      when images were mixed; "as_is" skips none, "skip" all of them.
  """
  outputs, fits = step.outputs.within_range(feature)
  features = {}
  for name, output in outputs.groups.items():
    features[name] = output.features[feature]
  distance = _pairwise_distance(step.modules, features, reduce)

  both_fit = (fits[:, None] & fits[None, :])[..., None]
  involved = involves_perturbed(step.views)
  if view == "auto":
    # A perturbation may move what is seen: positions of maps no longer correspond.
    are_maps = any(values.ndim > 3 for values in features.values())
    unfit = involved & (step.views.perturbation.mixes | are_maps)
  elif view == "skip":
    unfit = involved
  else:
    unfit = jnp.zeros_like(involved)
  return Pairs(distance=distance, comparable=both_fit & ~unfit)


def _pairwise_distance(
  modules: Variables, features: dict[str, jax.Array], reduce: str
) -> jax.Array:
  """Returns the distance of every student's feature to every teacher's: f32[M, M, B].

  Args:
    modules: from `init_projectors`.
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


def init_projectors(
  key: jax.Array, setup: Setup, feature: str, projector: str, *, weight: str
) -> Variables:
  """Initialises a linear map for every ordered pair of members of different sizes.

  Args:
    key: PRNG key.
    setup: of the run.
    feature: name of the compared feature.
    projector: "auto", or "none" to refuse members whose features differ in size.
    weight: the method's key that is 0 where nothing is compared.

  Returns:
    Group of the students -> (group of the teachers -> f32[K, L, D, E], {}).

  Raises:
    ConfigError: for a feature that is unknown or cannot be compared, or for different
      sizes where there may be no projector.
  """
  shapes = {}
  for name, output in setup.outputs.groups.items():
    known = ", ".join(output.features) or f"none: set method.{weight}=0"
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
