"""What is decided about members that are not updated any more."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core.types import QUARANTINED, Group, MethodState, TrainState
from jaxdistill.errors import DivergedError
from jaxdistill.run.divergence import Watch
from tests.helpers import toy

SPECS = toy.cohort("mixed")


def state_of(held, value):
  """A cohort of three members whose only weights are `value`."""
  cohort = {}
  for name, own in (("net", held[:2]), ("wide", held[2:])):
    leaf = {"w": jnp.full((len(own), 2), float(value))}
    cohort[name] = Group(params=leaf, stats={}, opt={}, held=jnp.array(own, jnp.int32))
  return TrainState(
    step=jnp.int32(0), key=None, cohort=cohort, method=MethodState({}, {})
  )


def held(state):
  return np.concatenate([group.held for group in state.cohort.values()]).tolist()


def weights(cohort):
  return [float(row[0]) for group in cohort.values() for row in group.params["w"]]


def test_only_multiples_of_the_patience_are_looked_at():
  watch = Watch(SPECS, 4, "quarantine")
  assert [step for step in range(1, 13) if watch.due(step)] == [4, 8, 12]
  assert not any(Watch(SPECS, 0, "restart").due(step) for step in range(9))


def test_a_member_that_diverged_is_quarantined_for_good():
  watch = Watch(SPECS, 4, "quarantine")
  decision = watch.decide(state_of([3, 4, 0], 1), {})
  assert decision.quarantined == ("net.1",)
  assert held(decision.state) == [3, QUARANTINED, 0]
  assert not decision.state.cohort["net"].active[1]
  again = watch.decide(state_of([0, QUARANTINED + 4, 9], 1), {})
  assert again.quarantined == ("wide.0",)


def test_a_member_that_diverged_is_restarted_from_its_last_intact_state():
  watch = Watch(SPECS, 4, "restart")
  intact = watch.copies(state_of([0, 0, 0], 0))
  first = watch.decide(state_of([0, 1, 0], 1), intact)
  assert first.saved == ("net.0", "wide.0") and first.restarted == ()
  assert weights(first.intact) == [1, 0, 1]
  second = watch.decide(state_of([2, 5, 0], 2), first.intact)
  assert second.restarted == ("net.1",)
  assert weights(second.state.cohort) == [2, 0, 2] and held(second.state) == [2, 0, 0]
  assert weights(second.intact) == [1, 0, 2]


def test_holding_decides_nothing_and_keeps_no_copies():
  watch = Watch(SPECS, 4, "hold")
  state = state_of([0, 9, 0], 1)
  assert watch.copies(state) == {}
  assert watch.decide(state, {}).state is state


@pytest.mark.parametrize("counts", [[4, 5, 4], [QUARANTINED + 1, 4, 9]])
def test_the_run_ends_when_all_have_diverged(counts):
  watch = Watch(SPECS, 4, "quarantine")
  with pytest.raises(DivergedError, match="step 8: no member has had a finite update"):
    watch.require_updates(state_of(counts, 1), 8)
  watch.require_updates(state_of([*counts[:2], 3], 1), 8)
  Watch(SPECS, 0, "hold").require_updates(state_of(counts, 1), 8)


def test_a_run_that_is_shorter_than_the_patience_ends_as_well():
  watch = Watch(SPECS, 100, "hold")
  watch.require_updates(state_of([5, 6, 6], 1), 6)
  with pytest.raises(DivergedError, match="for 6 steps"):
    watch.require_updates(state_of([6, 6, 6], 1), 6)
