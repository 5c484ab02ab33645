"""The mesh: which devices it takes, and what they are called."""

import re
import types

import jax
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.core.types import Group, MethodState, Table, TrainState
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import spread_members
from jaxdistill.errors import ConfigError
from tests.helpers import toy


def described(platform):
  """A mesh of devices that are described only."""
  device = types.SimpleNamespace(platform=platform)
  return types.SimpleNamespace(devices=np.array([[device]]))


def test_a_mesh_is_made_of_the_devices_that_are_given():
  given = jax.devices()[2:6]
  mesh = sharding.make_mesh(2, devices=given)
  assert mesh.devices.flatten().tolist() == given[:2]
  with pytest.raises(ConfigError, match="mesh.devices is 5, but there are 4"):
    sharding.make_mesh(5, devices=given)


def test_devices_are_split_evenly_over_the_members():
  mesh = sharding.make_mesh(6, 3)
  assert (sharding.member_parts(mesh), sharding.batch_parts(mesh)) == (3, 2)
  with pytest.raises(ConfigError, match="mesh.member is 4, but 6 devices cannot"):
    sharding.make_mesh(6, 4)


@pytest.mark.parametrize(
  "kind, mapping, message",
  [
    (
      "same",
      "vmap",
      "cohort.net has 3 members, which cannot be split into mesh.member",
    ),
    ("mixed", "vmap", "cohort.wide has 1 members, which cannot be split"),
    (
      "pair",
      "unroll",
      "mapping=unroll runs members one after the other, but mesh.member=2",
    ),
  ],
)
def test_a_cohort_that_cannot_be_spread_is_refused(kind, mapping, message):
  mesh = sharding.make_mesh(8, 2)
  with pytest.raises(ConfigError, match=message):
    spread_members(toy.cohort(kind, mapping), mesh)
  for spec in spread_members(toy.cohort(kind, mapping), sharding.make_mesh(8)):
    assert spec.mesh is None


def test_groups_are_split_over_members_tables_over_examples_and_nothing_else():
  shape = jax.ShapeDtypeStruct((4, 8), np.float32)
  group = Group(params=shape, stats={}, opt=shape, held=shape)
  state = TrainState(
    step=shape,
    key=shape,
    cohort={"net": group},
    method=MethodState(
      modules={"net": group, "net.0": group, "shared": group},
      memory=(Table(shape), shape),
    ),
    intact={"net": group},
  )
  mesh = sharding.make_mesh(8, 2)
  placed = sharding.state_sharding(mesh, state)
  parts = jax.tree.map(lambda x: x.shard_shape((4, 8)), placed)
  whole, members, rows = (4, 8), (2, 8), (1, 8)
  split = Group(params=members, stats={}, opt=members, held=whole)
  unsplit = Group(params=whole, stats={}, opt=whole, held=whole)
  assert parts.cohort == parts.intact == {"net": split}
  modules = {"net": split, "net.0": unsplit, "shared": unsplit}
  assert parts.method.modules == modules
  assert parts.method.memory == (Table(rows), whole)
  assert (parts.step, parts.key) == (whole, whole)


@pytest.mark.slow
@pytest.mark.parametrize("member", [2, 4])
def test_only_logits_and_features_cross_between_members(member):
  """And the step is that of one device."""
  ops = [registry.resolve("perturb", "mixup")]
  method = registry.resolve("methods", "competitive")
  one = toy.Trial(method, toy.cohort("four"), ops=ops, every=2)
  spread = toy.Trial(
    method, toy.cohort("four"), devices=8, member=member, ops=ops, every=2
  )
  expected = toy.arrays(one.run(6))
  found = toy.arrays(spread.run(6))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), expected, found
  )

  rows = sharding.shard_over_rows(spread.mesh)
  batch = jax.device_put(next(toy.batches(0, 1)), rows)
  program = jax.jit(spread.step).lower(spread.initial, batch).compile().as_text()
  sizes = [np.prod(x.shape[1:]) for x in jax.tree.leaves(one.initial.cohort)]
  gathered = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather\(", program)
  logits = 4 * toy.BATCH * toy.CLASSES
  pooled = 4 * toy.BATCH * 8
  images = toy.BATCH * np.prod(toy.SHAPE)
  assert gathered
  for shape in gathered:
    size = np.prod([int(side) for side in shape.split(",")])
    assert size <= max(logits, pooled) or size == images, shape
  assert 4 * max(sizes) > max(logits, pooled)


@pytest.mark.parametrize(
  "platform, name", [("cuda", "gpu"), ("gpu", "gpu"), ("tpu", "tpu"), ("cpu", "cpu")]
)
def test_the_platform_is_that_of_the_mesh(platform, name):
  assert sharding.platform_of(described(platform)) == name
