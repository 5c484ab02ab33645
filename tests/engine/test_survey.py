"""Held-out examples, passes between epochs, and views of each member's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import data as datasets
from jaxdistill.core import registry
from jaxdistill.core.method import Method, Survey
from jaxdistill.core.types import Objective
from jaxdistill.errors import ConfigError
from tests.helpers import toy


def labelled(labels):
  """A data set whose image i is filled with i."""
  labels = np.asarray(labels)
  image = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], (len(labels), 4, 4, 3))
  return datasets.checked("numbers", (image, labels), (image[:3], labels[:3]), 4, (0.5,) * 3, (0.5,) * 3)


def test_held_out_examples_are_balanced_and_leave_the_training_set():
  whole = labelled(np.arange(80) % 4)
  split = datasets.hold_out(whole, 20, seed=0)
  assert np.bincount(split.holdout.label).tolist() == [5, 5, 5, 5] and len(split.train.label) == 60
  numbers = [part.image[:, 0, 0, 0] for part in (split.train, split.holdout)]
  assert sorted(np.concatenate(numbers)) == list(range(80)) and (np.diff(numbers[0].astype(int)) > 0).all()
  for part, number in zip((split.train, split.holdout), numbers):
    np.testing.assert_array_equal(part.label, number % 4)
  again, other = datasets.hold_out(whole, 20, seed=0), datasets.hold_out(whole, 20, seed=1)
  np.testing.assert_array_equal(again.holdout.image, split.holdout.image)
  assert (other.holdout.image != split.holdout.image).any()


def test_a_remainder_goes_to_classes_that_are_drawn():
  counts = np.bincount(datasets.hold_out(labelled(np.arange(80) % 4), 22, seed=0).holdout.label)
  assert sorted(counts) == [5, 5, 6, 6]
  assert datasets.hold_out(labelled(np.arange(8) % 4), 0, seed=0).holdout is None


def test_a_class_must_keep_an_example():
  with pytest.raises(ConfigError, match="holdout 8 takes 2 examples of class 0, of which numbers has 2 for training"):
    datasets.hold_out(labelled(np.arange(8) % 4), 8, seed=0)


def counting(split):
  """A method that does nothing but count, before every second epoch, how often the survey showed each example."""
  def loss(params, memory, outputs, batch, views, context):
    return Objective(outputs.logits.mean((1, 2)), jnp.float32(0), {}, memory)
  def collect(collected, memory, outputs, batch):
    assert outputs.logits.shape == (3, 24, toy.CLASSES) and batch.image.dtype == jnp.uint8
    return collected.at[batch.index].add(batch.mask)
  survey = Survey(split, lambda epoch: epoch % 2 == 1, jnp.zeros_like, collect, lambda memory, seen: memory + seen)
  return Method(loss=loss, init=lambda key, setup: ({}, jnp.zeros(toy.EXAMPLES)), surveys=(survey,))


@pytest.mark.parametrize("split, size", [("train", toy.EXAMPLES), ("holdout", 20)])
@pytest.mark.parametrize("devices", [1, 8])
def test_a_survey_shows_every_example_once(split, size, devices):
  """Not the padding of the last batch, and before the epochs that it is due for."""
  trial = toy.Trial(counting(split), toy.cohort("same"), devices=devices)
  state, _ = trial.run(toy.STEPS_PER_EPOCH)
  np.testing.assert_array_equal(state.method.memory, 0)
  state, _ = trial.run(3 * toy.STEPS_PER_EPOCH, state=state, start=toy.STEPS_PER_EPOCH)
  np.testing.assert_array_equal(state.method.memory, np.arange(toy.EXAMPLES) < size)


def test_every_member_sees_an_augmentation_of_its_own():
  """With `per_member` views differ between members, do not change when members are added, and show one batch."""
  from jaxdistill import views
  from jaxdistill.inputs import augment
  from jaxdistill.inputs.perturb import pool
  batch = next(toy.batches(0, 1))
  def make(members, ops=(), **kwargs):
    return views.make_views(augment.pad_crop_flip(padding=2), pool.make_perturb(ops, num_members=len(members), every=1),
                            mean=(0.5,) * 3, std=(0.25,) * 3, members=members, num_classes=toy.CLASSES, **kwargs)
  key, step = jax.random.key(0), jnp.int32(0)
  two, clean = make(["a", "b"], per_member=True)(key, step, batch)
  three, _ = make(["a", "b", "c"], per_member=True)(key, step, batch)
  np.testing.assert_array_equal(two.image, three.image[:2])
  np.testing.assert_array_equal(two.image, clean)
  shared, _ = make(["a", "b"])(key, step, batch)
  np.testing.assert_array_equal(shared.image[0], shared.image[1])
  differ = lambda images: np.mean([(a != b).any() for a, b in zip(images[0], images[1])])
  assert differ(two.image) > 0.8
  np.testing.assert_array_equal(two.target, shared.target)
  # The perturbed member's images are its own view, perturbed.
  perturbed, clean = make(["a", "b"], [registry.resolve("perturb", "noise", stddev=1e-6)], per_member=True)(key, step, batch)
  np.testing.assert_allclose(perturbed.image, clean, atol=1e-4)
