"""Images in the files of a prepared tensorflow_datasets directory, read by row.

A record is a tf.train.Example. Where its image and its label lie is read from the wire
format of protocol buffers: the image itself is skipped while the labels are collected.
"""

from collections.abc import Callable, Iterator, Sequence
import hashlib
import os
from pathlib import Path
import threading
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.foreign import UnusableFile, open_file
from jaxdistill.data._tfds import (
  CHECKSUM_BYTES,
  LENGTH_BYTES,
  Shard,
  masked,
  not_installed,
  number,
  require_count,
)
from jaxdistill.errors import DataError, reason

# Of a record that is read at once: an image, and what else is said of it.
_MAX_RECORD_BYTES = 2**27

# Most of what is looked at before an image lies together.
_WINDOW_BYTES = 512

# Records of ArrayRecord files that are read together while labels are collected.
_BLOCK = 64

# Numbers of the fields, in TensorFlow's example.proto and feature.proto.
_FEATURES = 1
_ENTRY = 1
_KEY = 1
_VALUE = 2
_BYTES_LIST = 1
_INT64_LIST = 3
_ITEM = 1

_VARINT = 0
_FIXED64 = 1
_DELIMITED = 2
_FIXED32 = 5

_LONGEST_VARINT = 10
_LONGEST_KEY = 1000

View = Callable[[int, int], bytes]
"""(position, count) -> so many bytes from there; fewer at the end."""


class _Example(NamedTuple):
  """What is needed of an example.

  Attributes:
    start: position of the encoded image.
    stop: after it.
    label: of the image.
  """

  start: int
  stop: int
  label: int


# The wire format.


def _locate(view: View, start: int, stop: int) -> _Example:
  """Finds image and label of the example between two positions.

  Raises:
    ValueError: if it has none, or is no example.
  """
  image = None
  label = None
  for features in _delimited(view, start, stop, _FEATURES):
    for entry in _delimited(view, *features, _ENTRY):
      key = b""
      for key_start, key_stop in _delimited(view, *entry, _KEY):
        key = view(key_start, min(key_stop - key_start, _LONGEST_KEY))
      for value in _delimited(view, *entry, _VALUE):
        if key == b"image":
          image = _only_bytes(view, *value)
        elif key == b"label":
          label = _only_integer(view, *value)
  if image is None or label is None:
    raise ValueError("it has no image and label")
  return _Example(*image, label=label)


def _only_bytes(view: View, start: int, stop: int) -> tuple[int, int]:
  """Returns where the one item of a list of bytes lies."""
  items = []
  for found in _delimited(view, start, stop, _BYTES_LIST):
    items += _delimited(view, *found, _ITEM)
  if len(items) != 1:
    raise ValueError("its feature 'image' is not one text of bytes")
  return items[0]


def _only_integer(view: View, start: int, stop: int) -> int:
  """Returns the one item of a list of integers, packed or not."""
  values = []
  for found in _delimited(view, start, stop, _INT64_LIST):
    for field in _fields(view, *found):
      # A varint begins at `start` either way.
      value, _ = _varint(view, field.start, field.stop)
      values.append(value)
  if len(values) != 1 or values[0] >= 2**31:
    raise ValueError("its feature 'label' is not one number of a class")
  return values[0]


class _Field(NamedTuple):
  """A field of a message.

  Attributes:
    number: of the field.
    kind: of its value, which lies from `start` to `stop`.
    start: position of the value.
    stop: after it.
  """

  number: int
  kind: int
  start: int
  stop: int


def _delimited(
  view: View, start: int, stop: int, number: int
) -> Iterator[tuple[int, int]]:
  """Yields where the values of a field lie that are messages, texts or lists."""
  for field in _fields(view, start, stop):
    if field.number == number and field.kind == _DELIMITED:
      yield field.start, field.stop


def _fields(view: View, start: int, stop: int) -> Iterator[_Field]:
  """Yields the fields of the message between two positions."""
  while start < stop:
    tag, start = _varint(view, start, stop)
    kind = tag & 7
    end = start
    if kind == _VARINT:
      _, end = _varint(view, start, stop)
    elif kind == _FIXED64:
      end = start + 8
    elif kind == _FIXED32:
      end = start + 4
    elif kind == _DELIMITED:
      length, start = _varint(view, start, stop)
      end = start + length
    else:
      raise ValueError("it is no record of tensorflow_datasets")
    if end > stop:
      raise ValueError("it is cut off")
    yield _Field(number=tag >> 3, kind=kind, start=start, stop=end)
    start = end


def _varint(view: View, start: int, stop: int) -> tuple[int, int]:
  """Returns a number of variable length, and the position after it."""
  value = 0
  for place, byte in enumerate(view(start, min(_LONGEST_VARINT, stop - start))):
    value |= (byte & 127) << (7 * place)
    if byte < 128:
      return value, start + place + 1
  raise ValueError("it is cut off")


def _view_of(data: bytes) -> View:
  def view(position: int, count: int) -> bytes:
    return data[position : position + count]

  return view


class _Window:
  """Bytes of a file around the place that is looked at."""

  def __init__(self, descriptor: int):
    self._descriptor = descriptor
    self._start = 0
    self._content = b""

  def __call__(self, position: int, count: int) -> bytes:
    """Returns so many bytes from a position; fewer at the end of the file."""
    offset = position - self._start
    if offset < 0 or offset + count > len(self._content):
      size = max(count, _WINDOW_BYTES)
      self._content = os.pread(self._descriptor, size, position)
      self._start = position
      offset = 0
    return self._content[offset : offset + count]


# The files.


class _Frame(NamedTuple):
  """A record of a TFRecord file.

  Attributes:
    start: position of its data in the file.
    length: of its data; a checksum follows.
    image: position of the encoded image in the data.
    image_length: of the image.
    label: of the image.
  """

  start: int
  length: int
  image: int
  image_length: int
  label: int


class _Records:
  """The rows of several files, one after the other."""

  def __init__(self, shards: Sequence[Shard]):
    self._paths = [shard.path for shard in shards]
    counts = [shard.num_examples for shard in shards]
    self._ends = np.cumsum(np.array(counts, np.int64))

  @property
  def digest(self) -> str:
    """A hash of the files' names and sizes."""
    told = []
    for path, end in zip(self._paths, self._ends, strict=True):
      told.append(f"{path.name} {os.path.getsize(path)} {end}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()

  def __len__(self) -> int:
    """Returns the number of records."""
    return int(self._ends[-1])

  def _place(self, row: int) -> tuple[int, int]:
    """Returns the number of the file, and that of the record in it."""
    shard = int(np.searchsorted(self._ends, row, side="right"))
    first = int(self._ends[shard - 1]) if shard else 0
    return shard, row - first

  def name(self, row: int) -> str:
    """Returns the file, and the number of the record in it."""
    shard, record = self._place(row)
    return f"{self._paths[shard]} record {record}"


class TfRecords(_Records):
  """Images in TFRecord files; a source of `TfReader`.

  Attributes:
    labels: i32[N] of the images.
  """

  def __init__(self, shards: Sequence[Shard]):
    """Walks over all files once, for the labels and the places of the images.

    Raises:
      DataError: if google-crc32c is not installed, or a file is damaged.
    """
    super().__init__(shards)
    # An optional dependency.
    try:
      import google_crc32c
    except ImportError as error:
      raise not_installed("google-crc32c", self._paths[0], error) from error
    self._checksum = google_crc32c.value
    frames: list[_Frame] = []
    for shard in shards:
      frames += self._frames(shard)
    self._frames_of_rows = np.array(frames, np.int64)
    self.labels = self._frames_of_rows[:, -1].astype(np.int32)

  def _frames(self, shard: Shard) -> list[_Frame]:
    frames: list[_Frame] = []
    try:
      with open_file(shard.path) as file:
        size = os.fstat(file.fileno()).st_size
        view = _Window(file.fileno())
        position = 0
        while position < size:
          frame = self._frame(view, position, size)
          frames.append(frame)
          position = frame.start + frame.length + CHECKSUM_BYTES
    except (OSError, ValueError) as error:
      raise DataError(
        f"{shard.path} cannot be read in record {len(frames)} ({reason(error)}): "
        "prepare it again"
      ) from error
    require_count(shard, len(frames))
    return frames

  def _frame(self, view: View, position: int, size: int) -> _Frame:
    """Reads what lies before the data of a record, and where its image lies."""
    start = position + LENGTH_BYTES + CHECKSUM_BYTES
    head = view(position, LENGTH_BYTES + CHECKSUM_BYTES)
    length = number(head[:LENGTH_BYTES])
    if start + length + CHECKSUM_BYTES > size:
      raise UnusableFile("it is damaged or cut off")
    if masked(self._checksum(head[:LENGTH_BYTES])) != number(head[LENGTH_BYTES:]):
      raise UnusableFile("its length has a wrong checksum")
    example = _locate(view, start, start + length)
    return _Frame(
      start=start,
      length=length,
      image=example.start - start,
      image_length=example.stop - example.start,
      label=example.label,
    )

  def read(self, rows: Sequence[int]) -> list[bytes]:
    """Returns encoded images; raises OSError for a wrong checksum."""
    return [self._read(row) for row in rows]

  def _read(self, row: int) -> bytes:
    shard, _ = self._place(row)
    frame = _Frame(*self._frames_of_rows[row].tolist())
    if frame.length > _MAX_RECORD_BYTES:
      raise UnusableFile(f"it has {frame.length} bytes, more than {_MAX_RECORD_BYTES}")
    with open_file(self._paths[shard]) as file:
      size = frame.length + CHECKSUM_BYTES
      content = os.pread(file.fileno(), size, frame.start)
    data = content[: frame.length]
    if masked(self._checksum(data)) != number(content[frame.length :]):
      raise UnusableFile("it has a wrong checksum")
    return data[frame.image : frame.image + frame.image_length]


class ArrayRecords(_Records):
  """Images in ArrayRecord files, which have checksums; a source of `TfReader`.

  Attributes:
    labels: i32[N] of the images.
  """

  def __init__(self, shards: Sequence[Shard]):
    """Reads all files once, for the labels.

    Raises:
      DataError: if array_record is not installed, or a file is damaged.
    """
    super().__init__(shards)
    # An optional dependency.
    try:
      from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
      raise not_installed("array_record", self._paths[0], error) from error
    self._open_reader = ArrayRecordReader
    self._readers: dict[int, Any] = {}
    self._lock = threading.Lock()
    labels: list[int] = []
    for index, shard in enumerate(shards):
      labels += self._labels(index, shard)
    self.labels = np.array(labels, np.int32)

  def _labels(self, index: int, shard: Shard) -> list[int]:
    labels = []
    try:
      reader = self._reader(index)
      require_count(shard, reader.num_records())
      for start in range(0, shard.num_examples, _BLOCK):
        stop = min(start + _BLOCK, shard.num_examples)
        for data in reader.read(start, stop):
          labels.append(_locate(_view_of(data), 0, len(data)).label)
    except DataError:
      raise
    # array_record documents no type for a damaged file.
    except Exception as error:
      raise DataError(
        f"{shard.path} cannot be read ({reason(error)}): prepare it again"
      ) from error
    return labels

  def _reader(self, index: int) -> Any:
    """Returns what reads a file; opening it takes long, so that it stays open."""
    with self._lock:
      if index not in self._readers:
        path: Path = self._paths[index]
        # It opens the file itself, whatever that is.
        open_file(path).close()
        # Rows are read in any order: what follows one is of no use.
        self._readers[index] = self._open_reader(str(path), "readahead_buffer_size:0")
      return self._readers[index]

  def read(self, rows: Sequence[int]) -> list[bytes]:
    """Returns encoded images; raises OSError if a record is damaged."""
    places = [self._place(row) for row in rows]
    records: dict[int, list[int]] = {}
    for shard, record in places:
      records.setdefault(shard, []).append(record)
    contents = {}
    try:
      for shard, wanted in records.items():
        read = self._reader(shard).read(wanted)
        for record, data in zip(wanted, read, strict=True):
          example = _locate(_view_of(data), 0, len(data))
          contents[shard, record] = data[example.start : example.stop]
    except OSError:
      raise
    # array_record documents no type for a damaged file.
    except Exception as error:
      raise UnusableFile(reason(error)) from error
    return [contents[place] for place in places]
