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
