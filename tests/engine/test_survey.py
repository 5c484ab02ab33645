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
from jaxdistill.inputs.augment import crop, flip
from jaxdistill.inputs.augment.pool import make_augment
from jaxdistill.inputs.perturb.pool import make_perturb
from jaxdistill.inputs.views import make_views
from tests.helpers import streams, toy


def labelled(labels):
  """A data set whose image i is filled with i."""
  labels = np.asarray(labels)
  numbers = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
  image = np.broadcast_to(numbers, (len(labels), 4, 4, 3))
  return datasets.checked(
    "numbers",
    (image, labels),
    (image[:3], labels[:3]),
    4,
    (0.5,) * 3,
    (0.5,) * 3,
  )


def four_classes(count):
  return labelled(np.arange(count) % 4)


def test_held_out_examples_are_balanced_and_leave_the_training_set():
  split = datasets.hold_out(four_classes(80), 20, seed=0)
  assert np.bincount(split.holdout.label).tolist() == [5, 5, 5, 5]
  assert len(split.train.label) == 60
  kept = split.train.image[:, 0, 0, 0]
  held_out = split.holdout.image[:, 0, 0, 0]
  assert sorted(np.concatenate([kept, held_out])) == list(range(80))
  assert (np.diff(kept.astype(int)) > 0).all()
  np.testing.assert_array_equal(split.train.label, kept % 4)
  np.testing.assert_array_equal(split.holdout.label, held_out % 4)


def test_which_examples_are_held_out_depends_on_the_seed():
  whole = four_classes(80)
  first = datasets.hold_out(whole, 20, seed=0).holdout.image
  again = datasets.hold_out(whole, 20, seed=0).holdout.image
  other = datasets.hold_out(whole, 20, seed=1).holdout.image
  np.testing.assert_array_equal(again, first)
  assert (other != first).any()


def test_a_remainder_goes_to_classes_that_are_drawn():
  split = datasets.hold_out(four_classes(80), 22, seed=0)
  assert sorted(np.bincount(split.holdout.label)) == [5, 5, 6, 6]
  assert datasets.hold_out(four_classes(8), 0, seed=0).holdout is None


def test_a_class_must_keep_an_example():
  message = "holdout 8 takes 2 examples of class 0, of which numbers has 2 for training"
  with pytest.raises(ConfigError, match=message):
    datasets.hold_out(four_classes(8), 8, seed=0)


@pytest.mark.parametrize(
  "fraction, taken", [(0.1, [3, 3, 1, 0]), (0.5, [15, 15, 5, 1])]
)
def test_a_fraction_is_taken_of_each_class(fraction, taken):
  """Of 30, 30, 10 and 2 examples, rounded as a whole; no class gives its last one."""
  whole = labelled(np.repeat(np.arange(4), [30, 30, 10, 2]))
  split = datasets.hold_out(whole, fraction, seed=0)
  assert np.bincount(split.holdout.label, minlength=4).tolist() == taken
  assert len(split.train.label) + len(split.holdout.label) == 72


def test_a_fraction_that_takes_nothing_is_refused():
  with pytest.raises(ConfigError, match="holdout 0.001 takes none of the 80 training"):
    datasets.hold_out(four_classes(80), 0.001, seed=0)


def test_so_many_examples_of_each_class_are_kept_as_the_seed_draws_them():
  whole = four_classes(80)
  few = datasets.keep_few(whole, 5, seed=0)
  kept = few.train.image[:, 0, 0, 0].astype(int)
  assert np.bincount(kept % 4).tolist() == [5, 5, 5, 5]
  np.testing.assert_array_equal(few.train.label, kept % 4)
  assert (np.diff(kept) > 0).all()
  again = datasets.keep_few(whole, 5, seed=0).train.image[:, 0, 0, 0]
  np.testing.assert_array_equal(again, kept)
  other = datasets.keep_few(whole, 5, seed=1).train.image[:, 0, 0, 0]
  assert (other != kept).any()
  assert len(few.test.label) == len(whole.test.label)


def test_a_class_must_have_the_examples_that_are_to_be_kept():
  whole = labelled(np.repeat(np.arange(4), [30, 30, 10, 2]))
  message = "examples_per_class is 5, but numbers has 2 of class 3 for training"
  with pytest.raises(ConfigError, match=message):
    datasets.keep_few(whole, 5, seed=0)


def test_examples_held_out_of_a_stream_are_the_same_and_read_as_test_images_are():
  whole = four_classes(80)
  larger = whole._replace(
    train=streams.streamed(whole.train, crop=3)._replace(varies=True),
    test=whole.test._replace(image=whole.test.image[:, :3, :3]),
  )
  expected = datasets.hold_out(whole, 20, seed=0)
  found = datasets.hold_out(larger, 20, seed=0)
  numbers = whole.train.image[:, 0, 0, 0]
  for name in ("train", "holdout"):
    split = getattr(found, name)
    rows = getattr(expected, name).image[:, 0, 0, 0]
    np.testing.assert_array_equal(numbers[split.rows], rows)
    np.testing.assert_array_equal(split.label, getattr(expected, name).label)
  assert found.train.varies and not found.holdout.varies
  assert found.holdout.shape == (3, 3, 3)


def counting(split):
  """A method that counts how often a survey showed each example.

  The survey is due before every second epoch.
  """

  def loss(step):
    return Objective(member=step.outputs.logits.mean((1, 2)))

  def init(key, setup):
    return {}, jnp.zeros(toy.EXAMPLES)

  def collect(collected, memory, outputs, batch):
    assert outputs.logits.shape == (3, 24, toy.CLASSES)
    assert batch.image.dtype == jnp.uint8
    return collected.at[batch.index].add(batch.mask)

  survey = Survey(
    split=split,
    due=lambda epoch: epoch % 2 == 1,
    start=jnp.zeros_like,
    collect=collect,
    finish=lambda memory, seen: memory + seen,
  )
  return Method(loss=loss, init=init, surveys=(survey,))


@pytest.mark.parametrize("split, size", [("train", toy.EXAMPLES), ("holdout", 20)])
@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_a_survey_shows_every_example_once(split, size, devices):
  """Not the padding of the last batch, and before the epochs that it is due for."""
  trial = toy.Trial(counting(split), toy.cohort("same"), devices=devices)
  end = toy.STEPS_PER_EPOCH
  state, _ = trial.run(end)
  np.testing.assert_array_equal(state.method.memory, 0)
  state, _ = trial.run(3 * end, state=state, start=end)
  np.testing.assert_array_equal(state.method.memory, np.arange(toy.EXAMPLES) < size)


def views_for(members, ops=(), **kwargs):
  """Views of these members under a random crop and flip."""
  views = make_views(
    make_augment({"pad_crop": crop.pad_crop(padding=2), "hflip": flip.hflip()}).augment,
    make_perturb(ops, num_members=len(members), every=1),
    mean=toy.MEAN,
    std=toy.STD,
    members=members,
    num_classes=toy.CLASSES,
    **kwargs,
  )
  return views(jax.random.key(0), jnp.int32(0), next(toy.batches(0, 1)))


def fraction_of_different_images(first, second):
  return np.mean([(a != b).any() for a, b in zip(first, second, strict=True)])


def test_images_are_augmented_independently_for_every_member():
  """With `per_member`; views do not change when members are added."""
  two, clean = views_for(["a", "b"], per_member=True)
  three, _ = views_for(["a", "b", "c"], per_member=True)
  np.testing.assert_array_equal(two.image, three.image[:2])
  np.testing.assert_array_equal(two.image, clean)
  assert fraction_of_different_images(two.image[0], two.image[1]) > 0.8
  shared, _ = views_for(["a", "b"])
  np.testing.assert_array_equal(shared.image[0], shared.image[1])
  np.testing.assert_array_equal(two.target, shared.target)


def test_the_perturbed_members_images_are_its_own_view_perturbed():
  almost_nothing = registry.resolve("perturb", "noise", stddev=1e-6)
  perturbed, clean = views_for(["a", "b"], [almost_nothing], per_member=True)
  np.testing.assert_allclose(perturbed.image, clean, atol=1e-4)
