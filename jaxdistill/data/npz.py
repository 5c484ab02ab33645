"""Images and labels of your own, from npz files."""

import numpy as np

from jaxdistill.core.foreign import expand
from jaxdistill.data import Dataset, checked
from jaxdistill.data._npz import read_class_names, read_split
from jaxdistill.errors import DataError, require

_MOST_CLASSES = 2**24


def npz(*, path: str = "", test_path: str = "", num_classes: int = 0) -> Dataset:
  """Returns a data set of arrays written by `np.savez` or `np.savez_compressed`.

  Args:
    path: file with `images_train` uint8[N, H, W, 3], `labels_train` integer[N],
      `images_test` and `labels_test`, and perhaps `class_names`, an array of C strings.
    test_path: file with the two test arrays, when `path` holds only the training
      arrays.
    num_classes: C; 0 takes the largest label plus one, and then every class needs a
      training example.

  Returns:
    The data set, normalised by the statistics of its own training split.

  Raises:
    ConfigError: if no file is named, or the number of classes is negative.
    DataError: if a file is missing, damaged or inconsistent.
  """
  require(bool(path), "path must name an npz file, with images_train and labels_train")
  require(
    0 <= num_classes <= _MOST_CLASSES,
    f"num_classes must lie in 0..{_MOST_CLASSES}, got {num_classes}",
  )

  train_file = expand(path)
  test_file = train_file
  where = path
  if test_path:
    test_file = expand(test_path)
    where = f"{path}, {test_path}"
  train = read_split(train_file, "train")
  test = read_split(test_file, "test")

  _, train_labels = train
  _, test_labels = test
  dataset = checked(
    train_file.stem,
    train=train,
    test=test,
    num_classes=num_classes or _count_classes(train_labels, test_labels),
    where=where,
    class_names=read_class_names(train_file),
  )
  if not num_classes:
    _require_every_class(dataset, where)
  return dataset


def _count_classes(*labels: np.ndarray) -> int:
  """Returns the largest label plus one, of labels that are not checked yet.

  Those that are no integers do not count here; the checks report them.
  """
  count = 1
  for split in labels:
    if split.size and np.issubdtype(split.dtype, np.integer):
      count = max(count, int(split.max()) + 1)
  return count


def _require_every_class(dataset: Dataset, where: str) -> None:
  """Raises DataError for a class between 0 and the largest that has no example."""
  present = set(dataset.train.label.tolist())
  for label in range(dataset.num_classes):
    if label not in present:
      raise DataError(
        f"{where}: labels go up to {dataset.num_classes - 1} but class {label} has no "
        "training example: renumber them, or set "
        f"data.num_classes={dataset.num_classes}"
      )
