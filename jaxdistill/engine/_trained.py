"""One set of trained parameters and its optimiser: a member's, or of a method's module.

Every function is of a single member; stacked ones are mapped over by the caller.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdistill.core.types import Group, PyTree

# Arrays of more elements are checked one by one, without a copy. Smaller ones are
# joined before: with a reduction for each, a step takes a quarter longer to compile.
_LARGE = 2**18


class Rule(NamedTuple):
  """How parameters are updated.

  Attributes:
    tx: their optimiser.
    average: decay of the moving average of the weights; 0 keeps none.
  """

  tx: optax.GradientTransformation
  average: float


class Advance(NamedTuple):
  """What one step made of a `Group` without the axis of members.

  Attributes:
    group: after the step; as it was before, but for its count, if it was held.
    updated: bool[] whether it was updated.
    gradient_norm: f32[] of the gradient, before it is clipped.
  """

  group: Group
  updated: jax.Array
  gradient_norm: jax.Array


def start(rule: Rule, params: PyTree, stats: PyTree) -> Group:
  """Returns new parameters with the state of their optimiser."""
  average = {}
  if rule.average:
    # Copies: the same array twice in a state could not be donated.
    average = {
      "params": jax.tree.map(jnp.copy, params),
      "stats": jax.tree.map(jnp.copy, stats),
      "count": jnp.float32(0),
    }
  return Group(
    params=params,
    stats=stats,
    opt=rule.tx.init(params),
    held=jnp.int32(0),
    average=average,
  )


def advance(
  rule: Rule,
  group: Group,
  grads: PyTree,
  stats: PyTree,
  *,
  allowed: jax.Array,
  step: jax.Array,
) -> Advance:
  """Applies the optimiser, unless something of the step would not be finite.

  Args:
    rule: how.
    group: before the step.
    grads: of its parameters.
    stats: its new collections.
    allowed: bool[] whether it may be updated at all.
    step: i32[] number of the run's step; schedules follow it, so that one who was held
      has the learning rate of all others.
  """
  tx = optax.with_extra_args_support(rule.tx)
  updates, opt = tx.update(grads, group.opt, group.params, step=step)
  params = optax.apply_updates(group.params, updates)
  average = _averaged(rule.average, group.average, params, stats, moved=_has_moved(opt))

  # The gradient is checked too: clipping turns an infinite one into a finite but
  # meaningless step. So is the optimiser's state: an infinite moment of Adam would
  # stop its parameter for good.
  gradient_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(gradient_norm) & all_finite((params, stats, opt))
  updated = allowed & finite

  new = Group(params=params, stats=stats, opt=opt, held=jnp.int32(0), average=average)
  old = dataclasses.replace(group, held=group.held + 1)
  kept = jax.tree.map(lambda n, o: jnp.where(updated, n, o), new, old)
  return Advance(group=kept, updated=updated, gradient_norm=gradient_norm)


def all_finite(tree: PyTree) -> jax.Array:
  """Tells whether all floats of a tree are finite: bool[]."""
  small = [jnp.zeros(1)]
  large = []
  for x in jax.tree.leaves(tree):
    if jnp.issubdtype(x.dtype, jnp.floating):
      chosen = large if x.size > _LARGE else small
      chosen.append(x)
  flat = jnp.concatenate([x.astype(jnp.float32).reshape(-1) for x in small])
  checks = [jnp.isfinite(flat).all()]
  for x in large:
    checks.append(jnp.isfinite(x).all())
  return jnp.stack(checks).all()


def _has_moved(opt: PyTree) -> jax.Array:
  """Tells whether the optimiser's last call moved the parameters: bool[].

  It does not while it accumulates gradients.
  """
  moved = [jnp.bool_(True)]
  for _, micro_step in optax.tree.get_all_with_path(opt, "mini_step"):
    moved.append(micro_step == 0)
  return jnp.stack(moved).all()


def _averaged(
  decay: float, average: PyTree, params: PyTree, stats: PyTree, *, moved: jax.Array
) -> PyTree:
  """Moves the average towards new weights, quickly at first.

  In update n it keeps min(decay, (1 + n) / (10 + n)) of itself; where nothing has moved
  it keeps all.
  """
  if not average:
    return average
  count = average["count"]
  rate = jnp.where(moved, jnp.minimum(decay, (1 + count) / (10 + count)), 1)

  def move(old, new):
    return jax.tree.map(lambda a, b: rate * a + (1 - rate) * b, old, new)

  return {
    "params": move(average["params"], params),
    "stats": move(average["stats"], stats),
    "count": count + moved,
  }
