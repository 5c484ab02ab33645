"""The step's own promises: members that are not finite, learning, masks, tables on the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.core.method import Method
from jaxdistill.core.types import Mean, Objective, Table
from jaxdistill.engine import sharding
from jaxdistill.engine.dispatch import epoch_order
from tests.helpers import toy

ALIVE = np.array([0, 2])


@pytest.fixture(scope="module")
def competitive():
  return toy.Trial(registry.resolve("methods", "competitive"), toy.cohort("mixed"))


def poisoned(state, value):
  """The state with one bad number in a kernel of member 1."""
  group = state.cohort["net"]
  leaves, structure = jax.tree.flatten(group.params)
  leaves[-1] = leaves[-1].at[1].set(value)
  return state.replace(cohort={**state.cohort, "net": group.replace(params=jax.tree.unflatten(structure, leaves))})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_poisoned_member_is_held_and_harms_nobody(competitive, value):
  bad = competitive.place(poisoned(competitive.initial, value))
  state, history = competitive.run(6, state=bad)
  for metrics in history:
    np.testing.assert_array_equal(metrics["skipped"], [0, 1, 0])
    assert metrics["wins"][1] == 0 and np.isnan(metrics["ce"][1]) and np.isfinite(metrics["ce"][ALIVE]).all()
  finite = lambda tree, k: all(np.isfinite(x[k]).all() for x in jax.tree.leaves(tree))
  assert finite(state.cohort["net"].params, 0) and finite(state.cohort["wide"].params, 0)
  held = lambda s: toy.arrays(jax.tree.map(lambda x: x[1], (s.cohort["net"].params, s.cohort["net"].stats, s.cohort["net"].opt)))
  jax.tree.map(np.testing.assert_array_equal, held(bad), held(state))
  assert (np.mean([h["ce"][ALIVE] for h in history[-2:]], 0) < history[0]["ce"][ALIVE]).all()


def test_all_members_poisoned_is_reported_and_nothing_moves(competitive):
  nan = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), competitive.initial.cohort["net"].params)
  cohort = {name: group.replace(params=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), group.params))
            for name, group in competitive.initial.cohort.items()}
  assert jax.tree.leaves(nan)
  state, history = competitive.run(1, state=competitive.place(competitive.initial.replace(cohort=cohort)))
  np.testing.assert_array_equal(history[0]["skipped"], 1)
  np.testing.assert_array_equal(history[0]["wins"], 0)
  assert int(state.step) == 1


def test_mean_ignores_weight_zero_and_merges_by_addition():
  values, weights = jnp.array([1.0, jnp.nan, 5.0, 7.0]), jnp.array([1.0, 0.0, 1.0, 1.0])
  whole = Mean.of(values, weights)
  parts = Mean.of(values[:2], weights[:2]) + Mean.of(values[2:], weights[2:])
  assert float(whole.value()) == float(parts.value()) == pytest.approx(13 / 3)
  assert np.isnan(Mean.of(values, jnp.zeros(4)).value()) and np.isnan(Mean.of(values).value())


def test_epoch_order_is_a_permutation_of_its_own():
  key = jax.random.key(3)
  first, again, second = (np.array(epoch_order(key, e, 100)) for e in (0, 0, 1))
  np.testing.assert_array_equal(np.sort(first), np.arange(100))
  np.testing.assert_array_equal(first, again)
  assert (first != second).mean() > 0.9


def memory_method():
  """Remembers the last logits of every example, and trains a number of its own."""
  def init(key, setup):
    del key
    members = setup.outputs.logits.shape[0]
    return {"scale": jnp.float32(1)}, Table(jnp.zeros((setup.num_examples, members)))
  def loss(params, memory, outputs, batch, views, context):
    del views, context
    member = (outputs.logits ** 2).mean((1, 2))
    rows = memory.rows.at[batch.index].set(outputs.logits.sum(-1).T)
    return Objective(member, (params["scale"] - 3) ** 2, {"scale": params["scale"]}, Table(rows))
  return Method(loss=loss, init=init)


@pytest.mark.parametrize("update", ["simultaneous", "sequential"])
def test_memory_is_sharded_over_examples_and_own_parameters_are_trained(update):
  trial = toy.Trial(memory_method(), toy.cohort("mixed"), devices=8, update_order=update)
  assert trial.initial.method.memory.rows.sharding.is_equivalent_to(sharding.shard_over_rows(trial.mesh), 2)
  state, history = trial.run(3)
  seen = np.any(np.array(state.method.memory.rows) != 0, axis=1)
  np.testing.assert_array_equal(seen, np.arange(toy.EXAMPLES) < 3 * toy.BATCH)
  assert 1 < float(state.method.params["scale"]) and history[-1]["scale"].shape == ()


def test_perturbed_member_sees_other_images_and_mixed_labels():
  views = toy.views_of(3, [registry.resolve("perturb", "mixup")], every=2)
  batch = next(toy.batches(0, 1))
  seen, clean = views(jax.random.key(0), jnp.int32(0), batch)
  member, weight = int(seen.perturbation.member), float(seen.perturbation.weight)
  others = [m for m in range(3) if m != member]
  for m in others:
    np.testing.assert_array_equal(seen.image[m], clean[0])
    np.testing.assert_array_equal(seen.target[m], jax.nn.one_hot(batch.label, toy.CLASSES))
  partner = np.array(seen.perturbation.permutation)
  np.testing.assert_allclose(seen.image[member], weight * clean[0] + (1 - weight) * clean[0, partner], rtol=1e-4, atol=1e-5)
  expected = weight * np.eye(toy.CLASSES)[batch.label] + (1 - weight) * np.eye(toy.CLASSES)[batch.label[partner]]
  np.testing.assert_allclose(seen.target[member], expected, rtol=1e-5, atol=1e-6)
  untouched, clean = views(jax.random.key(0), jnp.int32(1), batch)
  assert int(untouched.perturbation.member) == -1
  np.testing.assert_array_equal(untouched.image, np.broadcast_to(clean, untouched.image.shape))
