"""The two orders of updates: all members at once, or one after the other."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxdistill.core.method import GroupSpec
from jaxdistill.core.types import Group, Objective, Outputs, PyTree
from jaxdistill.engine.cohort import (
  active_members,
  forward,
  forward_member,
  member_names,
  member_slices,
  set_member,
  take_member,
  update_members,
)


class MakeObjective(Protocol):
  """The method's objective of one step."""

  def __call__(
    self,
    params: dict[str, PyTree],
    module_params: dict[str, PyTree],
    outputs: Outputs,
    first: Outputs,
    /,
  ) -> Objective:
    """Returns the objective.

    Args:
      params: group name -> parameters of the cohort that is differentiated.
      module_params: owner -> parameters of the method's modules.
      outputs: of that cohort.
      first: outputs before any member was updated.
    """
    ...


class Problem(NamedTuple):
  """One training step with everything but the parameters fixed.

  Attributes:
    specs: the groups, in member order.
    cohort: the groups before the step.
    modules: the method's own before the step.
    images: f32[M, B, H, W, 3] what every member sees.
    key: of the forward pass.
    step: i32[] number of the step.
    objective: what the method makes of a forward pass.
  """

  specs: Sequence[GroupSpec]
  cohort: Mapping[str, Group]
  modules: Mapping[str, Group]
  images: jax.Array
  key: jax.Array
  step: jax.Array
  objective: MakeObjective

  @property
  def params(self) -> dict[str, PyTree]:
    """Group name -> parameters before the step."""
    return {name: group.params for name, group in self.cohort.items()}

  @property
  def module_params(self) -> dict[str, PyTree]:
    """Owner -> parameters of its modules before the step."""
    return {owner: group.params for owner, group in self.modules.items()}

  def forward(self, params: Mapping[str, PyTree]) -> tuple[Outputs, dict[str, PyTree]]:
    """Runs all members in training mode; returns (Outputs, new statistics)."""
    variables = {name: (params[name], self.cohort[name].stats) for name in params}
    return forward(
      self.specs,
      variables,
      self.images,
      self.key,
      train=True,
      active=active_members(self.cohort),
    )


class Solution(NamedTuple):
  """What a step makes of the cohort.

  Attributes:
    cohort: the groups after the step.
    module_grads: owner -> gradient of its modules.
    objective: values of the step.
    outputs: forward pass before any update.
    updated: bool[M] whether a member was updated; the others are held, their step was
      not finite.
    gradient_norm: f32[M] of the members' gradients, before they are clipped.
  """

  cohort: dict[str, Group]
  module_grads: dict[str, PyTree]
  objective: Objective
  outputs: Outputs
  updated: jax.Array
  gradient_norm: jax.Array


def simultaneous(problem: Problem) -> Solution:
  """Takes one backward pass for all members, and updates them all.

  Their parameters are disjoint and targets are detached: the gradient of the sum of
  their losses is every member's own.
  """

  def total(params, module_params):
    outputs, stats = problem.forward(params)
    objective = problem.objective(params, module_params, outputs, outputs)
    return objective.member.sum() + objective.shared, (objective, outputs, stats)

  gradient = jax.grad(total, argnums=(0, 1), has_aux=True)
  grads, values = gradient(problem.params, problem.module_params)
  member_grads, module_grads = grads
  objective, outputs, stats = values
  advances = update_members(
    problem.specs,
    problem.cohort,
    member_grads,
    stats,
    alive=outputs.alive,
    step=problem.step,
  )
  return Solution(
    cohort=advances.cohort,
    module_grads=module_grads,
    objective=objective,
    outputs=outputs,
    updated=advances.updated,
    gradient_norm=advances.gradient_norm,
  )


def sequential(problem: Problem) -> Solution:
  """Updates a member, runs it again, and lets the next one learn from the new output.

  Reference:
    Y. Zhang, T. Xiang, T. Hospedales, H. Lu: Deep Mutual Learning. CVPR 2018, algorithm
      1.
  """
  first_outputs, stats = problem.forward(problem.params)
  cohort = dict(problem.cohort)
  outputs = first_outputs
  module_grads = jax.tree.map(jnp.zeros_like, problem.module_params)
  turns = []
  for spec in problem.specs:
    for k in range(spec.size):
      turn = _take_turn(
        problem,
        spec,
        k,
        cohort=cohort,
        outputs=outputs,
        first=first_outputs,
        stats=stats[spec.name],
      )
      cohort, outputs = turn.cohort, turn.outputs
      module_grads = jax.tree.map(jnp.add, module_grads, turn.module_grads)
      turns.append(turn)

  # What no member's loss reaches learns from the updated cohort.
  new_params = {name: group.params for name, group in cohort.items()}

  def shared(module_params):
    objective = problem.objective(new_params, module_params, outputs, first_outputs)
    return jnp.asarray(objective.shared)

  shared_grads = jax.grad(shared)(problem.module_params)
  return Solution(
    cohort=cohort,
    module_grads=jax.tree.map(jnp.add, module_grads, shared_grads),
    objective=_join_turns([turn.objective for turn in turns], problem.specs),
    outputs=first_outputs,
    updated=jnp.concatenate([turn.updated for turn in turns]),
    gradient_norm=jnp.concatenate([turn.gradient_norm for turn in turns]),
  )


def _take_turn(
  problem: Problem,
  spec: GroupSpec,
  k: int,
  *,
  cohort: dict[str, Group],
  outputs: Outputs,
  first: Outputs,
  stats: PyTree,
) -> Solution:
  """Updates member k of a group and runs it again.

  Args:
    problem: the step.
    spec: the group.
    k: the member's place in it.
    cohort: the groups after the turns before.
    outputs: outputs after the turns before.
    first: outputs before the first turn.
    stats: the group's new batch statistics [K, ...].

  Returns:
    The cohort, the outputs and the objective after this turn; `updated` and
    `gradient_norm` have one element.
  """
  group = cohort[spec.name]
  member = take_member(group, k)
  position = outputs.members.index(spec.members[k])

  def rerun(params):
    return forward_member(
      spec,
      k,
      outputs,
      params,
      member.stats,
      problem.images,
      problem.key,
      member.active,
    )

  def own_loss(params, module_params):
    all_params = {name: other.params for name, other in cohort.items()}
    all_params[spec.name] = set_member(group.params, k, params)
    objective = problem.objective(all_params, module_params, rerun(params), first)
    return objective.member[position], objective

  gradient = jax.grad(own_loss, argnums=(0, 1), has_aux=True)
  (grads, module_grads), objective = gradient(member.params, problem.module_params)
  advances = update_members(
    [spec._replace(size=1)],
    {spec.name: member},
    {spec.name: grads},
    {spec.name: take_member(stats, k)},
    alive=outputs.alive[position : position + 1],
    step=problem.step,
  )
  new_member = advances.cohort[spec.name]
  return Solution(
    cohort={**cohort, spec.name: set_member(group, k, new_member)},
    module_grads=module_grads,
    objective=objective,
    outputs=jax.lax.stop_gradient(rerun(new_member.params)),
    updated=advances.updated,
    gradient_norm=advances.gradient_norm,
  )


def _join_turns(
  objectives: Sequence[Objective], specs: Sequence[GroupSpec]
) -> Objective:
  """Joins what every member had in its own turn.

  What belongs to no member is the last turn's.
  """
  last = objectives[-1]

  def own(values):
    return jnp.stack([value[position] for position, value in enumerate(values)])

  metrics = {}
  for name, value in last.metrics.items():
    if value.shape == last.member.shape:
      metrics[name] = own([objective.metrics[name] for objective in objectives])
    else:
      metrics[name] = value
  member = own([objective.member for objective in objectives])
  stats = _join_stats([objective.stats for objective in objectives], specs)
  return dataclasses.replace(last, member=member, metrics=metrics, stats=stats)


def _join_stats(
  turns: Sequence[dict[str, PyTree]], specs: Sequence[GroupSpec]
) -> dict[str, PyTree]:
  """Joins the modules' new collections: a member's are those of its own turn."""
  names = member_names(specs)
  slices = member_slices(specs)
  joined = {}
  for owner, last in turns[-1].items():
    if owner in slices:
      own_turns = [turn[owner] for turn in turns[slices[owner]]]
      rows = [take_member(stats, k) for k, stats in enumerate(own_turns)]
      joined[owner] = jax.tree.map(lambda *xs: jnp.concatenate(xs), *rows)
    elif owner in names:
      joined[owner] = turns[names.index(owner)][owner]
    else:
      joined[owner] = last
  return joined


ORDERS: dict[str, Callable[[Problem], Solution]] = {
  "simultaneous": simultaneous,
  "sequential": sequential,
}
