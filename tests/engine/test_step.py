"""The step's promises: diverged members, masks, tables on the mesh, perturbation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.core.method import SHARED, Method
from jaxdistill.core.types import QUARANTINED, Mean, Objective, Table
from jaxdistill.engine import sharding
from jaxdistill.engine.dispatch import epoch_order
from tests.helpers import toy

# Members of the mixed cohort that stay finite.
FINITE = np.array([0, 2])


@pytest.fixture(scope="module")
def competitive():
  return toy.Trial(registry.resolve("methods", "competitive"), toy.cohort("mixed"))


def poisoned(state, value):
  """The state with one bad number in a kernel of member 1."""
  group = state.cohort["net"]
  leaves, structure = jax.tree.flatten(group.params)
  leaves[-1] = leaves[-1].at[1].set(value)
  params = jax.tree.unflatten(structure, leaves)
  return state.replace(cohort={**state.cohort, "net": group.replace(params=params)})


def quarantined(state):
  """The state without member 1."""
  group = state.cohort["net"]
  group = group.replace(held=group.held.at[1].set(QUARANTINED))
  return state.replace(cohort={**state.cohort, "net": group})


def all_finite(tree, k):
  """Whether all numbers of member k of a stacked tree are finite."""
  return all(np.isfinite(leaf[k]).all() for leaf in jax.tree.leaves(tree))


def member_1(state):
  """Everything the state holds of member 1."""
  group = state.cohort["net"]
  held = (group.params, group.stats, group.opt)
  return toy.arrays(jax.tree.map(lambda x: x[1], held))


@pytest.mark.parametrize(
  "harm",
  [
    lambda state: poisoned(state, np.nan),
    lambda state: poisoned(state, np.inf),
    quarantined,
  ],
  ids=["nan", "inf", "quarantined"],
)
def test_a_poisoned_member_is_held_and_harms_no_other(competitive, harm):
  bad = competitive.place(harm(competitive.initial))
  before = np.array(bad.cohort["net"].held)
  state, history = competitive.run(6, state=bad)
  for metrics in history:
    np.testing.assert_array_equal(metrics["skipped"], [0, 1, 0])
    assert metrics["wins"][1] == 0
    assert np.isnan(metrics["ce"][1])
    assert np.isfinite(metrics["ce"][FINITE]).all()
  assert all_finite(state.cohort["net"].params, 0)
  assert all_finite(state.cohort["wide"].params, 0)
  jax.tree.map(np.testing.assert_array_equal, member_1(bad), member_1(state))
  np.testing.assert_array_equal(state.cohort["net"].held - before, [0, 6])
  last = np.mean([metrics["ce"][FINITE] for metrics in history[-2:]], axis=0)
  assert (last < history[0]["ce"][FINITE]).all()


def test_all_members_poisoned_is_reported_and_nothing_moves(competitive):
  def poison(group):
    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), group.params)
    return group.replace(params=nan)

  start = competitive.initial
  cohort = {name: poison(group) for name, group in start.cohort.items()}
  start = competitive.place(start.replace(cohort=cohort))
  state, history = competitive.run(1, state=start)
  np.testing.assert_array_equal(history[0]["skipped"], 1)
  np.testing.assert_array_equal(history[0]["wins"], 0)
  for name, group in start.cohort.items():
    counted = group.replace(held=group.held + 1)
    jax.tree.map(np.testing.assert_array_equal, counted, state.cohort[name])
  assert int(state.step) == 1


def test_mean_ignores_weight_zero_and_merges_by_addition():
  values = jnp.array([1.0, jnp.nan, 5.0, 7.0])
  weights = jnp.array([1.0, 0.0, 1.0, 1.0])
  whole = Mean.of(values, weights)
  parts = Mean.of(values[:2], weights[:2]) + Mean.of(values[2:], weights[2:])
  assert float(whole.value()) == float(parts.value()) == pytest.approx(13 / 3)
  assert np.isnan(Mean.of(values, jnp.zeros(4)).value())
  assert np.isnan(Mean.of(values).value())


def test_epoch_order_is_a_permutation_of_its_own():
  key = jax.random.key(3)
  first = np.array(epoch_order(key, 0, 100))
  again = np.array(epoch_order(key, 0, 100))
  second = np.array(epoch_order(key, 1, 100))
  np.testing.assert_array_equal(np.sort(first), np.arange(100))
  np.testing.assert_array_equal(first, again)
  assert (first != second).mean() > 0.9


def memory_method():
  """Remembers the last logits of every example, and trains a number of its own."""

  def init(key, setup):
    members = setup.outputs.logits.shape[0]
    table = Table(jnp.zeros((setup.num_examples, members)))
    return {SHARED: ({"scale": jnp.float32(1)}, {})}, table

  def loss(step):
    logits = step.outputs.logits
    rows = step.memory.rows.at[step.batch.index].set(logits.sum(-1).T)
    scale = step.modules[SHARED][0]["scale"]
    return Objective(
      member=(logits**2).mean((1, 2)),
      shared=(scale - 3) ** 2,
      metrics={"scale": scale},
      memory=Table(rows),
    )

  return Method(loss=loss, init=init)


@pytest.mark.parametrize(
  "order", ["simultaneous", pytest.param("sequential", marks=pytest.mark.slow)]
)
def test_tables_are_sharded_over_examples_and_own_parameters_are_trained(order):
  trial = toy.Trial(memory_method(), toy.cohort("mixed"), devices=8, update_order=order)
  rows = trial.initial.method.memory.rows
  expected = sharding.shard_over_rows(trial.mesh)
  assert rows.sharding.is_equivalent_to(expected, 2)
  state, history = trial.run(3)
  seen = np.any(np.array(state.method.memory.rows) != 0, axis=1)
  np.testing.assert_array_equal(seen, np.arange(toy.EXAMPLES) < 3 * toy.BATCH)
  assert 1 < float(state.method.modules[SHARED].params["scale"])
  assert history[-1]["scale"].shape == ()


def test_perturbed_member_sees_other_images_and_mixed_labels():
  views_of = toy.views_of(3, [registry.resolve("perturb", "mixup")], every=2)
  batch = next(toy.batches(0, 1))
  seen, clean = views_of(jax.random.key(0), jnp.int32(0), batch)
  member = int(seen.perturbation.member)
  weight = float(seen.perturbation.weight)
  partner = np.array(seen.perturbation.permutation)
  own_label = np.eye(toy.CLASSES)[batch.label]

  for other in {0, 1, 2} - {member}:
    np.testing.assert_array_equal(seen.image[other], clean[0])
    np.testing.assert_array_equal(seen.target[other], own_label)

  image = weight * clean[0] + (1 - weight) * clean[0, partner]
  np.testing.assert_allclose(seen.image[member], image, rtol=1e-4, atol=1e-5)
  target = weight * own_label + (1 - weight) * own_label[partner]
  np.testing.assert_allclose(seen.target[member], target, rtol=1e-5, atol=1e-6)

  untouched, clean = views_of(jax.random.key(0), jnp.int32(1), batch)
  assert int(untouched.perturbation.member) == -1
  expected = np.broadcast_to(clean, untouched.image.shape)
  np.testing.assert_array_equal(untouched.image, expected)
