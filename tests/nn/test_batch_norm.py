"""Batch normalisation by the statistics of groups of examples."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.engine import sharding
from jaxdistill.nn import batch_norm
from jaxdistill.nn.norm import group_statistics
from tests.helpers import toy


def apply(variables, images, groups):
  """(normalised images, new variables) with so many groups."""
  with group_statistics(groups):
    return batch_norm(train=True).apply(variables, images, mutable=["batch_stats"])


@pytest.fixture
def images(rng):
  return jnp.asarray(rng.normal(2, 3, (16, 2, 2, 3)), jnp.float32)


@pytest.fixture
def variables(images):
  start = batch_norm(train=True).init(jax.random.key(0), images)
  params = {"scale": jnp.array([1.0, 2.0, 0.5]), "bias": jnp.array([0.0, 1.0, -1.0])}
  return {**start, "params": params}


def test_a_group_is_normalised_as_a_batch_of_its_own(images, variables):
  normalised, updated = apply(variables, images, groups=4)
  stats = []
  for start in range(0, 16, 4):
    own, own_update = apply(variables, images[start : start + 4], groups=1)
    np.testing.assert_allclose(normalised[start : start + 4], own, rtol=1e-5, atol=1e-5)
    stats.append(own_update)
  mean = jax.tree.map(lambda *parts: jnp.stack(parts).mean(axis=0), *stats)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updated, mean)


def test_one_group_is_the_batch_norm_of_linen(images, variables):
  plain = nn.BatchNorm(use_running_average=False, momentum=0.9)
  expected = plain.apply(variables, images, mutable=["batch_stats"])
  jax.tree.map(
    np.testing.assert_array_equal, apply(variables, images, groups=1), expected
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_those_that_jax_derives(images, variables, rng, dtype):
  """Also through the statistics themselves."""
  images = images.astype(dtype)
  plain = nn.BatchNorm(use_running_average=False, momentum=0.9, dtype=dtype)
  weights = jnp.asarray(rng.normal(size=images.shape), jnp.float32)
  own = batch_norm(train=True, dtype=dtype)

  def loss(module, params, images):
    start = {**variables, "params": params}
    normalised, updated = module.apply(start, images, mutable=["batch_stats"])
    stats = jax.tree.leaves(updated["batch_stats"])
    return (normalised * weights).sum() + sum(jnp.square(stat).sum() for stat in stats)

  gradient = jax.grad(loss, argnums=(1, 2))
  found = gradient(own, variables["params"], images)
  expected = gradient(plain, variables["params"], images)
  limit = 1e-5 if dtype == jnp.float32 else 1e-2

  def check(found, expected):
    assert found.dtype == expected.dtype
    found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
    largest = np.abs(expected).max()
    assert largest > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit * largest)

  jax.tree.map(check, found, expected)


def test_gradients_of_groups_are_those_of_batches_of_their_own(images, variables):
  def loss(images, groups):
    return jnp.square(apply(variables, images, groups)[0] - images).sum()

  found = jax.grad(loss)(images, 4)
  for start in range(0, 16, 4):
    expected = jax.grad(loss)(images[start : start + 4], 1)
    np.testing.assert_allclose(found[start : start + 4], expected, rtol=1e-4, atol=1e-4)


def test_devices_with_whole_groups_send_nothing_to_normalise(images, variables):
  """And get what one device gets."""
  rows = sharding.shard_over_rows(sharding.make_mesh(8))
  normalise = jax.jit(lambda v, x: apply(v, x, groups=8)[0], out_shardings=rows)
  compiled = normalise.lower(variables, jax.device_put(images, rows)).compile()
  program = compiled.as_text()
  for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
    assert collective not in program
  everywhere = sharding.put_replicated(sharding.make_mesh(8), variables)
  spread = compiled(everywhere, jax.device_put(images, rows))
  alone, _ = apply(variables, images, groups=8)
  np.testing.assert_allclose(spread, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_step_with_groups_does_not_depend_on_the_devices():
  states = []
  for devices, groups in ((1, 4), (8, 4), (1, 1)):
    method = registry.resolve("methods", "independent")
    trial = toy.Trial(
      method, toy.cohort("one"), devices=devices, batch_norm_groups=groups
    )
    state, _ = trial.run(4)
    states.append(toy.arrays(state.cohort))
  one, eight, whole = states
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, eight
  )
  kernel = one["net"].params["Conv_0"]["kernel"]
  assert np.abs(kernel - whole["net"].params["Conv_0"]["kernel"]).max() > 1e-4
