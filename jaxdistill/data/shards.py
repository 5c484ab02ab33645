"""Prepared directories: images in ArrayRecord shards, and the index of what is in them.

    DIR/train-00000-of-00016.array_record   a record for each image, as JPEG or PNG
    DIR/table.npz                           label, height, width, bytes, name of each
    DIR/index.json                          everything else, with sizes and hashes

`python -m jaxdistill prepare` writes them, the index last: a directory without one is
not complete.
"""

from collections.abc import Mapping, Sequence
import functools
import hashlib
import json
import math
import os
from pathlib import Path
import re
import threading
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.foreign import UnusableFile, open_file, read_json
from jaxdistill.data._dataset import Channels
from jaxdistill.data._npz import read_arrays
from jaxdistill.errors import DataError, reason

VERSION = 1
"""Of the format; raised when a later version could misread an earlier one's files."""

INDEX = "index.json"
TABLE = "table.npz"
SPLITS = ("train", "test")

_AGAIN = "prepare it again, into an empty directory"

# A line for each shard, class and skipped image.
_MAX_INDEX_BYTES = 2**28

_COLUMNS = {"label": "i4", "height": "i4", "width": "i4", "bytes": "i8"}

# Twice that of ImageNet's 21,000 classes is far from it.
_MAX_CLASSES = 2**24
_MAX_RECORDS = 2**31 - 1
_MAX_SHARDS = 100_000

_HASH = re.compile(r"[0-9a-f]{64}")


class Shard(NamedTuple):
  """A file of a split.

  Attributes:
    path: of the file.
    records: their number.
    size: in bytes.
    sha256: of its content.
  """

  path: Path
  records: int
  size: int
  sha256: str


class Table(NamedTuple):
  """What is known of the images of a split, in the order of the records.

  Attributes:
    label: int32[N].
    height: int32[N] in pixels, as stored.
    width: int32[N].
    size: i64[N] bytes of each record.
    names: path of each image below the source, with a NUL byte after each.
  """

  label: np.ndarray
  height: np.ndarray
  width: np.ndarray
  size: np.ndarray
  names: bytes


class PreparedSplit(NamedTuple):
  """A split of a prepared directory.

  Attributes:
    shards: its files, in their order.
    table: what is known of its images.
  """

  shards: tuple[Shard, ...]
  table: Table


class Index(NamedTuple):
  """A prepared directory, as its index describes it.

  Attributes:
    root: the directory.
    class_names: in the order of the labels.
    mean: per-channel mean of the stored training pixels, in [0, 1].
    std: per-channel standard deviation.
    plan: what was prepared, and how: the settings, and a digest of the source.
    skipped: (name, reason) of the images that were left out.
    splits: "train" and "test".
    digest: of all of it, the images' content among it.
  """

  root: Path
  class_names: tuple[str, ...]
  mean: Channels
  std: Channels
  plan: Mapping[str, Any]
  skipped: Sequence[Sequence[str]]
  splits: Mapping[str, PreparedSplit]
  digest: str


def shard_name(split: str, number: int, count: int) -> str:
  """Returns the file name of a shard."""
  return f"{split}-{number:05d}-of-{count:05d}.array_record"


def with_hash(contents: Any) -> dict[str, Any]:
  """Returns JSON values together with a hash of them."""
  # As they will be read: tuples are lists, keys are strings.
  contents = json.loads(json.dumps(contents))
  return {"contents": contents, "sha256": _hash_contents(contents)}


def _hash_contents(contents: Any) -> str:
  return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def hash_file(path: Path) -> str:
  """Returns the SHA-256 of a file.

  Raises:
    OSError: if it cannot be read.
  """
  with open_file(path) as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_with_hash(path: Path) -> dict[str, Any]:
  """Reads what `with_hash` made.

  Raises:
    OSError: if the file is missing, or no regular file.
    ValueError: if it is not as it was written.
  """
  record = read_json(path, _MAX_INDEX_BYTES)
  if not isinstance(record, dict) or record.keys() != {"contents", "sha256"}:
    raise ValueError("it is not of the form that this version writes")
  contents = record["contents"]
  if not isinstance(contents, dict) or _hash_contents(contents) != record["sha256"]:
    raise ValueError("it has changed since it was written")
  return contents


# Reading the index.


def read_index(root: Path, verify: bool = False) -> Index:
  """Reads the index of a prepared directory, and compares the files with it.

  Args:
    root: the directory.
    verify: read every shard, and compare its hash; otherwise only its size and the
      number of its records are compared.

  Raises:
    DataError: naming the file that is missing or damaged.
  """
  path = root / INDEX
  try:
    contents = read_with_hash(path)
  except FileNotFoundError as error:
    raise DataError(
      f"{path}: there is no such file: set data.dir to what `python -m jaxdistill "
      "prepare` has written, or run that again until it is done"
    ) from error
  except (OSError, ValueError) as error:
    raise _damaged(path, reason(error)) from error
  # A hash says that it is whole, not that this package wrote it.
  try:
    index = _parsed(root, contents)
  except DataError:
    raise
  except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
    raise _damaged(path, f"it is not of the form of version {VERSION}") from error
  for split in index.splits.values():
    for shard in split.shards:
      _check_shard(shard, verify)
  return index


def _damaged(path: Path, what: str) -> DataError:
  return DataError(f"{path} cannot be used: {what}: {_AGAIN}")


def _parsed(root: Path, contents: dict[str, Any]) -> Index:
  """Returns the index that a table describes, and checks the table of the images.

  Raises:
    DataError: for another version, and for what does not fit together.
    KeyError, TypeError, ValueError, AttributeError: for a table of another form.
  """
  path = root / INDEX
  if contents["version"] != VERSION:
    raise _damaged(path, f"it has version {contents['version']}, this reads {VERSION}")
  names = contents["classes"]
  if not 0 < len(names) <= _MAX_CLASSES or len(set(names)) != len(names):
    raise _damaged(path, "its class names are none, or not distinct")
  table = _read_table(root, contents["table"])
  splits = {}
  for split in SPLITS:
    shards = _parsed_shards(root, split, contents["splits"][split])
    records = sum(shard.records for shard in shards)
    splits[split] = PreparedSplit(
      shards=shards,
      table=_checked_table(root, split, table, records=records, classes=len(names)),
    )
  skipped = [(str(name), str(why)) for name, why in contents["skipped"]]
  return Index(
    root=root,
    class_names=tuple(names),
    mean=_channels(contents["mean"]),
    std=_channels(contents["std"]),
    plan=dict(contents["plan"]),
    skipped=skipped,
    splits=splits,
    digest=_hash_contents(contents),
  )


def _channels(values: Any) -> Channels:
  """Returns three finite numbers; raises ValueError for anything else."""
  red, green, blue = [float(value) for value in values]
  if not math.isfinite(red + green + blue):
    raise ValueError("not finite")
  return red, green, blue


def _natural(value: Any, largest: int) -> int:
  """Returns a whole number from 0; raises ValueError for anything else."""
  if type(value) is not int or not 0 <= value <= largest:
    raise ValueError("no natural number")
  return value


def _parsed_shards(root: Path, split: str, rows: Any) -> tuple[Shard, ...]:
  """Returns the shards that a list describes."""
  path = root / INDEX
  if not isinstance(rows, list) or not 0 < len(rows) <= _MAX_SHARDS:
    raise _damaged(path, f"it has no list of the shards of {split}")
  shards = []
  for number, row in enumerate(rows):
    # Another name could lead anywhere.
    if row["file"] != shard_name(split, number, len(rows)):
      raise _damaged(path, f"shard {number} of {split} has the name {row['file']!r}")
    if not _HASH.fullmatch(row["sha256"]):
      raise _damaged(path, f"shard {number} of {split} has no hash")
    shard = Shard(
      path=root / row["file"],
      records=_natural(row["records"], _MAX_RECORDS),
      size=_natural(row["bytes"], 2**62),
      sha256=row["sha256"],
    )
    shards.append(shard)
  return tuple(shards)


def _read_table(root: Path, described: dict[str, Any]) -> dict[str, np.ndarray]:
  """Reads the arrays of all splits."""
  path = root / TABLE
  size = _natural(described["bytes"], 2**40)
  try:
    with open_file(path, size) as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise _damaged(path, reason(error)) from error
  if digest != described["sha256"]:
    raise _damaged(path, "it is not as it was written")
  keys = []
  for split in SPLITS:
    keys += [f"{split}_{column}" for column in (*_COLUMNS, "names")]
  return read_arrays(path, keys)


def _checked_table(
  root: Path, split: str, arrays: dict[str, np.ndarray], records: int, classes: int
) -> Table:
  """Returns the table of one split, after comparing it with the index."""
  path = root / TABLE
  columns = {}
  for column, dtype in _COLUMNS.items():
    values = arrays[f"{split}_{column}"]
    if values.dtype != dtype or values.shape != (records,):
      raise _damaged(
        path,
        f"{column} of {split} is {values.dtype}{list(values.shape)}, the index "
        f"declares {records} records",
      )
    if np.any(values < 0):
      raise _damaged(path, f"{column} of {split} is negative somewhere")
    columns[column] = values
  label = columns["label"]
  names = arrays[f"{split}_names"].tobytes()
  if names.count(b"\0") != records:
    raise _damaged(path, f"it has not one name for each record of {split}")
  if not records:
    raise _damaged(path, f"there are no images in {split}")
  wrong = np.flatnonzero(label >= classes)
  if wrong.size:
    row = int(wrong[0])
    raise _damaged(
      path,
      f"label {label[row]} of {split} example {row} is outside 0..{classes - 1}",
    )
  return Table(
    label=label,
    height=columns["height"],
    width=columns["width"],
    size=columns["bytes"],
    names=names,
  )


def _check_shard(shard: Shard, verify: bool) -> None:
  """Raises DataError unless a shard is as the index describes it."""
  try:
    with open_file(shard.path) as file:
      size = os.fstat(file.fileno()).st_size
      digest = shard.sha256
      if size == shard.size and verify:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise _damaged(shard.path, reason(error)) from error
  if size != shard.size:
    raise _damaged(shard.path, f"it has {size} bytes, the index declares {shard.size}")
  if digest != shard.sha256:
    raise _damaged(shard.path, "its content is not what was written (SHA-256)")
  try:
    open_shard(shard).close()
  # array_record documents no type for a damaged file.
  except RuntimeError as error:
    raise _damaged(shard.path, reason(error)) from error


# Reading the records.


class Records:
  """The encoded images of a split, by their row; any thread may read."""

  def __init__(self, index: Index, split: str):
    """Opens nothing yet.

    Args:
      index: of the directory.
      split: "train" or "test".
    """
    self._split = split
    self._shards = index.splits[split].shards
    self._table = index.splits[split].table
    lengths = [shard.records for shard in self._shards]
    self._starts = np.concatenate([[0], np.cumsum(lengths)])
    self._readers: dict[int, Any] = {}
    self._lock = threading.Lock()
    self.digest = index.digest

  def __len__(self) -> int:
    """Returns the number of images."""
    return len(self._table.label)

  @functools.cached_property
  def _names(self) -> list[bytes]:
    return self._table.names.split(b"\0")

  def name(self, row: int) -> str:
    """Returns what errors call an image: its shard, and its name in the source."""
    number, place = self._locate(row)
    original = os.fsdecode(self._names[row])
    return f"{self._shards[number].path} record {place} ({original})"

  def _locate(self, row: int) -> tuple[int, int]:
    """Returns the number of the shard of a row, and its place in it."""
    if not 0 <= row < len(self):
      raise IndexError(f"there is no row {row} in {self._split}")
    number = int(np.searchsorted(self._starts, row, side="right")) - 1
    return number, int(row - self._starts[number])

  def read(self, rows: Sequence[int]) -> list[bytes]:
    """Returns encoded images, in the order of their rows.

    Raises:
      OSError: if one of them cannot be read.
    """
    places: dict[int, list[int]] = {}
    positions: dict[int, list[int]] = {}
    for position, row in enumerate(rows):
      number, place = self._locate(int(row))
      places.setdefault(number, []).append(place)
      positions.setdefault(number, []).append(position)
    found = [b""] * len(rows)
    for number, wanted in places.items():
      records = self._read_shard(number, wanted)
      for position, record in zip(positions[number], records, strict=True):
        found[position] = record
    return found

  def _read_shard(self, number: int, places: list[int]) -> list[bytes]:
    try:
      return self._reader(number).read(places)
    # array_record documents no type for a damaged file.
    except (RuntimeError, ValueError, IndexError) as error:
      raise UnusableFile(f"the record is damaged: {reason(error)}") from error

  def _reader(self, number: int) -> Any:
    """Returns the reader of a shard, opened when it is first needed."""
    reader = self._readers.get(number)
    if reader is None:
      with self._lock:
        reader = self._readers.get(number)
        if reader is None:
          reader = open_shard(self._shards[number])
          self._readers[number] = reader
    return reader


def open_shard(shard: Shard) -> Any:
  """Returns an ArrayRecordReader.

  Raises:
    DataError: if array_record is not installed, or the file holds another number of
      records than the index declares.
    RuntimeError: if the file is damaged.
  """
  # An optional dependency.
  try:
    from array_record.python.array_record_module import ArrayRecordReader
  except ImportError as error:
    raise not_installed(shard.path, error) from error
  # Random access: what is read ahead would be thrown away.
  reader = ArrayRecordReader(
    str(shard.path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
  )
  records = reader.num_records()
  if records != shard.records:
    raise _damaged(
      shard.path, f"it holds {records} records, the index declares {shard.records}"
    )
  return reader


def not_installed(path: Path, error: ImportError) -> DataError:
  """Returns what is raised where a shard cannot be opened for want of array_record."""
  return DataError(
    f"{path} needs array_record ({reason(error)}): run pip install 'jaxdistill[tfds]'"
  )
