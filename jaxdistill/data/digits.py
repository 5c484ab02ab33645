"""Handwritten digits that come with scikit-learn: a first run without any download."""

from typing import Any

import numpy as np

from jaxdistill.data import Dataset, checked
from jaxdistill.errors import require

_NUM_CLASSES = 10
_MAX_SEED = 2**32 - 1


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
  """Returns scikit-learn's 1,797 digits of 8x8 pixels, split by class.

  Args:
    test_fraction: fraction of every class that is held out for the test split, between
      0 and 1.
    seed: which examples are held out; the same seed gives the same split everywhere.

  Returns:
    The data set: images uint8[N, 8, 8, 3], gray repeated to three channels, 0..16
      stretched to 0..255.

  Raises:
    ConfigError: for a fraction or a seed out of range.
  """
  require(
    0 < test_fraction < 1,
    f"test_fraction must lie between 0 and 1, got {test_fraction}",
  )
  require(0 <= seed <= _MAX_SEED, f"seed must lie in 0..{_MAX_SEED}, got {seed}")
  # Importing it takes a second: only for those who use it.
  from sklearn.datasets import load_digits

  bundled: Any = load_digits()
  gray = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
  images = np.repeat(gray[..., None], 3, axis=-1)
  labels = bundled.target
  held_out = _draw_test_rows(labels, test_fraction, seed)
  return checked(
    "digits",
    train=(images[~held_out], labels[~held_out]),
    test=(images[held_out], labels[held_out]),
    num_classes=_NUM_CLASSES,
    class_names=tuple(str(digit) for digit in range(_NUM_CLASSES)),
  )


def _draw_test_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Draws the fraction of every class; returns bool[N], True for what is drawn."""
  # numpy keeps the stream of RandomState frozen for ever; that of a Generator may
  # change between versions.
  random = np.random.RandomState(seed)
  drawn = np.zeros(len(labels), bool)
  for label in range(_NUM_CLASSES):
    rows = random.permutation(np.flatnonzero(labels == label))
    # At least one example of each class in either split.
    count = np.clip(round(len(rows) * fraction), 1, len(rows) - 1)
    drawn[rows[:count]] = True
  return drawn
