"""Checks what makes a data set whose images are read when they are needed."""

from collections.abc import Iterator, Sequence
import re
from typing import NamedTuple

import numpy as np

from jaxdistill.data._dataset import (
  Channels,
  Dataset,
  Request,
  Streamed,
  channel_statistics,
  check_class_names,
)
from jaxdistill.data._decode import Reading, explain, size_of
from jaxdistill.data._pipeline import Faults, Source, TfReader
from jaxdistill.errors import DataError, reason, require, require_choice

# Of the photographs of ImageNet; what is trained on them serves others.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_SAMPLE = 2000
_SAMPLE_SEED = 0
_SAMPLE_BATCH = 50

_MAX_SIDE = 4096
_MAX_THREADS = 1024

# As in the papers: images of 224 pixels are the middle of 256.
_SHOWN = 224
_RESIZED = 256


class Options(NamedTuple):
  """How a data set is read: keys of every set of files.

  Attributes:
    size: of training images, such as "224" or "256x128" (height x width); empty for
      that of the stored images.
    crop: "random" or "centre", of training images.
    resize: shorter side of training images before a centre crop; 0 for the smaller side
      of `size`.
    test_size: of test images; empty for `size`.
    test_resize: shorter side of test images before their centre crop; 0 for the smaller
      side of `test_size` times 256/224.
    interpolation: "bilinear" or "bicubic".
    statistics: "sample" or "imagenet".
    on_error: "raise" or "skip".
    max_faulty: fraction of the examples that may be skipped.
    threads: that read and decode; 0 for one on each processor.
  """

  size: str = ""
  crop: str = "random"
  resize: int = 0
  test_size: str = ""
  test_resize: int = 0
  interpolation: str = "bilinear"
  statistics: str = "sample"
  on_error: str = "raise"
  max_faulty: float = 0.01
  threads: int = 0


class Part(NamedTuple):
  """Examples of a split.

  Attributes:
    source: of their encoded images, and perhaps of others.
    rows: i64[N] of the examples in the source.
    label: i32[N].
  """

  source: Source
  rows: np.ndarray
  label: np.ndarray


def check_options(options: Options) -> None:
  """Raises ConfigError unless the values of the keys fit each other.

  Data sets call it before they look for files.
  """
  require_choice(
    crop=(options.crop, ("random", "centre")),
    interpolation=(options.interpolation, ("bilinear", "bicubic")),
    statistics=(options.statistics, ("sample", "imagenet")),
    on_error=(options.on_error, ("raise", "skip")),
  )
  require(
    0 <= options.max_faulty <= 1,
    f"max_faulty must lie in 0..1, got {options.max_faulty}",
  )
  require(
    0 <= options.threads <= _MAX_THREADS,
    f"threads must lie in 0..{_MAX_THREADS}, got {options.threads}",
  )
  size = parse_size("size", options.size)
  test_size = parse_size("test_size", options.test_size) or size
  _check_resize("resize", options.resize, size)
  _check_resize("test_resize", options.test_resize, test_size)


def parse_size(key: str, value: str | int) -> tuple[int, int] | None:
  """Returns (height, width) of a key; None where it leaves images as they are stored.

  Raises:
    ConfigError: for what is no size.
  """
  text = str(value)
  if text in ("", "0"):
    return None
  found = re.fullmatch(r"([0-9]{1,4})(?:x([0-9]{1,4}))?", text)
  require(
    found is not None,
    f"{key} must be a number of pixels such as 224, or HEIGHTxWIDTH, got {text!r}",
  )
  assert found is not None
  height = int(found[1])
  width = int(found[2] or height)
  require(
    0 < min(height, width) and max(height, width) <= _MAX_SIDE,
    f"{key} must lie in 1..{_MAX_SIDE}, got {text!r}",
  )
  return height, width


def _check_resize(key: str, value: int, size: tuple[int, int] | None) -> None:
  smallest = min(size) if size else 0
  require(
    value == 0 or smallest <= value <= _MAX_SIDE,
    f"{key} must be 0, or from {smallest}, the size of the crop, to {_MAX_SIDE}, got "
    f"{value}",
  )


def checked_streamed(
  name: str,
  train: Part,
  test: Part,
  num_classes: int,
  options: Options,
  *,
  mean: Channels | None = None,
  std: Channels | None = None,
  where: str = "",
  class_names: Sequence[str] = (),
) -> Dataset:
  """Returns a data set of images that are read when they are needed.

  Args:
    name: what summaries call the data set.
    train: the training examples.
    test: the test examples.
    num_classes: C.
    options: how they are read.
    mean: per-channel mean in [0, 1].
    std: per-channel standard deviation in [0, 1]; where one of them is None, both are
      taken as `options.statistics` says.
    where: file or folder that they come from, for errors.
    class_names: names of the C classes, in the order of the labels; empty where they
      are not known.

  Raises:
    ConfigError: if the options do not fit each other.
    DataError: naming split, example or class and what to do.
  """
  check_options(options)
  source = f"{name} ({where})" if where else name
  check_class_names(source, class_names, num_classes)
  _check_labels(f"{source} train", train, num_classes)
  _check_labels(f"{source} test", test, num_classes)
  _require_every_class(source, train, num_classes, class_names)

  train_reading, test_reading = _readings(options, train)
  faults = Faults(on_error=options.on_error, fraction=options.max_faulty)
  # Of the rows that are none of this split's, none may stand in for one that is.
  labels = np.full(len(train.source), -1, np.int32)
  labels[train.rows] = train.label
  train_reader = TfReader(
    train.source,
    train_reading,
    labels=labels,
    faults=faults,
    threads=options.threads,
  )
  test_reader = TfReader(
    test.source, test_reading, faults=faults, threads=options.threads
  )
  if mean is None or std is None:
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if options.statistics == "sample":
      measured = train_reading
      if measured.varies:
        measured = measured._replace(crop="centre")
      mean, std = _sample_statistics(train_reader.for_evaluation(measured), train)
  return Dataset(
    name=name,
    train=_streamed(train, train_reader),
    test=_streamed(test, test_reader),
    num_classes=num_classes,
    mean=mean,
    std=std,
    class_names=tuple(class_names),
  )


def _streamed(part: Part, reader: TfReader) -> Streamed:
  reading = reader.reading
  return Streamed(
    label=part.label.astype(np.int32),
    rows=part.rows.astype(np.int64),
    shape=(reading.height, reading.width, 3),
    reader=reader,
    varies=reading.varies,
  )


def _check_labels(name: str, part: Part, num_classes: int) -> None:
  """Raises DataError for labels out of range, or if there are none."""
  if not len(part.label):
    raise DataError(f"{name}: there are no images in it")
  wrong = np.flatnonzero((part.label < 0) | (part.label >= num_classes))
  if wrong.size:
    example = int(wrong[0])
    raise DataError(
      f"{name}: label {part.label[example]} of "
      f"{part.source.name(int(part.rows[example]))} is outside 0..{num_classes - 1} "
      f"({wrong.size} such labels): fix the data or the number of classes"
    )


def _require_every_class(
  source: str, train: Part, num_classes: int, class_names: Sequence[str]
) -> None:
  """Raises DataError for a class without training examples."""
  counts = np.bincount(train.label, minlength=num_classes)
  empty = np.flatnonzero(counts == 0)
  if not empty.size:
    return
  label = int(empty[0])
  called = f" ({class_names[label]})" if class_names else ""
  raise DataError(
    f"{source}: class {label}{called} has no training image ({empty.size} such "
    "classes): remove it, or add some"
  )


# How they are read.


def _readings(options: Options, train: Part) -> tuple[Reading, Reading]:
  """Returns how training and test images are read."""
  size = parse_size("size", options.size)
  test_size = parse_size("test_size", options.test_size) or size
  stored = None
  if size is None or test_size is None:
    stored = _stored_size(train)

  if size is None:
    assert stored is not None
    train_reading = Reading(*stored, crop="none", interpolation=options.interpolation)
  else:
    train_reading = Reading(
      *size,
      crop=options.crop,
      resize=options.resize or min(size),
      interpolation=options.interpolation,
    )
  if test_size is None:
    assert stored is not None
    test_reading = Reading(*stored, crop="none", interpolation=options.interpolation)
  else:
    test_reading = Reading(
      *test_size,
      crop="centre",
      resize=options.test_resize or round(min(test_size) * _RESIZED / _SHOWN),
      interpolation=options.interpolation,
    )
  return train_reading, test_reading


def _stored_size(part: Part) -> tuple[int, int]:
  """Returns (height, width) of the first image, which that of all must be."""
  row = int(part.rows[0])
  try:
    (content,) = part.source.read([row])
  except OSError as error:
    raise DataError(
      f"{part.source.name(row)} cannot be read ({reason(error)}): replace it"
    ) from error
  # Each of Pillow's formats raises types of its own.
  try:
    return size_of(content)
  except Exception as error:
    raise DataError(
      f"{part.source.name(row)} cannot be read ({explain(content)}): replace it, or "
      "set data.size"
    ) from error


# Statistics.


def _sample_statistics(reader: TfReader, train: Part) -> tuple[Channels, Channels]:
  """Measures mean and standard deviation of some training images.

  Args:
    reader: of evaluation, which draws no crops.
    train: the training examples.

  Returns:
    Both of them, to four digits, so that machines whose last bits differ agree.
  """
  # numpy keeps the stream of RandomState frozen for ever.
  shuffled = np.random.RandomState(_SAMPLE_SEED).permutation(train.rows)
  # In the order of the files, which disks like.
  rows = np.sort(shuffled[:_SAMPLE])
  mean, std = channel_statistics(_intact_images(reader, rows))
  return _rounded(mean), _rounded(std)


def _intact_images(reader: TfReader, rows: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the images of some rows, a few at a time."""
  requests = []
  for start in range(0, len(rows), _SAMPLE_BATCH):
    index = rows[start : start + _SAMPLE_BATCH]
    requests.append(Request(index=index, draw=np.zeros_like(index)))
  for batch in reader.batches(requests):
    yield batch.image[batch.intact]


def _rounded(values: Channels) -> Channels:
  red, green, blue = values
  return round(red, 4), round(green, 4), round(blue, 4)
