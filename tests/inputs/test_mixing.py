"""Mixing of all members' images, and of those of one member on top."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.core.types import Batch, Mixture, Perturbation, Views
from jaxdistill.engine import sharding
from jaxdistill.inputs.perturb.pool import make_perturb
from jaxdistill.inputs.views import make_views

KEY = jax.random.key(1)
SIZE = 4
LABEL = jnp.array([0, 1, 2, 3])
# The weights of images; those of labels may differ.
MIXTURE = Mixture(
  permutation=jnp.array([3, 2, 1, 0]),
  weight=jnp.float32(0.75),
  label_weight=jnp.float32(0.75),
)
PERTURBATION = Perturbation(
  permutation=jnp.array([1, 2, 3, 0]),
  weight=jnp.float32(0.5),
  label_weight=jnp.float32(0.5),
  member=jnp.int32(1),
  op=jnp.int32(0),
)
# What all members see of four images, and what the second one sees: mixed with the one
# that follows.
SHARED = np.array(
  [[0.75, 0, 0, 0.25], [0, 0.75, 0.25, 0], [0, 0.25, 0.75, 0], [0.25, 0, 0, 0.75]]
)
OWN = (SHARED + SHARED[[1, 2, 3, 0]]) / 2


def views(mixture=MIXTURE, perturbation=PERTURBATION):
  target = jnp.zeros((2, SIZE, SIZE))
  return Views(image=target, target=target, perturbation=perturbation, mixture=mixture)


def test_what_belongs_to_images_is_mixed_for_all_and_then_for_one():
  own_values = jnp.eye(SIZE)[None]
  seen = views()
  np.testing.assert_allclose(seen.as_seen(own_values), [SHARED, OWN])
  np.testing.assert_allclose(
    seen.as_perturbed(own_values),
    [np.eye(4), (np.eye(4) + np.eye(4)[[1, 2, 3, 0]]) / 2],
  )
  np.testing.assert_array_equal(seen.is_mixed, [True, True])
  np.testing.assert_array_equal(seen.is_mixed_apart, [False, True])

  unperturbed = views(perturbation=Perturbation.none(SIZE))
  np.testing.assert_allclose(unperturbed.as_seen(own_values), [SHARED, SHARED])
  alone = views(mixture=None)
  np.testing.assert_array_equal(alone.is_mixed, [False, True])
  np.testing.assert_allclose(alone.as_seen(own_values), alone.as_perturbed(own_values))


def test_something_holds_for_a_mixture_if_for_all_of_its_images():
  holds = jnp.array([[True, True, True, False]] * 2)
  # The first shows the last one as well, and to the second member its neighbours.
  expected = [[False, True, True, False], [False, True, False, False]]
  np.testing.assert_array_equal(views().holds_as_seen(holds), expected)
  expected = [[True, True, True, False], [True, True, False, False]]
  np.testing.assert_array_equal(views(mixture=None).holds_as_seen(holds), expected)


def test_the_larger_part_is_the_partners_below_half():
  np.testing.assert_array_equal(views().larger_part(LABEL), LABEL)
  smaller = MIXTURE.replace(label_weight=jnp.float32(0.25))
  np.testing.assert_array_equal(views(mixture=smaller).larger_part(LABEL), LABEL[::-1])
  np.testing.assert_array_equal(views(mixture=None).larger_part(LABEL), LABEL)


@pytest.mark.parametrize("label_mix", [True, False])
def test_labels_of_images_that_are_mixed_twice(label_mix):
  perturbation = PERTURBATION
  if not label_mix:
    perturbation = perturbation.replace(label_weight=jnp.float32(1))
  found = perturbation.mix_mixed_labels(MIXTURE, LABEL, SIZE)
  np.testing.assert_allclose(found, OWN if label_mix else SHARED)
  np.testing.assert_allclose(MIXTURE.mix_labels(LABEL, SIZE), SHARED)


# The operation.


def mix(**strengths):
  # The general sampler of Beta takes seconds to compile.
  strengths = {"mixup": 1.0, **strengths}
  return registry.resolve("augment", "mix", **strengths).apply


def test_every_batch_is_mixed_in_one_of_two_ways(rng):
  image = jnp.asarray(rng.uniform(size=(1, 6, 5, 7, 3)), jnp.float32)
  apply = jax.jit(mix(probability=0.7, switch=0.4))
  kinds = []
  weights = []
  for seed in range(150):
    mixed, mixture = apply(jax.random.key(seed), image)
    weight = float(mixture.weight)
    assert mixture.label_weight == mixture.weight
    blended = weight * image + (1 - weight) * image[:, ::-1]
    if (mixture.permutation == jnp.arange(6)).all():
      kinds.append("none")
      assert weight == 1
      np.testing.assert_array_equal(mixed, image)
      continue
    np.testing.assert_array_equal(mixture.permutation, np.arange(6)[::-1])
    weights.append(weight)
    if np.allclose(mixed, blended, atol=1e-6):
      kinds.append("mixup")
      continue
    kinds.append("cutmix")
    own = np.asarray(mixed == image).all(-1)
    other = np.asarray(mixed == image[:, ::-1]).all(-1)
    assert (own | other).all()
    # One box for all images, of the area that its weight says.
    assert (own == own[:, :1]).all()
    assert own.mean() == pytest.approx(weight, abs=1e-6)
  fractions = [kinds.count(kind) / 150 for kind in ("none", "mixup", "cutmix")]
  np.testing.assert_allclose(fractions, [0.3, 0.42, 0.28], atol=0.11)
  assert min(weights) < 0.2 and max(weights) > 0.8


def views_for(per_member):
  """Views of two members, of images that are their own label."""
  batch = Batch(
    image=jnp.eye(SIZE).reshape(SIZE, 1, SIZE, 1) * jnp.ones((1, 1, 1, 3)),
    label=LABEL,
    index=LABEL,
    mask=jnp.ones(SIZE),
  )
  make = make_views(
    lambda key, image: image,
    make_perturb([registry.resolve("perturb", "mixup")], num_members=2, every=2),
    mix=registry.resolve("augment", "mix", mixup=1.0, cutmix=0.0),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    members=["a", "b"],
    num_classes=SIZE,
    per_member=per_member,
  )
  return jax.jit(lambda step: make(KEY, step, batch)[0])


@pytest.mark.parametrize(
  "per_member", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_targets_are_what_the_images_are_made_of(per_member):
  make = views_for(per_member)
  for step in (0, 1):
    seen = make(jnp.int32(step))
    shown = np.asarray(seen.image[:, :, 0, :, 0])
    np.testing.assert_allclose(seen.target, shown, atol=1e-6)
    np.testing.assert_allclose(seen.as_seen(jnp.eye(SIZE)[None]), shown, atol=1e-6)
    np.testing.assert_array_equal(seen.is_mixed, [True, True])
  # Only one of the two members is perturbed, and only in the first step.
  np.testing.assert_allclose(shown[0], shown[1])


def test_devices_exchange_images_in_pairs_and_labels_as_classes():
  mesh = sharding.make_mesh(8)
  rows = sharding.shard_over_rows(mesh)
  label = jax.device_put(jnp.arange(16) % 5, rows)
  image = jax.random.uniform(KEY, (16, 2, 2, 3))

  def mixed(image, label):
    result, mixture = mix(cutmix=0.0)(KEY, image[None])
    return result[0], mixture.mix_labels(label, 5), mixture.weight

  spread = (jax.device_put(image, rows), label)
  together = jax.jit(mixed).lower(*spread).compile()
  result, target, weight = together(*spread)
  expected = weight * image + (1 - weight) * image[::-1]
  np.testing.assert_allclose(result, expected, atol=1e-6)
  one_hot = np.eye(5)[np.arange(16) % 5]
  expected = weight * one_hot + (1 - weight) * one_hot[::-1]
  np.testing.assert_allclose(target, expected, atol=1e-6)
  program = together.as_text()
  gathered = re.findall(r"(\w+)\[[\d,]*\]\S* all-gather", program)
  assert set(gathered) <= {"s32"}
