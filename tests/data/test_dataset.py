"""The checks that every data set passes, and data sets of one's own."""

import inspect

import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.data import Dataset, Split, channel_statistics, checked, hold_out
from jaxdistill.errors import ConfigError
from tests.helpers.data_files import error_of


def good_split():
  return np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, int)


def test_two_image_shapes_are_named():
  good = good_split()
  ragged = [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
  text = error_of(checked, "mine", (ragged, [0, 0]), good, 1)
  assert "mine train: image 1 is [5, 4, 3] but image 0 is [4, 4, 3]" in text

  boxed = np.empty(2, object)
  boxed[:] = ragged
  text = error_of(checked, "mine", good, (boxed, [0, 0]), 1, where="x.npz")
  assert "mine (x.npz) test: image 1" in text

  one_shape = checked("mine", (ragged[:1], [0]), good, 1)
  assert one_shape.train.image.shape == (1, 4, 4, 3)


def test_a_constant_channel_can_be_divided_by():
  mean, std = channel_statistics(np.full((1001, 4, 4, 3), 255, np.uint8))
  assert mean == (1, 1, 1)
  assert std == (1e-3,) * 3


def test_class_names_are_one_for_each_class_or_none():
  good = good_split()
  named = checked("mine", good, good, 2, class_names=["cat", "dog"])
  assert named.class_names == ("cat", "dog")
  assert checked("mine", good, good, 2).class_names == ()
  text = error_of(checked, "mine", good, good, 3, class_names=["cat", "dog"])
  assert "mine: 2 class names for 3 classes" in text


@pytest.mark.parametrize(
  "name", ["", " ", "\n", "a\x1b[2J", "x" * 201, 3, b"cat", None]
)
def test_class_names_are_printable_texts(name):
  good = good_split()
  text = error_of(checked, "mine", good, good, 2, class_names=["cat", name])
  assert "mine: the name of class 1 is" in text
  assert "1 to 200 printable characters" in text


@pytest.mark.parametrize(
  "labels, num_classes, message",
  [
    (np.array([0, 2**63], np.uint64), 2, "label 9223372036854775808 of example 1"),
    ([0, 2**70], 2, "labels must be integers, got object"),
    ([0, -1], 2, "label -1 of example 1"),
    ([0, float("nan")], 2, "labels must be integers, got float64 (example 1: nan)"),
    ([0, 1e300], 2, "labels must be integers"),
    ([True, False], 2, "labels must be integers, got bool"),
    (["0", "1"], 2, "labels must be integers"),
    ([[0], [0, 1]], 2, "labels make no array"),
    ([[0], [0]], 2, "2 images but labels of shape [2, 1]"),
    (None, 2, "2 images but labels of shape []"),
    ([0, 0], 0, "0 classes: there must be 1 to 2147483647"),
    (np.array([0, 2**63], np.uint64), 2**63 + 1, "9223372036854775809 classes"),
  ],
)
def test_labels_that_are_none_are_refused(labels, num_classes, message):
  images, _ = good_split()
  text = error_of(checked, "mine", (images, labels), good_split(), num_classes)
  assert message in text


def test_images_that_are_none_are_refused():
  text = error_of(checked, "mine", (None, [0]), good_split(), 1)
  assert "mine train: images are None" in text


def test_class_names_stay_when_examples_are_held_out():
  good = good_split()
  split = hold_out(checked("mine", good, good, 1, class_names=["cat"]), 1, seed=0)
  assert split.class_names == ("cat",)


# The registry -------------------------------------------------------------------------


def two_colours(*, examples: int, colours: int = 2) -> Dataset:
  """Returns a data set of one's own, with a required keyword."""
  label = np.arange(examples) % colours
  image = np.zeros((examples, 4, 4, 3), np.uint8) + label[:, None, None, None]
  split = (image.astype(np.uint8), label)
  return checked("colours", split, split, colours)


def test_a_data_set_of_ones_own_is_found_by_its_import_path():
  name = f"{__name__}:two_colours"
  loaded = registry.resolve("data", name, examples=6)
  assert isinstance(loaded.train, Split)
  assert loaded.train.label.tolist() == [0, 1, 0, 1, 0, 1]
  with pytest.raises(ConfigError, match="needs examples"):
    registry.resolve("data", name)
  with pytest.raises(ConfigError, match="did you mean 'colours'"):
    registry.resolve("data", name, examples=6, colors=3)


@pytest.mark.parametrize("name", registry.list_available("data"))
def test_every_data_set_takes_documented_keywords_only(name):
  factory = registry.find("data", name)
  keywords = registry.keywords("data", name)
  assert list(keywords) == list(inspect.signature(factory).parameters)
  for keyword in keywords:
    assert f"\n  {keyword}: " in inspect.getdoc(factory)


def test_helpers_of_data_sets_are_no_data_sets():
  names = registry.list_available("data")
  assert "digits" in names
  assert "cifar.cifar100" in names
  assert not any(name.startswith("_") or "hold_out" in name for name in names)
