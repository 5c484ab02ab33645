"""An image classification data set as checked host arrays."""

from typing import NamedTuple

import numpy as np

from jaxdistill.errors import DataError, require


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
    holdout: examples taken out of the training split (see `hold_out`), or None.
    class_names: names of the C classes; empty where they are not known.
    stable_index: whether a row of the training split is the same example in every
      epoch, as methods with a table of the examples need.
  """

  name: str
  train: Split
  test: Split
  num_classes: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  holdout: Split | None = None
  class_names: tuple[str, ...] = ()
  stable_index: bool = True


def _one_array(name: str, images) -> np.ndarray:
  """Returns images as one array; a list or an object array may hide images of several shapes."""
  if not isinstance(images, np.ndarray) or images.dtype == object:
    shapes = [np.shape(image) for image in images]
    odd = next((row for row, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None:
      raise DataError(
        f"{name}: image {odd} is {list(shapes[odd])} but image 0 is {list(shapes[0])}: bring "
        "all images to one shape"
      )
    images = np.stack(images) if shapes else np.empty(0)
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
    raise DataError(
      f"{name}: images must be uint8[N, H, W, 3] in 0..255, got {images.dtype}"
      f"{list(images.shape)}: convert them first (repeat a gray channel three times)"
    )
  return images


def _checked_split(name: str, images, labels, num_classes: int) -> Split:
  images, labels = _one_array(name, images), np.asarray(labels)
  if labels.shape != images.shape[:1]:
    raise DataError(
      f"{name}: {images.shape[0]} images but labels of shape {list(labels.shape)}: give one "
      "label to each image"
    )
  if not images.size:
    raise DataError(f"{name}: there are no images in it")
  if not np.issubdtype(labels.dtype, np.integer):
    whole = np.issubdtype(labels.dtype, np.floating)
    row = int(np.argmax(labels != np.floor(labels))) if whole else 0
    raise DataError(
      f"{name}: labels must be integers, got {labels.dtype} (example {row}: {labels[row]}): "
      "store class numbers as an integer type"
    )
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if wrong.size:
    raise DataError(
      f"{name}: label {labels[wrong[0]]} of example {wrong[0]} is outside 0..{num_classes - 1} "
      f"({wrong.size} such labels): fix the data or the number of classes"
    )
  return Split(np.ascontiguousarray(images), labels.astype(np.int32))


def channel_statistics(
  images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Measures per-channel mean and standard deviation.

  Args:
    images: uint8[N, H, W, 3].

  Returns:
    mean and standard deviation of each channel, in [0, 1]; a constant channel gets
    1e-3, to divide by.
  """
  total, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
  # In blocks: the float64 copy that a plain `std` makes of CIFAR takes more than a
  # gigabyte.
  for start in range(0, len(images), 1000):
    pixels = images[start : start + 1000].reshape(-1, 3).astype(np.int64)
    total += pixels.sum(0)
    squares += (pixels * pixels).sum(0)
  count = images.size // 3
  mean = total / count
  std = np.sqrt(np.maximum(squares / count - mean * mean, 0))
  return tuple(float(m) for m in mean / 255), tuple(
    max(float(s), 1e-3) for s in std / 255
  )


def checked(
  name: str,
  train: tuple,
  test: tuple,
  num_classes: int,
  mean: tuple[float, float, float] | None = None,
  std: tuple[float, float, float] | None = None,
  where: str = "",
) -> Dataset:
  """Checks shapes, types, counts and label ranges on the host, and builds the `Dataset`.

  Out-of-range labels have to be caught here: inside a compiled step they give a NaN
  loss with finite gradients, or silently mean the last class.

  Args:
    name: what summaries call the data set.
    train: (images uint8[N, H, W, 3], integer labels [N]).
    test: likewise.
    num_classes: C.
    mean, std: per-channel statistics in [0, 1]; measured on the training split when
      None.
    where: file or folder that the arrays came from, for errors.

  Raises:
    DataError: naming split, example, value and allowed range.
  """
  source = f"{name} ({where})" if where else name
  train_split = _checked_split(f"{source} train", *train, num_classes)
  test_split = _checked_split(f"{source} test", *test, num_classes)
  if train_split.image.shape[1:] != test_split.image.shape[1:]:
    raise DataError(
      f"{source}: training images are {list(train_split.image.shape[1:])}, test images "
      f"{list(test_split.image.shape[1:])}: bring them to one shape"
    )
  if mean is None or std is None:
    mean, std = channel_statistics(train_split.image)
  return Dataset(name, train_split, test_split, num_classes, mean, std)


def hold_out(dataset: Dataset, count: int, seed: int) -> Dataset:
  """Takes examples out of the training split, drawn at random and equally many of each class.

  The classes that give one more, where the count is no multiple of C, are drawn too.
  The others keep their order and are numbered anew.

  Args:
    dataset: the data set.
    count: number of examples to take; 0 takes none.
    seed: of the draw: the same seed takes the same examples.

  Raises:
    ConfigError: if a class has too few examples to give its share and keep one.
  """
  if not count:
    return dataset
  rng, label = np.random.default_rng(seed), dataset.train.label
  share = np.full(dataset.num_classes, count // dataset.num_classes)
  share[rng.permutation(dataset.num_classes)[: count % dataset.num_classes]] += 1
  taken = np.zeros(len(label), bool)
  for c in range(dataset.num_classes):
    rows = np.flatnonzero(label == c)
    require(
      len(rows) > share[c] or not share[c],
      f"holdout {count} takes {share[c]} examples of class {c}, of which "
      f"{dataset.name} has {len(rows)} for training: make it smaller",
    )
    taken[rng.permutation(rows)[: share[c]]] = True
  train, holdout = (
    Split(dataset.train.image[rows], label[rows]) for rows in (~taken, taken)
  )
  return dataset._replace(train=train, holdout=holdout)
