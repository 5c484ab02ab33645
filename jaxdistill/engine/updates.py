"""The two orders of updates: all members at once, or one after the other."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.core.method import GroupSpec
from jaxdistill.core.types import Group, Objective, Outputs, PyTree
from jaxdistill.engine.cohort import (
  active_members,
  forward,
  forward_member,
  set_member,
  take_member,
  update_members,
)


class Problem(NamedTuple):
  """One training step with everything but the parameters fixed.

  Attributes:
    specs: the groups, in member order.
    cohort: the groups before the step.
    method_params: the method's own parameters before the step.
    images: f32[M, B, H, W, 3] what every member sees.
    key: of the forward pass.
    objective: (group name -> params, method params, outputs) -> Objective.
  """

  specs: Sequence[GroupSpec]
  cohort: Mapping[str, Group]
  method_params: PyTree
  images: jax.Array
  key: jax.Array
  objective: Callable[[dict[str, PyTree], PyTree, Outputs], Objective]

  @property
  def params(self) -> dict[str, PyTree]:
    """Group name -> parameters before the step."""
    return {name: group.params for name, group in self.cohort.items()}

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
    method_grads: gradient of the method's own parameters.
    objective: values of the step.
    outputs: forward pass before any update.
    updated: bool[M] whether a member was updated; the others are held, their step was
      not finite.
  """

  cohort: dict[str, Group]
  method_grads: PyTree
  objective: Objective
  outputs: Outputs
  updated: jax.Array


def simultaneous(problem: Problem) -> Solution:
  """Takes one backward pass for all members, and updates them all.

  Their parameters are disjoint and targets are detached: the gradient of the sum of
  their losses is every member's own.
  """

  def total(params, method_params):
    outputs, stats = problem.forward(params)
    objective = problem.objective(params, method_params, outputs)
    return objective.member.sum() + objective.shared, (objective, outputs, stats)

  gradient = jax.grad(total, argnums=(0, 1), has_aux=True)
  grads, values = gradient(problem.params, problem.method_params)
  member_grads, method_grads = grads
  objective, outputs, stats = values
  cohort, updated = update_members(problem.specs, problem.cohort, member_grads, stats)
  return Solution(cohort, method_grads, objective, outputs, updated)


def sequential(problem: Problem) -> Solution:
  """Updates a member, runs it again, and lets the next one learn from the new output.

  Reference:
    Y. Zhang, T. Xiang, T. Hospedales, H. Lu: Deep Mutual Learning. CVPR 2018, algorithm
      1.
  """
  first_outputs, stats = problem.forward(problem.params)
  cohort = dict(problem.cohort)
  outputs = first_outputs
  method_grads = jax.tree.map(jnp.zeros_like, problem.method_params)
  objectives = []
  updated = []
  for spec in problem.specs:
    for k in range(spec.size):
      turn = _take_turn(problem, cohort, outputs, stats[spec.name], spec, k)
      cohort, outputs = turn.cohort, turn.outputs
      method_grads = jax.tree.map(jnp.add, method_grads, turn.method_grads)
      objectives.append(turn.objective)
      updated.append(turn.updated)

  # What no member's loss reaches learns from the updated cohort.
  new_params = {name: group.params for name, group in cohort.items()}

  def shared(method_params):
    return jnp.asarray(problem.objective(new_params, method_params, outputs).shared)

  method_grads = jax.tree.map(
    jnp.add, method_grads, jax.grad(shared)(problem.method_params)
  )
  return Solution(
    cohort=cohort,
    method_grads=method_grads,
    objective=_join_turns(objectives),
    outputs=first_outputs,
    updated=jnp.concatenate(updated),
  )


def _take_turn(
  problem: Problem,
  cohort: dict[str, Group],
  outputs: Outputs,
  stats: PyTree,
  spec: GroupSpec,
  k: int,
) -> Solution:
  """Updates member k of a group and runs it again.

  Args:
    problem: the step.
    cohort: the groups after the turns before.
    outputs: outputs after the turns before.
    stats: the group's new batch statistics [K, ...].
    spec: the group.
    k: the member's place in it.

  Returns:
    The cohort, the outputs and the objective after this turn; `updated` is bool[1].
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

  def own_loss(params, method_params):
    all_params = {name: other.params for name, other in cohort.items()}
    all_params[spec.name] = set_member(group.params, k, params)
    objective = problem.objective(all_params, method_params, rerun(params))
    return objective.member[position], objective

  gradient = jax.grad(own_loss, argnums=(0, 1), has_aux=True)
  (grads, method_grads), objective = gradient(member.params, problem.method_params)
  new, updated = update_members(
    [spec._replace(size=1)],
    {spec.name: member},
    {spec.name: grads},
    {spec.name: take_member(stats, k)},
  )
  new_group = set_member(group, k, new[spec.name])
  return Solution(
    cohort={**cohort, spec.name: new_group},
    method_grads=method_grads,
    objective=objective,
    outputs=jax.lax.stop_gradient(rerun(new[spec.name].params)),
    updated=updated,
  )


def _join_turns(objectives: Sequence[Objective]) -> Objective:
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
  return dataclasses.replace(last, member=member, metrics=metrics)


ORDERS: dict[str, Callable[[Problem], Solution]] = {
  "simultaneous": simultaneous,
  "sequential": sequential,
}
