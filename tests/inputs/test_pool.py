"""The pool's draws: who is perturbed, how and when, with which labels; and that devices do not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError
from jaxdistill.inputs import perturb
from jaxdistill.core.types import Perturbed
from jaxdistill.inputs.perturb._pixels import unmixed
from jaxdistill.inputs.perturb.pool import make_perturb

KEY = jax.random.key(3)
OPS = perturb.DEFAULT_POOL


@functools.cache
def _compiled_pool():
  ops = [registry.resolve("perturb", name) for name in OPS]
  return jax.jit(make_perturb(ops, num_members=3, every=2))


def _random_images():
  return jax.random.uniform(jax.random.key(0), (16, 12, 16, 3))


def _toy_ops(count):
  return [lambda key, image, i=i: unmixed(jnp.full_like(image, i / 10)) for i in range(count)]


def _draws(perturb_fn, steps):
  image = jnp.ones((2, 1, 1, 3))
  images, drawn = jax.jit(jax.vmap(lambda step: perturb_fn(KEY, step, image)))(jnp.arange(steps))
  return np.asarray(images[:, 0, 0, 0, 0]), np.asarray(drawn.op), np.asarray(drawn.member)


def test_pool_draws_operation_and_member_uniformly_and_independently():
  # As many operations as members: a draw they shared would show.
  value, op, member = _draws(make_perturb(_toy_ops(4), num_members=4, every=1), 1200)
  np.testing.assert_allclose(value, op / 10, rtol=1e-6)
  counts = np.histogram2d(op, member, bins=(np.arange(5), np.arange(5)))[0]
  assert counts.sum() == 1200
  chi_square = ((counts - 75) ** 2 / 75).sum()
  assert chi_square < 37.7, counts  # 99.9 % point of 15 degrees of freedom


def test_pool_frequency():
  value, op, member = _draws(make_perturb(_toy_ops(3), num_members=4, every=7), 100)
  active = np.arange(100) % 7 == 0
  np.testing.assert_array_equal(op >= 0, active)
  np.testing.assert_array_equal(member >= 0, active)
  np.testing.assert_array_equal(value[~active], 1)
  np.testing.assert_array_equal([op[~active].max(), member[~active].max()], [-1, -1])


def test_pool_round_robin():
  _, op, member = _draws(make_perturb(_toy_ops(3), num_members=3, every=2, member="round_robin"), 12)
  np.testing.assert_array_equal(member[::2], [0, 1, 2, 0, 1, 2])
  np.testing.assert_array_equal(member[1::2], -1)
  assert len(set(op[::2])) > 1


def test_unperturbed_steps_return_the_input_bit_for_bit():
  image = _random_images()
  never = make_perturb([], num_members=3, every=1)
  target = jax.nn.softmax(jax.random.normal(KEY, (16, 5)))
  for pool, step in ((_compiled_pool(), 3), (never, 0)):
    result, perturbation = pool(KEY, step, image)
    np.testing.assert_array_equal(result, image)
    assert (perturbation.member, perturbation.op, perturbation.weight) == (-1, -1, 1)
    np.testing.assert_array_equal(perturbation.permutation, np.arange(len(image)))
    np.testing.assert_array_equal(perturbation.mix(target), target)


def test_only_the_operation_drawn_runs():
  calls = []

  def counting(index):
    def op(key, image):
      jax.debug.callback(lambda: calls.append(index))
      return unmixed(image)
    return op

  pool = jax.jit(make_perturb([counting(0), counting(1)], num_members=2, every=3))
  drawn = [int(pool(KEY, step, jnp.ones((2, 4, 4, 3)))[1].op) for step in range(24)]
  jax.effects_barrier()
  assert sorted(calls) == sorted(op for op in drawn if op >= 0)
  assert len(calls) == 8 and set(calls) == {0, 1}


def test_labels_are_mixed_as_images_are():
  def blend(key, image):
    permutation = jax.random.permutation(key, jnp.arange(6, dtype=jnp.int32))
    return Perturbed(0.3 * image + 0.7 * image[permutation], permutation, jnp.float32(0.3))

  target = jax.nn.one_hot(jnp.arange(6), 6)
  image = target.reshape(6, 1, 2, 3)  # an image that is its label
  for label_mix in (True, False):
    pool = make_perturb([blend], num_members=2, every=1, label_mix=label_mix)
    mixed, perturbation = pool(KEY, 0, image)
    assert not np.allclose(mixed, image)
    expected = mixed.reshape(6, 6) if label_mix else target
    np.testing.assert_allclose(perturbation.mix(target), expected, atol=1e-6)


@pytest.mark.parametrize("wrong, key", [
    (dict(num_members=0), "num_members"), (dict(every=0), "perturb.every"),
    (dict(member="all"), "perturb.member")])
def test_bad_pool_names_its_key(wrong, key):
  with pytest.raises(ConfigError, match=key):
    make_perturb([], **dict(num_members=2) | wrong)


def test_one_device_equals_eight():
  image = _random_images()
  spread = jax.device_put(image, sharding.shard_over_rows(sharding.make_mesh(8)))
  missing = set(range(len(OPS)))
  for step in range(0, 400, 2):
    alone, drawn = _compiled_pool()(KEY, step, image)
    if int(drawn.op) not in missing:
      continue
    missing.remove(int(drawn.op))
    together, drawn_together = _compiled_pool()(KEY, step, spread)
    np.testing.assert_allclose(together, alone, atol=2e-6, err_msg=OPS[int(drawn.op)])
    for one, eight in zip(jax.tree.leaves(drawn), jax.tree.leaves(drawn_together), strict=True):
      np.testing.assert_array_equal(one, eight)
    if not missing:
      break
  assert not missing
