"""A member's whole optimiser: what goes with every algorithm, put around it.

Clipping, weight decay with its mask, the algorithm, the schedule, accumulation.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdistill.core import registry
from jaxdistill.core.durations import Clock
from jaxdistill.core.types import PyTree
from jaxdistill.errors import naming, require, require_not_negative, require_positive

# Keys of the section that name a component, and its kind.
_KINDS = {"name": "optimizers", "schedule": "schedules"}


class Chain(NamedTuple):
  """The keys of a section `optimizer` that go with every optimiser and every schedule.

  Attributes:
    name: of the optimiser.
    learning_rate: peak of the schedule.
    weight_decay: factor; all parameters decay, biases and normalisation too, as in the
      methods' released codes.
    no_decay: names of parameters, or of modules with all of theirs, that do not decay,
      such as "bias", "scale" (of normalisations), "cls_token", "pos_embed", "head".
    clip_norm: largest global norm of a member's gradient; 0 does not clip.
    accumulate: steps whose gradients are averaged for one update. The schedule and all
      durations count steps; who teaches whom is decided in every step, on its batch.
    schedule: name of the schedule.
    warmup: duration of the linear rise from zero; the schedule's clock runs from step 0
      all the same.
  """

  name: str = "sgd"
  learning_rate: float = 0.1
  weight_decay: float = 5e-4
  no_decay: Sequence[str] = ()
  clip_norm: float = 0.0
  accumulate: int = 1
  schedule: str = "step"
  warmup: str = "0 steps"


def make_schedule(keys: Mapping[str, Any], clock: Clock) -> optax.Schedule:
  """Builds the learning rate as a function of the step.

  Args:
    keys: of a section `optimizer`: those of `Chain` and of the schedule; others are
      left alone.
    clock: of the run.

  Raises:
    ConfigError: naming the key as `optimizer.<key>`.
  """
  common = _common(keys)
  with naming("optimizer", separator="."):
    require_positive(learning_rate=common.learning_rate)
    warmup_steps = clock.steps("warmup", common.warmup)
  main = _make("schedule", keys, common.schedule, common.learning_rate, clock)
  if not warmup_steps:
    return main
  rise = optax.linear_schedule(0.0, 1.0, warmup_steps)
  return lambda step: main(step) * rise(step)


def make_optimizer(
  keys: Mapping[str, Any], clock: Clock
) -> optax.GradientTransformation:
  """Builds the optimiser of one member.

  Its `update` needs the number of the run's step, `step=`.

  Args:
    keys: of a section `optimizer`: those of `Chain`, of the optimiser and of the
      schedule; others are left alone.
    clock: of the run.

  Raises:
    ConfigError: naming the key as `optimizer.<key>`.
  """
  common = _common(keys)
  schedule = make_schedule(keys, clock)
  with naming("optimizer", separator="."):
    require_not_negative(weight_decay=common.weight_decay, clip_norm=common.clip_norm)
    require(
      common.accumulate >= 1, f"accumulate must be at least 1, got {common.accumulate}"
    )
  algorithm = _make("name", keys, common.name, _decay(common))

  clip = optax.identity()
  if common.clip_norm:
    clip = optax.clip_by_global_norm(common.clip_norm)

  tx = optax.chain(clip, algorithm, _follow(schedule, common.accumulate))
  if common.accumulate == 1:
    return tx
  return _accumulated(tx, common.accumulate)


def _accumulated(
  tx: optax.GradientTransformation, steps: int
) -> optax.GradientTransformationExtraArgs:
  """Returns an optimiser of the mean of several steps' gradients."""
  several = optax.MultiSteps(tx, steps)

  # Its own `gradient_transformation` does not pass the step on.
  def update(
    updates: PyTree, state: PyTree, params: PyTree | None = None, **extra_args: Any
  ) -> tuple[PyTree, PyTree]:
    return several.update(updates, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(several.init, update)


def _follow(
  schedule: optax.Schedule, accumulate: int
) -> optax.GradientTransformationExtraArgs:
  """Returns what multiplies an update by the learning rate of the run's step.

  The step comes with every call instead of being counted here: one whose updates were
  held has the same learning rate as all others afterwards.

  Args:
    schedule: step -> rate.
    accumulate: steps of an update; the rate is that of the first of them.
  """

  def init(params: PyTree) -> PyTree:
    del params
    return optax.EmptyState()

  def update(
    updates: PyTree, state: PyTree, params: PyTree | None = None, **extra_args: Any
  ) -> tuple[PyTree, PyTree]:
    del params
    rate = schedule(extra_args["step"] // accumulate * accumulate)
    return jax.tree.map(lambda x: -jnp.asarray(rate, x.dtype) * x, updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def _decay(common: Chain) -> optax.GradientTransformation:
  """Builds the transformation that adds the decayed weights."""
  if not common.weight_decay:
    return optax.identity()
  mask = functools.partial(_decays, tuple(common.no_decay))
  return optax.add_decayed_weights(common.weight_decay, mask)


def _common(keys: Mapping[str, Any]) -> Chain:
  """Returns the keys that go with every optimiser; absent ones have their defaults."""
  return Chain(**{key: keys[key] for key in Chain._fields if key in keys})


def _make(part: str, keys: Mapping[str, Any], name: str, *given: Any) -> Any:
  """Builds the optimiser or the schedule.

  Args:
    part: key of the section that names it: "name" or "schedule".
    keys: of the section; those that are its own are passed on.
    name: registry name.
    *given: what its factory gets by position.

  Raises:
    ConfigError: naming the key: `part`, or that keyword which was refused.
  """
  kind = _KINDS[part]
  with naming(f"optimizer.{part}"):
    own = {key: keys[key] for key in registry.keywords(kind, name) if key in keys}
    make = registry.bind(kind, name, *given, **own)
  with naming("optimizer", separator="."):
    made = make()
  with naming(f"optimizer.{part}"):
    registry.require_kind(kind, name, made)
  return made


def _names(path: Sequence[Any]) -> set[str]:
  """Returns the names that `no_decay` may use for the parameter at a path.

  Its own, its modules', and the parts between their dots.
  """
  found = set()
  for key in path:
    name = jax.tree_util.keystr((key,), simple=True)
    found |= {name, *name.split(".")}
  return found


def _decays(no_decay: Sequence[str], params: PyTree) -> PyTree:
  """Tells of every parameter whether it decays."""

  def decays(path, _):
    return not set(no_decay) & _names(path)

  return jax.tree_util.tree_map_with_path(decays, params)


def parameter_names(params: PyTree) -> set[str]:
  """Returns all names that `no_decay` can refer to."""
  paths, _ = jax.tree_util.tree_flatten_with_path(params)
  return set().union(*(_names(path) for path, _ in paths))
