"""The modules that a method trains beside the members, each owner's for itself.

A group's modules are stacked as its members are, and every member's are clipped, held
and averaged alone, as its own parameters are.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdistill.core.method import GroupSpec
from jaxdistill.core.types import Group, PyTree, Variables
from jaxdistill.engine._trained import Rule, advance, start
from jaxdistill.engine.cohort import member_names, member_slices, update_stacked

Optimizers = Callable[[str], optax.GradientTransformation]
"""Owner -> optimiser of its modules."""


class Update(NamedTuple):
  """What a step made of the modules.

  Attributes:
    modules: after it.
    updated: bool[M] whether a member's own modules were updated; True for a member that
      has none. None where no member has any.
    shared_updated: bool[] whether those of no member were; None where there are none.
  """

  modules: dict[str, Group]
  updated: jax.Array | None
  shared_updated: jax.Array | None


def owner_group(specs: Sequence[GroupSpec], owner: str) -> GroupSpec | None:
  """Returns the group that an owner is or belongs to, None for everybody's modules."""
  for spec in specs:
    if owner == spec.name or owner in spec.members:
      return spec
  return None


def start_modules(
  specs: Sequence[GroupSpec], optimizers: Optimizers, variables: Variables
) -> dict[str, Group]:
  """Returns a method's new modules with the state of their optimisers.

  Args:
    specs: the groups, in member order.
    optimizers: of the modules.
    variables: from the method's `init`.
  """
  modules = {}
  for owner, (params, stats) in variables.items():
    begin = functools.partial(start, _rule(specs, optimizers, owner))
    if isinstance(_place(specs, owner), slice):
      begin = jax.vmap(begin)
    modules[owner] = begin(params, stats)
  return modules


def update_modules(
  specs: Sequence[GroupSpec],
  optimizers: Optimizers,
  modules: Mapping[str, Group],
  grads: Mapping[str, PyTree],
  stats: Mapping[str, PyTree],
  *,
  alive: jax.Array,
  step: jax.Array,
) -> Update:
  """Applies the optimiser of every owner's modules.

  Args:
    specs: the groups, in member order.
    optimizers: of the modules.
    modules: before the step.
    grads: owner -> gradients.
    stats: owner -> new collections; owners that are left out keep theirs.
    alive: bool[M]; modules of members that are not are held: they read zeros.
    step: i32[] number of the step.
  """
  new = {}
  owned = jnp.ones(len(member_names(specs)), bool)
  shared = jnp.bool_(True)
  for owner, group in modules.items():
    place = _place(specs, owner)
    allowed = jnp.bool_(True) if place is None else alive[place]
    apply = update_stacked if isinstance(place, slice) else advance
    made = apply(
      _rule(specs, optimizers, owner),
      group,
      grads[owner],
      stats.get(owner, group.stats),
      allowed=allowed,
      step=step,
    )
    new[owner] = made.group
    if place is None:
      shared &= made.updated
    else:
      owned = owned.at[place].set(owned[place] & made.updated)
  are_shared = [_place(specs, owner) is None for owner in modules]
  return Update(
    modules=new,
    updated=None if all(are_shared) else owned,
    shared_updated=shared if any(are_shared) else None,
  )


def _place(specs: Sequence[GroupSpec], owner: str) -> slice | int | None:
  """Returns where an owner stands on the M axis: a group, a member, or nowhere."""
  slices = member_slices(specs)
  if owner in slices:
    return slices[owner]
  names = member_names(specs)
  return names.index(owner) if owner in names else None


def _rule(specs: Sequence[GroupSpec], optimizers: Optimizers, owner: str) -> Rule:
  """Returns how the modules of an owner are updated.

  They are averaged as those are who own them, and everybody's if anybody is: they are
  evaluated on the features of averaged members.
  """
  group = owner_group(specs, owner)
  average = group.average if group else max(spec.average for spec in specs)
  return Rule(optimizers(owner), average)
