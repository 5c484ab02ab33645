"""What becomes of a member that is not updated any more, as it is not finite.

It is looked for at fixed steps, every `patience`, so that the run does not depend on
when it logs, saves or was stopped. What was decided is part of the state.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.method import GroupSpec
from jaxdistill.core.types import QUARANTINED, Group, TrainState
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import member_names
from jaxdistill.errors import DivergedError

ACTIONS = ("hold", "quarantine", "restart")


class Decision(NamedTuple):
  """What was decided at one of the fixed steps.

  Attributes:
    state: the state to go on with.
    intact: copies of the cohort to restart members from, {} unless they are restarted.
    quarantined: members that take no part from now on.
    restarted: members that were taken back to their last intact state.
    saved: members whose state was kept as intact.
  """

  state: TrainState
  intact: dict[str, Group]
  quarantined: tuple[str, ...] = ()
  restarted: tuple[str, ...] = ()
  saved: tuple[str, ...] = ()


class Watch:
  """Looks after the members of a run that are not finite any more."""

  def __init__(self, specs: Sequence[GroupSpec], patience: int, action: str):
    """Prepares the watch.

    Args:
      specs: the groups, in member order.
      patience: updates in a row after which a member counts as diverged; 0: never.
      action: one of `ACTIONS`.
    """
    self._specs = specs
    self._members = member_names(specs)
    self._patience = patience
    self.restarts = bool(patience) and action == "restart"
    self._quarantines = action == "quarantine"

  def due(self, step: int) -> bool:
    """Whether members are looked at after a step."""
    return self._patience > 0 and step % self._patience == 0

  def copies(self, state: TrainState) -> dict[str, Group]:
    """Returns what members are restarted from as long as nothing better is known."""
    if not self.restarts:
      return {}
    # Copies: the state itself is given up at every dispatch.
    return jax.tree.map(jnp.copy, state.cohort)

  def require_updates(self, state: TrainState, step: int) -> None:
    """Raises DivergedError if no member has been updated for `patience` steps.

    In a run that is shorter, since its start.
    """
    patience = min(self._patience, step)
    if patience and (self._held(state) >= patience).all():
      raise DivergedError(
        f"step {step}: no member has had a finite update for {patience} steps: lower "
        "optimizer.learning_rate or set optimizer.clip_norm; the last checkpoint is "
        "finite"
      )

  def decide(self, state: TrainState, intact: dict[str, Group]) -> Decision:
    """Quarantines or restarts members, at one of the fixed steps.

    Args:
      state: after the step.
      intact: from `copies`, or the last decision.
    """
    held = self._held(state)
    diverged = (held >= self._patience) & (held < QUARANTINED)
    if self._quarantines and diverged.any():
      state = self._quarantine(state, diverged)
      return Decision(state, intact, quarantined=self._names(diverged))
    if not self.restarts:
      return Decision(state, intact)

    # Who was updated just now is intact; who has not been for long comes back.
    fresh = held == 0
    cohort = dict(state.cohort)
    kept = dict(intact)
    for name, group in self._by_group(diverged).items():
      if group.any():
        cohort[name] = _choose(group, intact[name], cohort[name])
    for name, group in self._by_group(fresh).items():
      if group.any():
        kept[name] = _choose(group, state.cohort[name], intact[name])
    return Decision(
      state=dataclasses.replace(state, cohort=cohort),
      intact=kept,
      restarted=self._names(diverged),
      saved=self._names(fresh),
    )

  def _held(self, state: TrainState) -> np.ndarray:
    """Returns i32[M], how many updates in a row each member has missed."""
    held = jax.device_get([state.cohort[spec.name].held for spec in self._specs])
    return np.concatenate(held)

  def _names(self, chosen: np.ndarray) -> tuple[str, ...]:
    """Returns the names of the members in bool[M]."""
    return tuple(np.array(self._members)[chosen].tolist())

  def _by_group(self, values: np.ndarray) -> dict[str, np.ndarray]:
    """Splits one value a member, [M], into group name -> [K]."""
    ends = np.cumsum([spec.size for spec in self._specs])
    parts = np.split(values, ends[:-1])
    names = [spec.name for spec in self._specs]
    return dict(zip(names, parts, strict=True))

  def _quarantine(self, state: TrainState, members: np.ndarray) -> TrainState:
    """Marks members, bool[M], as quarantined."""
    cohort = {}
    for name, chosen in self._by_group(members).items():
      group = state.cohort[name]
      held = np.where(chosen, QUARANTINED, jax.device_get(group.held))
      held = sharding.put(held.astype(np.int32), group.held.sharding)
      cohort[name] = dataclasses.replace(group, held=held)
    return dataclasses.replace(state, cohort=cohort)


def _choose(members: np.ndarray, new: Group, old: Group) -> Group:
  """Returns the members in bool[K] of one group, the others of another, as copies."""

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    mask = members.reshape((-1,) + (1,) * (new.ndim - 1))
    return jax.device_put(jnp.where(mask, new, old), old.sharding)

  return jax.tree.map(choose, new, old)
