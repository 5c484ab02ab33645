"""Handwritten digits that come with scikit-learn: a first run without any download."""

import numpy as np

from jaxdistill.data import Dataset, checked
from jaxdistill.errors import require


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
  """Loads scikit-learn's 1,797 digits of 8x8 pixels, split by class.

  Args:
    test_fraction: share of every class that is held out for the test split, between 0
      and 1.
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
  require(0 <= seed < 2**32, f"seed must lie in 0..{2**32 - 1}, got {seed}")
  from sklearn.datasets import load_digits  # takes a second: only for those who use it

  bundled = load_digits()
  gray = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
  images, labels = np.repeat(gray[..., None], 3, axis=-1), bundled.target
  # numpy keeps the stream of RandomState frozen for ever; that of a Generator may
  # change between versions.
  random = np.random.RandomState(seed)
  held_out = np.zeros(len(labels), bool)
  for label in range(10):
    rows = random.permutation(np.flatnonzero(labels == label))
    held_out[rows[: min(max(round(len(rows) * test_fraction), 1), len(rows) - 1)]] = (
      True
    )
  return checked(
    "digits",
    (images[~held_out], labels[~held_out]),
    (images[held_out], labels[held_out]),
    num_classes=10,
  )
