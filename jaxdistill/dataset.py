"""An image classification data set as checked host arrays."""

from typing import NamedTuple

import numpy as np

from jaxdistill.errors import DataError


class Split(NamedTuple):
  """One split: image uint8[N, H, W, 3], label int32[N]; the row is the example's stable index."""

  image: np.ndarray
  label: np.ndarray


class Dataset(NamedTuple):
  """A data set that fits in memory.

  Attributes:
    name: what errors and summaries call it.
    train: training split.
    test: held-out split that evaluation covers completely.
    num_classes: C.
    mean: per-channel mean of the training pixels in [0, 1], for normalisation.
    std: per-channel standard deviation in [0, 1].
  """

  name: str
  train: Split
  test: Split
  num_classes: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


def _checked_split(name: str, images, labels, num_classes: int) -> Split:
  images, labels = np.asarray(images), np.asarray(labels)
  if images.dtype == object or images.ndim != 4:
    raise DataError(f"{name}: images must be one uint8 array [N, H, W, 3], all of one shape; got "
                    f"{images.dtype}{list(images.shape)}: bring them to one size first")
  if images.dtype != np.uint8 or images.shape[-1] != 3:
    raise DataError(f"{name}: images must be uint8[N, H, W, 3], got {images.dtype}{list(images.shape)}")
  if labels.shape != images.shape[:1]:
    raise DataError(f"{name}: {images.shape[0]} images but labels of shape {list(labels.shape)}")
  if not len(labels):
    raise DataError(f"{name}: the split is empty")
  if not np.issubdtype(labels.dtype, np.integer):
    raise DataError(f"{name}: labels must be integers, got {labels.dtype}")
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if wrong.size:
    raise DataError(f"{name}: label {labels[wrong[0]]} of example {wrong[0]} is outside 0..{num_classes - 1} "
                    f"({wrong.size} such labels): fix the data or the number of classes")
  return Split(np.ascontiguousarray(images), labels.astype(np.int32))


def checked(name: str, train: tuple, test: tuple, num_classes: int,
            mean: tuple[float, float, float] | None = None,
            std: tuple[float, float, float] | None = None) -> Dataset:
  """Checks shapes, types, counts and label ranges on the host, and builds the `Dataset`.

  Out-of-range labels have to be caught here: inside a compiled step they give a NaN loss with finite
  gradients, or silently mean the last class.

  Args:
    name: what errors call the data set.
    train: (images uint8[N, H, W, 3], integer labels [N]).
    test: likewise.
    num_classes: C.
    mean, std: per-channel statistics in [0, 1]; measured on the training split when None.

  Raises:
    DataError: naming split, example, value and allowed range.
  """
  train_split = _checked_split(f"{name} train", *train, num_classes)
  test_split = _checked_split(f"{name} test", *test, num_classes)
  if train_split.image.shape[1:] != test_split.image.shape[1:]:
    raise DataError(f"{name}: training images are {list(train_split.image.shape[1:])}, test images "
                    f"{list(test_split.image.shape[1:])}: they must have one shape")
  if mean is None or std is None:
    pixels = train_split.image.reshape(-1, 3)
    mean = tuple(float(m) for m in pixels.mean(0, dtype=np.float64) / 255)
    std = tuple(max(float(s), 1e-3) for s in pixels.std(0, dtype=np.float64) / 255)
  return Dataset(name, train_split, test_split, num_classes, mean, std)
