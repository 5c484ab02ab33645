"""Images that a CSV file lists, with their labels."""

import csv
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdistill.core.foreign import expand, read_file
from jaxdistill.data import Dataset
from jaxdistill.data._draws import draw_test_rows
from jaxdistill.data._files import Files
from jaxdistill.data._streamed import Options, Part, check_options, checked_streamed
from jaxdistill.errors import DataError, reason, require

# A line for each image of the largest public sets.
_MAX_INDEX_BYTES = 2**31

_COLUMNS = ("path", "label")
_SPLIT = "split"
_TRAIN = "train"
_TEST_SPLITS = ("test", "val", "validation", "valid")
_MAX_LABEL = 2**24


def index_file(
  *,
  path: str = "",
  test_path: str = "",
  test_fraction: float = 0.1,
  seed: int = 0,
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
  """Returns a data set of the image files that a CSV file lists.

  Its first line names the columns: `path`, `label` and perhaps `split`; others are
  ignored. Paths are relative to the folder of the CSV file, in which all images must
  lie. Labels are numbers from 0, or names, whose sorted order is that of the classes. A
  split is `train`, or one of `test`, `val`, `validation` and `valid`.

  Args:
    path: the CSV file.
    test_path: CSV file of the test images, where `path` lists training images alone.
    test_fraction: fraction of every class that is held out for the test split, between
      0 and 1, where nothing says which images are for the test.
    seed: which images are held out; the same seed gives the same split everywhere.
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
    ConfigError: if no file is named, or keys do not fit each other.
    DataError: if the file is missing or malformed, naming the line.
  """
  require(bool(path), "path must name a CSV file with the columns path and label")
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

  file = expand(path)
  listed = _read(file)
  listed_test = None
  if test_path:
    listed_test = _read(expand(test_path))
  elif listed.splits:
    listed, listed_test = _by_split(listed)

  class_names = _class_names(listed)
  num_classes = len(class_names) or _count(listed)
  train = _part(listed, class_names)
  if listed_test is not None:
    test = _part(listed_test, class_names)
  else:
    train, test = _held_out(train, test_fraction, seed, file)
  return checked_streamed(
    file.stem,
    train=train,
    test=test,
    num_classes=num_classes,
    options=options,
    where=str(file),
    class_names=class_names,
  )


class _Listed(NamedTuple):
  """What a CSV file lists.

  Attributes:
    file: the CSV file.
    lines: number of the line of each image, for errors.
    names: paths of the images, below the file's folder.
    labels: as they are written.
    splits: as they are written; empty where there is no such column.
  """

  file: Path
  lines: list[int]
  names: list[str]
  labels: list[str]
  splits: list[str]

  def take(self, rows: list[int]) -> "_Listed":
    """Returns some of the images, without their splits."""
    return self._replace(
      lines=[self.lines[row] for row in rows],
      names=[self.names[row] for row in rows],
      labels=[self.labels[row] for row in rows],
      splits=[],
    )


def _read(file: Path) -> _Listed:
  """Reads a CSV file."""
  try:
    # Spreadsheets put a mark at the beginning.
    text = read_file(file, _MAX_INDEX_BYTES).decode("utf-8-sig")
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = rows.fieldnames or ()
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
      raise DataError(
        f"{file} has no column {missing[0]!r}: begin it with a line path,label or "
        "path,label,split"
      )
    listed = _Listed(file=file, lines=[], names=[], labels=[], splits=[])
    for row in rows:
      _add(listed, row, rows.line_num, has_split=_SPLIT in columns)
  except DataError:
    raise
  except (OSError, ValueError, csv.Error) as error:
    raise DataError(
      f"{file} cannot be read ({reason(error)}): give a CSV file in UTF-8"
    ) from error
  if not listed.names:
    raise DataError(f"{file} lists no images")
  return listed


def _add(listed: _Listed, row: dict[str, str | None], line: int, has_split: bool):
  """Adds the image of a line."""
  name = row["path"]
  label = row["label"]
  if not name or not label:
    raise DataError(f"{listed.file}, line {line}: a path or a label is missing")
  # Where it is, not what it is: millions of files may be listed.
  below = os.path.normpath(name)
  if os.path.isabs(below) or below.split(os.sep)[0] == os.pardir:
    raise DataError(
      f"{listed.file}, line {line}: {name} leaves the folder of the file: give a path "
      "relative to it"
    )
  listed.lines.append(line)
  listed.names.append(below)
  listed.labels.append(label.strip())
  if has_split:
    split = (row[_SPLIT] or "").strip()
    if split != _TRAIN and split not in _TEST_SPLITS:
      raise DataError(
        f"{listed.file}, line {line}: the split is {split!r}: give train or test"
      )
    listed.splits.append(split)


def _by_split(listed: _Listed) -> tuple[_Listed, _Listed | None]:
  """Returns the training and the test images; None if there are no test images."""
  train = []
  test = []
  names = set()
  for row, split in enumerate(listed.splits):
    if split == _TRAIN:
      train.append(row)
    else:
      test.append(row)
      names.add(split)
  if len(names) > 1:
    raise DataError(
      f"{listed.file} has the splits {' and '.join(sorted(names))}: keep one of them "
      "for the test"
    )
  if not train:
    raise DataError(f"{listed.file} has no image of the split 'train'")
  if not test:
    return listed.take(train), None
  return listed.take(train), listed.take(test)


# Labels.


def _is_number(label: str) -> bool:
  return label.isascii() and label.isdigit()


def _class_names(listed: _Listed) -> tuple[str, ...]:
  """Returns the names of the classes, sorted; none where labels are numbers."""
  names = set(listed.labels)
  if all(_is_number(name) for name in names):
    return ()
  return tuple(sorted(names))


def _count(listed: _Listed) -> int:
  """Returns the largest label plus one."""
  largest = max(int(label[:10]) for label in listed.labels)
  return min(largest, _MAX_LABEL) + 1


def _part(listed: _Listed, class_names: tuple[str, ...]) -> Part:
  """Returns the examples, their labels as numbers."""
  number = {name: label for label, name in enumerate(class_names)}
  labels = np.zeros(len(listed.labels), np.int64)
  for row, text in enumerate(listed.labels):
    if class_names:
      label = number.get(text)
    else:
      label = _as_number(text)
    if label is None:
      raise DataError(
        f"{listed.file}, line {listed.lines[row]}: {text!r} is no class of the "
        "training images: fix the label, or add training images"
      )
    labels[row] = label
  return Part(
    source=Files(listed.file.parent, listed.names),
    rows=np.arange(len(labels)),
    label=labels,
  )


def _as_number(text: str) -> int | None:
  """Returns a label; None for what is none, or too large for one."""
  if not _is_number(text) or len(text) > len(str(_MAX_LABEL)):
    return None
  return int(text)


def _held_out(every: Part, fraction: float, seed: int, file: Path) -> tuple[Part, Part]:
  """Returns the training and the test part."""
  drawn = draw_test_rows(every.label, fraction, seed)
  if not drawn.any():
    raise DataError(
      f"{file}: every class has a single image: add others, or test images"
    )

  def part(rows: np.ndarray) -> Part:
    return every._replace(rows=rows, label=every.label[rows])

  return part(np.flatnonzero(~drawn)), part(np.flatnonzero(drawn))
