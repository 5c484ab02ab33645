"""Images in folders, one folder for each class."""

from collections.abc import Sequence
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdistill.core.foreign import expand
from jaxdistill.data import Dataset
from jaxdistill.data._draws import draw_test_rows
from jaxdistill.data._files import SUFFIXES, Files, list_folders, list_images
from jaxdistill.data._streamed import Options, Part, check_options, checked_streamed
from jaxdistill.errors import DataError, require

_TRAIN = "train"
_TEST_FOLDERS = ("val", "validation", "valid", "test")


def folder(
  *,
  dir: str = "",
  test_folder: str = "",
  test_fraction: float = 0.1,
  seed: int = 0,
  follow_links: bool = False,
  size: str = "",
  crop: str = "random",
  resize: int = 0,
  test_size: str = "",
  test_resize: int = 0,
  interpolation: str = "bilinear",
  statistics: str = "sample",
  on_error: str = "raise",
  max_faulty: float = 0.01,
  threads: int = 0,
) -> Dataset:
  """Returns a data set of image files, read when they are needed.

  Either `dir/train/CLASS/...` and `dir/val/CLASS/...`, or `dir/CLASS/...` alone, of
  which a fraction is held out for the test. The names of the folders, sorted, are the
  classes; images may lie in folders below them. Files and folders whose name begins
  with a dot are ignored, and so are files that are no images by their name.

  Args:
    dir: the folder.
    test_folder: name of the folder of test images beside `train`; empty for `val`,
      `validation`, `valid` or `test`, whichever is there.
    test_fraction: fraction of every class that is held out for the test split, between
      0 and 1, where there is no folder of test images.
    seed: which images are held out; the same seed gives the same split everywhere.
    follow_links: read what symbolic links lead to; False refuses them.
    size: of training images as they are read, such as 224 or 256x128 (height x width);
      empty leaves all images as they are stored, and then they must agree in size.
    crop: "random" for another region in every epoch, of 8 to 100 % of the area and a
      ratio of 3/4 to 4/3, resized; "centre" for the middle. It needs a `size`.
    resize: shorter side of training images before a centre crop; 0 for the smaller side
      of `size`.
    test_size: of test images, what the network sees; empty for `size`.
    test_resize: shorter side of test images before their centre crop; 0 for the smaller
      side of `test_size` times 256/224.
    interpolation: "bilinear" or "bicubic", both antialiased.
    statistics: "sample" measures mean and standard deviation for the normalisation on
      2,000 training images at most, "imagenet" takes those of ImageNet.
    on_error: "raise" stops at an image that cannot be read; "skip" reads the next
      intact image of its class for training, and leaves it out of evaluation.
    max_faulty: fraction of the images that may be skipped; ten may always be.
    threads: that read and decode; 0 for one on each processor.

  Returns:
    The data set.

  Raises:
    ConfigError: if no folder is named, or keys do not fit each other.
    DataError: if there are no images, a class is empty, or the classes of the two
      folders differ.
  """
  require(bool(dir), "dir must name a folder of images, with a folder for each class")
  options = Options(
    size=size,
    crop=crop,
    resize=resize,
    test_size=test_size,
    test_resize=test_resize,
    interpolation=interpolation,
    statistics=statistics,
    on_error=on_error,
    max_faulty=max_faulty,
    threads=threads,
  )
  check_options(options)
  root = expand(dir)
  require_folder(root)

  train_folder = _train_folder(root, follow_links)
  listed = list_classes(train_folder, follow_links)
  tests = _find_test_folder(root, test_folder)
  if train_folder != root and tests:
    listed_test = list_classes(tests, follow_links, listed.class_names)
    train = _all_of(train_folder, listed)
    test = _all_of(tests, listed_test)
  else:
    train, test = _held_out(train_folder, listed, test_fraction, seed)
  return checked_streamed(
    os.path.basename(os.path.abspath(root)) or "folder",
    train=train,
    test=test,
    num_classes=len(listed.class_names),
    options=options,
    where=str(root),
    class_names=listed.class_names,
  )


class Listed(NamedTuple):
  """The images of a folder of classes.

  Attributes:
    class_names: of the folders, in the order of the labels.
    names: paths of the images below the folder.
    label: i32[N] of the images.
  """

  class_names: tuple[str, ...]
  names: list[str]
  label: np.ndarray


def require_folder(path: Path) -> None:
  """Raises DataError unless there is a folder."""
  if not os.path.isdir(path):
    raise DataError(f"{path} is no folder: set data.dir to that of the images")


def list_classes(
  root: Path, follow_links: bool, expected: Sequence[str] | None = None
) -> Listed:
  """Lists the images of a folder that has a folder for each class.

  Args:
    root: the folder.
    follow_links: whether a link counts as what it leads to; else it is refused.
    expected: names of the classes that there must be; None takes what is there.

  Raises:
    DataError: if there are no classes, one is empty, or others are expected.
  """
  class_names = list_folders(root, follow_links)
  if not class_names:
    raise DataError(f"{root} has no folders: make one for each class of images")
  if expected is not None:
    _require_same_classes(root, class_names, expected)
  names: list[str] = []
  labels: list[int] = []
  for label, class_name in enumerate(class_names):
    images = list_images(root / class_name, follow_links)
    if not images:
      raise DataError(
        f"{root / class_name} has no images ({' '.join(SUFFIXES)}): remove the folder, "
        "or fill it"
      )
    names += [os.path.join(class_name, image) for image in images]
    labels += [label] * len(images)
  return Listed(
    class_names=tuple(class_names), names=names, label=np.array(labels, np.int32)
  )


def _require_same_classes(
  root: Path, found: Sequence[str], expected: Sequence[str]
) -> None:
  unknown = sorted(set(found) - set(expected))
  missing = sorted(set(expected) - set(found))
  if unknown:
    raise DataError(
      f"{root / unknown[0]} is a class that the training images do not have "
      f"({len(unknown)} such classes): remove it, or add training images"
    )
  if missing:
    raise DataError(
      f"{root} has no folder {missing[0]!r}, a class of the training images "
      f"({len(missing)} such classes): add its test images"
    )


# Splits.


def _train_folder(root: Path, follow_links: bool) -> Path:
  """Returns the folder of the classes: `train`, if this is one of a split."""
  train = root / _TRAIN
  if os.path.isdir(train) and list_folders(train, follow_links):
    return train
  return root


def _find_test_folder(root: Path, name: str) -> Path | None:
  """Returns the folder of the test images; None if there is none."""
  if name:
    require_folder(root / name)
    return root / name
  present = [name for name in _TEST_FOLDERS if os.path.isdir(root / name)]
  if len(present) > 1:
    raise DataError(
      f"{root} has {' and '.join(present)}: set data.test_folder to the one that "
      "evaluation reads"
    )
  return root / present[0] if present else None


def _all_of(root: Path, listed: Listed) -> Part:
  return Part(
    source=Files(root, listed.names),
    rows=np.arange(len(listed.names)),
    label=listed.label,
  )


def _held_out(
  root: Path, listed: Listed, fraction: float, seed: int
) -> tuple[Part, Part]:
  """Returns the training and the test part of a folder."""
  counts = np.bincount(listed.label)
  alone = np.flatnonzero(counts < 2)
  if alone.size:
    raise DataError(
      f"{root / listed.class_names[alone[0]]} has a single image, and the test needs "
      "one of each class too: add another, or a folder of test images"
    )
  drawn = draw_test_rows(listed.label, fraction, seed)
  every = _all_of(root, listed)

  def part(rows: np.ndarray) -> Part:
    return every._replace(rows=rows, label=listed.label[rows])

  return part(np.flatnonzero(~drawn)), part(np.flatnonzero(drawn))
