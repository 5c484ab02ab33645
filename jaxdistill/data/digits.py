"""Handwritten digits that come with scikit-learn: a first run without any download."""

from typing import Any

import numpy as np

from jaxdistill.data import Dataset, channel_statistics, checked
from jaxdistill.data._draws import draw_test_rows

_NUM_CLASSES = 10


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
  # Importing it takes a second: only for those who use it.
  from sklearn.datasets import load_digits

  bundled: Any = load_digits()
  gray = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
  images = np.repeat(gray[..., None], 3, axis=-1)
  labels = bundled.target
  held_out = draw_test_rows(labels, test_fraction, seed)
  # Of the whole set: all splits are normalised alike, and share compiled programs.
  mean, std = channel_statistics(images)
  return checked(
    "digits",
    train=(images[~held_out], labels[~held_out]),
    test=(images[held_out], labels[held_out]),
    num_classes=_NUM_CLASSES,
    mean=mean,
    std=std,
    class_names=tuple(str(digit) for digit in range(_NUM_CLASSES)),
  )
