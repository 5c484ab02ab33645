"""scikit-learn's digits: the split is by class, and always the same."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxdistill.data.digits import digits
from jaxdistill.errors import ConfigError


def test_digits_are_split_by_class_and_always_the_same_way():
  before = np.random.get_state()[1].copy()
  first = digits()
  again = digits()
  other = digits(seed=1)
  np.testing.assert_array_equal(np.random.get_state()[1], before)
  assert first.train.image.shape == (1438, 8, 8, 3)
  assert first.test.image.shape == (359, 8, 8, 3)
  np.testing.assert_array_equal(first.test.image, again.test.image)
  assert not np.array_equal(first.test.image, other.test.image)

  in_train = np.bincount(first.train.label, minlength=10)
  in_test = np.bincount(first.test.label, minlength=10)
  np.testing.assert_allclose(in_test / (in_train + in_test), 0.2, atol=0.003)
  assert first.train.image.min() == 0
  assert first.train.image.max() == 255
  channels = first.train.image
  np.testing.assert_array_equal(channels[..., 0], channels[..., 2])
  assert first.test.label[:8].tolist() == [3, 7, 3, 9, 0, 8, 7, 0]


def test_digits_use_every_example_once():
  def pairs(images, labels):
    return sorted((i.tobytes(), int(n)) for i, n in zip(images, labels, strict=True))

  loaded = digits(test_fraction=0.35)
  images = np.concatenate([loaded.train.image, loaded.test.image])[..., 0]
  labels = np.concatenate([loaded.train.label, loaded.test.label])
  bundled = load_digits()
  expected = np.rint(bundled.images * 255 / 16).astype(np.uint8)
  assert pairs(images, labels) == pairs(expected, bundled.target)


def test_digits_are_named_by_their_numerals():
  assert "".join(digits().class_names) == "0123456789"


@pytest.mark.parametrize(
  "kwargs, key",
  [
    ({"test_fraction": 0.0}, "test_fraction"),
    ({"test_fraction": 1.0}, "test_fraction"),
    ({"test_fraction": float("nan")}, "test_fraction"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**32}, "seed"),
  ],
)
def test_digits_check_their_keys(kwargs, key):
  with pytest.raises(ConfigError, match=key):
    digits(**kwargs)


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_digits_keep_every_class_in_both_splits(fraction):
  loaded = digits(test_fraction=fraction)
  assert len(np.unique(loaded.train.label)) == 10
  assert len(np.unique(loaded.test.label)) == 10
