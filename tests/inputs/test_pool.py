"""The pool's draws: who is perturbed, how and when, with which labels."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.core.types import Batch, Perturbation, Perturbed
from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError
from jaxdistill.inputs import perturb
from jaxdistill.inputs.perturb.pool import make_perturb
from jaxdistill.inputs.views import make_views

KEY = jax.random.key(3)
POOL = perturb.DEFAULT_POOL


@functools.cache
def compiled_pool():
  """The default pool for three members, every other step."""
  ops = [registry.resolve("perturb", name) for name in POOL]
  return jax.jit(make_perturb(ops, num_members=3, every=2))


def random_images():
  return jax.random.uniform(jax.random.key(0), (16, 12, 16, 3))


def paint(value):
  """An operation that gives all pixels one value."""

  def op(key, image):
    return perturb.unmixed(jnp.full_like(image, value))

  return op


def painters(count):
  """A pool whose images tell which operation was drawn."""
  return [paint(i / 10) for i in range(count)]


def draws(pool, steps):
  """A pixel's value, the operation and the member of each of the first steps."""
  image = jnp.ones((2, 1, 1, 3))

  def at(step):
    return pool(KEY, step, image)

  images, drawn = jax.jit(jax.vmap(at))(jnp.arange(steps))
  pixels = np.asarray(images[:, 0, 0, 0, 0])
  return pixels, np.asarray(drawn.op), np.asarray(drawn.member)


def test_pool_draws_operation_and_member_uniformly_and_independently():
  # As many operations as members: a draw that both came from would show.
  pool = make_perturb(painters(4), num_members=4, every=1)
  pixels, op, member = draws(pool, 1200)
  np.testing.assert_allclose(pixels, op / 10, rtol=1e-6)
  counts, *_ = np.histogram2d(op, member, bins=(np.arange(5), np.arange(5)))
  assert counts.sum() == 1200
  chi_square = ((counts - 75) ** 2 / 75).sum()
  # The 99.9 % point of 15 degrees of freedom.
  assert chi_square < 37.7, counts


def test_pool_frequency():
  pool = make_perturb(painters(3), num_members=4, every=7)
  pixels, op, member = draws(pool, 100)
  due = np.arange(100) % 7 == 0
  np.testing.assert_array_equal(op >= 0, due)
  np.testing.assert_array_equal(member >= 0, due)
  np.testing.assert_array_equal(pixels[~due], 1)
  np.testing.assert_array_equal(op[~due], -1)
  np.testing.assert_array_equal(member[~due], -1)


def test_pool_round_robin():
  pool = make_perturb(painters(3), num_members=3, every=2, member="round_robin")
  _, op, member = draws(pool, 12)
  np.testing.assert_array_equal(member[::2], [0, 1, 2, 0, 1, 2])
  np.testing.assert_array_equal(member[1::2], -1)
  assert len(set(op[::2])) > 1


@pytest.mark.parametrize("pool", ["not due", "empty"])
def test_unperturbed_steps_return_the_input_bit_for_bit(pool):
  image = random_images()
  if pool == "empty":
    result, perturbation = make_perturb([], num_members=3, every=1)(KEY, 0, image)
  else:
    result, perturbation = compiled_pool()(KEY, 3, image)
  np.testing.assert_array_equal(result, image)
  assert perturbation.member == -1
  assert perturbation.op == -1
  assert perturbation.weight == 1
  assert perturbation.label_weight == 1
  np.testing.assert_array_equal(perturbation.permutation, np.arange(len(image)))
  target = jax.nn.softmax(jax.random.normal(KEY, (16, 5)))
  np.testing.assert_array_equal(perturbation.mix(target), target)
  label = jnp.arange(16) % 5
  one_hot = jax.nn.one_hot(label, 5)
  np.testing.assert_array_equal(perturbation.mix_labels(label, 5), one_hot)


@pytest.mark.parametrize("stacked", [False, True])
def test_images_may_be_the_same_for_all_members_or_differ(stacked):
  """The member drawn has its own images perturbed, of those there are."""
  count = 3 if stacked else 1
  image = jnp.arange(count, dtype=jnp.float32).reshape(count, 1, 1, 1, 1)
  image = jnp.broadcast_to(image, (count, 2, 1, 1, 3))

  def double(key, image):
    return perturb.unmixed(2 * image + 1)

  pool = make_perturb([double], num_members=3, every=1, member="round_robin")
  for step in range(3):
    result, perturbation = pool(KEY, step, image)
    assert perturbation.member == step
    own = step if stacked else 0
    np.testing.assert_array_equal(result, np.full((2, 1, 1, 3), 2 * own + 1))


def test_only_the_operation_drawn_runs():
  calls = []

  def counting(index):
    def op(key, image):
      jax.debug.callback(lambda: calls.append(index))
      return perturb.unmixed(image)

    return op

  pool = jax.jit(make_perturb([counting(0), counting(1)], num_members=2, every=3))
  image = jnp.ones((2, 4, 4, 3))
  drawn = [int(pool(KEY, step, image)[1].op) for step in range(24)]
  jax.effects_barrier()
  assert sorted(calls) == sorted(op for op in drawn if op >= 0)
  assert len(calls) == 8
  assert set(calls) == {0, 1}


@pytest.mark.parametrize("label_mix", [True, False])
def test_predictions_are_mixed_as_images_are_and_labels_if_they_may_be(label_mix):
  def blend(key, image):
    permutation = jax.random.permutation(key, perturb.own_index(image))
    blended = 0.3 * image + 0.7 * image[permutation]
    return Perturbed(blended, permutation, jnp.float32(0.3))

  label = jnp.arange(6)
  target = jax.nn.one_hot(label, 6)
  # An image that is its label.
  image = target.reshape(6, 1, 2, 3)
  pool = make_perturb([blend], num_members=2, every=1, label_mix=label_mix)
  mixed, perturbation = pool(KEY, 0, image)
  assert not np.allclose(mixed, image)
  assert perturbation.mixes
  mixture = mixed.reshape(6, 6)
  np.testing.assert_allclose(perturbation.mix(target), mixture, atol=1e-6)
  expected = mixture if label_mix else target
  labels = perturbation.mix_labels(label, 6)
  np.testing.assert_allclose(labels, expected, atol=1e-6)

  views_of = make_views(
    lambda key, image: image,
    pool,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    members=["a", "b"],
    num_classes=6,
  )
  batch = Batch(image=image, label=label, index=label, mask=jnp.ones(6))
  views, _ = views_of(KEY, jnp.int32(0), batch)
  member = int(views.perturbation.member)
  np.testing.assert_array_equal(views.is_mixed, np.arange(2) == member)
  np.testing.assert_array_equal(views.target[1 - member], target)
  # What belongs to the images is mixed as they are, whatever the labels.
  seen = views.as_seen(target[None])
  np.testing.assert_allclose(seen, views.image.reshape(2, 6, 6), atol=1e-6)
  expected = seen if label_mix else np.stack([target] * 2)
  np.testing.assert_allclose(views.target, expected, atol=1e-6)


@pytest.mark.parametrize(
  "wrong, key",
  [
    ({"num_members": 0}, "num_members"),
    ({"every": 0}, "perturb.every"),
    ({"member": "all"}, "perturb.member"),
  ],
)
def test_bad_pool_names_its_key(wrong, key):
  with pytest.raises(ConfigError, match=key):
    make_perturb([], **{"num_members": 2, **wrong})


def steps_with_every_operation(image):
  """The first step in which each operation of the default pool is drawn."""
  steps = {}
  for step in range(0, 400, 2):
    _, drawn = compiled_pool()(KEY, step, image)
    steps.setdefault(int(drawn.op), step)
    if len(steps) == len(POOL):
      break
  return steps


def test_one_device_equals_eight():
  image = random_images()
  spread = jax.device_put(image, sharding.shard_over_rows(sharding.make_mesh(8)))
  steps = steps_with_every_operation(image)
  assert set(steps) == set(range(len(POOL)))
  for op, step in steps.items():
    alone, drawn = compiled_pool()(KEY, step, image)
    together, drawn_together = compiled_pool()(KEY, step, spread)
    np.testing.assert_allclose(together, alone, atol=2e-6, err_msg=POOL[op])
    pairs = zip(jax.tree.leaves(drawn), jax.tree.leaves(drawn_together), strict=True)
    for one, eight in pairs:
      np.testing.assert_array_equal(one, eight)


def test_between_devices_partners_send_their_classes_and_only_if_they_are_mixed():
  mesh = sharding.make_mesh(8)
  label = jax.device_put(jnp.arange(16) % 5, sharding.shard_over_rows(mesh))
  unmixed = Perturbation.none(16)
  reversed_order = unmixed.permutation[::-1]
  mixed = unmixed.replace(permutation=reversed_order, label_weight=jnp.float32(0.75))
  rows = sharding.shard_over_rows(mesh)
  mix = jax.jit(lambda p, label: p.mix_labels(label, 5), out_shardings=rows)
  one_hot = np.eye(5)[np.arange(16) % 5]
  np.testing.assert_array_equal(mix(unmixed, label), one_hot)
  expected = 0.75 * one_hot + 0.25 * one_hot[::-1]
  np.testing.assert_array_equal(mix(mixed, label), expected)

  program = mix.lower(mixed, label).compile().as_text()
  entry = program[program.index("\nENTRY") :]
  assert "conditional" in entry
  collectives = r"(\w+)\[[\d,]*\]\S* (?:all-gather|all-reduce|collective|all-to-all)"
  assert re.findall(collectives, entry) == []
  found = re.findall(collectives, program)
  assert found and set(found) == {"s32"}
