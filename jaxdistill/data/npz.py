"""Images and labels of your own, from npz files."""

from pathlib import Path

import numpy as np

from jaxdistill.data import Dataset, checked
from jaxdistill.data._npz import read_npz_splits
from jaxdistill.errors import DataError, require


def npz(*, path: str = "", test_path: str = "", num_classes: int = 0) -> Dataset:
  """Loads arrays written by `np.savez` or `np.savez_compressed`.

  Args:
    path: file with `images_train` uint8[N, H, W, 3], `labels_train` integer[N],
      `images_test` and `labels_test`.
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
  require(num_classes >= 0, f"num_classes must be at least 0, got {num_classes}")
  train_path = Path(path).expanduser()
  train, test = read_npz_splits(
    train_path, Path(test_path).expanduser() if test_path else train_path
  )
  where = f"{path}, {test_path}" if test_path else path
  loaded = checked(
    train_path.stem,
    train,
    test,
    num_classes or _largest(train[1], test[1]) + 1,
    where=where,
  )
  present = np.unique(loaded.train.label)
  if not num_classes and len(present) < loaded.num_classes:
    gap = next(
      c for c in range(loaded.num_classes) if c >= len(present) or present[c] != c
    )
    raise DataError(
      f"{where}: labels go up to {loaded.num_classes - 1} but class {gap} has no training "
      f"example: renumber them, or set data.num_classes={loaded.num_classes} if that is meant"
    )
  return loaded


def _largest(*labels: np.ndarray) -> int:
  """Returns the largest label; 0 where there is no sound one, which the checks then report."""
  return max(
    (
      int(split.max())
      for split in labels
      if split.size and np.issubdtype(split.dtype, np.integer)
    ),
    default=0,
  )
