"""Reads prepared tensorflow_datasets directories without TensorFlow.

tensorflow_datasets itself never sees the directory: it would import whatever module the
directory's features.json names, and open the files that its dataset_info.json names.
Here both are read as tables, and only what this package knows is taken from them.
"""

import io
from pathlib import Path
import re
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxdistill.core.foreign import open_file, read_file, read_json
from jaxdistill.errors import DataError, reason

# Those of the largest data sets have 100,000.
_MAX_TABLE_BYTES = 2**24

# CIFAR's largest file has 150 MB.
_MAX_SHARD_BYTES = 2**29

# An example with a small image takes about 3 kB; a frame that claims far more is
# damaged.
_MAX_RECORD_BYTES = 2**16

# A frame of a TFRecord file is the length of the data, its checksum, the data, its
# checksum.
LENGTH_BYTES = 8
CHECKSUM_BYTES = 4

_FEATURES = "tensorflow_datasets.core.features"
_TABLE = f"{_FEATURES}.features_dict.FeaturesDict"
_IMAGE = f"{_FEATURES}.image_feature.Image"
_LABEL = f"{_FEATURES}.class_label_feature.ClassLabel"
_TEXT = f"{_FEATURES}.text_feature.Text"
# What data sets of classified images consist of.
_CLASSES = frozenset(
  (
    _TABLE,
    _IMAGE,
    _LABEL,
    _TEXT,
    f"{_FEATURES}.tensor_feature.Tensor",
    f"{_FEATURES}.scalar.Scalar",
    f"{_FEATURES}.bounding_boxes.BBoxFeature",
    f"{_FEATURES}.labeled_image.LabeledImage",
    f"{_FEATURES}.sequence_feature.Sequence",
  )
)
_NEEDED = {"image": _IMAGE, "label": _LABEL}

PREPARED_NAMES = "label.labels.txt"
"""Names of the classes, where tensorflow_datasets knew them; one a line."""

# A number of its own for each of them has to fit into a network.
_MAX_CLASSES = 2**24

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class Shard(NamedTuple):
  """A file of a split.

  Attributes:
    path: of the file.
    num_examples: that it is said to hold.
  """

  path: Path
  num_examples: int


class PreparedSplit(NamedTuple):
  """A split, as dataset_info.json describes it.

  Attributes:
    file_format: "array_record" or "tfrecord".
    shards: its files, in their order.
  """

  file_format: str
  shards: list[Shard]


def read_tfds_split(
  folder: Path, split: str, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Reads `image` and `label` of a prepared tensorflow_datasets directory.

  Args:
    folder: the directory of one version, with dataset_info.json.
    split: its name, such as "train" or "test".
    shape: (H, W, 3) that every image must have.

  Returns:
    (images uint8[N, H, W, 3], labels [N]), in the order of the feature `id` where there
    is one: preparing shuffles, and `id` remembers the row in the original files.

  Raises:
    DataError: if tensorflow_datasets, array_record or google-crc32c is not installed,
      or the directory is damaged or names anything that this reader does not know.
  """
  has_id = _check_features(folder / "features.json")
  info = read_split_info(folder / "dataset_info.json", split)
  records = []
  for shard in info.shards:
    records += _read_shard(shard, info.file_format)
  try:
    examples = _parsed(records, has_id, folder)
    examples.sort(key=lambda example: example.get("id", b""))
    labels = np.array([example["label"] for example in examples])
    encoded = [example["image"] for example in examples]
  except DataError:
    raise
  # tfds and protobuf document no common type for a damaged record.
  except Exception as error:
    raise DataError(
      f"{folder}: {split} cannot be read ({reason(error)}): prepare it again"
    ) from error

  images = np.empty((len(encoded), *shape), np.uint8)
  for row, data in enumerate(encoded):
    images[row] = _decoded(data, shape, f"{folder} {split} example {row}")
  return images, labels


class Classes(NamedTuple):
  """The classes of the feature `label`.

  Attributes:
    count: C.
    names: in the order of the labels; empty where they are not known.
  """

  count: int
  names: tuple[str, ...]


def read_classes(folder: Path) -> Classes:
  """Reads what a prepared directory says of its classes.

  Args:
    folder: the directory of one version, with features.json.

  Raises:
    DataError: if it says nothing, or names anything that this reader does not know.
  """
  path = folder / "features.json"
  _check_features(path)
  details = _features(path)["label"].get("classLabel")
  count = details.get("numClasses") if isinstance(details, dict) else None
  if not re.fullmatch(r"[0-9]{1,8}", str(count)) or int(str(count)) > _MAX_CLASSES:
    raise _unknown(path, f"{count!r} is no number of classes")

  names: tuple[str, ...] = ()
  listed = folder / PREPARED_NAMES
  if listed.exists():
    try:
      text = read_file(listed, _MAX_TABLE_BYTES).decode()
    except (OSError, ValueError) as error:
      raise DataError(
        f"{listed} cannot be read ({reason(error)}): prepare the data set again"
      ) from error
    names = tuple(text.splitlines())
  return Classes(count=int(str(count)), names=names)


# The directories.


def prepared_versions(folder: Path) -> list[Path]:
  """Returns the versions that tensorflow_datasets has prepared, the newest first."""

  def number(path: Path) -> list[int]:
    return [int(part) for part in path.name.split(".")]

  versions = []
  try:
    prepared = list(folder.glob("*/dataset_info.json"))
  # A folder that nobody can look into holds nothing.
  except (OSError, ValueError):
    return []
  for info in prepared:
    # Folders of an interrupted preparation have other names.
    if re.fullmatch(r"\d+(\.\d+)*", info.parent.name):
      versions.append(info.parent)
  return sorted(versions, key=number, reverse=True)


def not_installed(package: str, path: Path, error: ImportError) -> DataError:
  """Returns what is raised where an optional package is missing."""
  return DataError(
    f"{path} needs {package} ({reason(error)}): run pip install 'jaxdistill[tfds]', "
    "or use the original archive"
  )


# The tables.


def _read_table(path: Path) -> dict[str, Any]:
  """Reads a JSON object."""
  try:
    table = read_json(path, _MAX_TABLE_BYTES)
  except (OSError, ValueError) as error:
    raise DataError(
      f"{path} cannot be read ({reason(error)}): prepare the data set again"
    ) from error
  if not isinstance(table, dict):
    raise _unknown(path, "it is no table")
  return table


def _unknown(path: Path, what: str) -> DataError:
  """Returns what is raised for a table that says what this reader does not know."""
  return DataError(
    f"{path}: {what}: prepare the data set again, or use the original archive"
  )


def _check_features(path: Path) -> bool:
  """Checks the classes of all features.

  Args:
    path: features.json.

  Returns:
    Whether there is a feature `id`.

  Raises:
    DataError: for a class from elsewhere, whose module might run anything, or without
      the features that are needed.
  """
  content = _features(path)
  for feature in content.values():
    _require_class(path, feature)
  for name, wanted in _NEEDED.items():
    if name not in content:
      raise _unknown(path, f"it has no feature {name!r}")
    _require_class(path, content[name], wanted)
  if "id" in content:
    _require_class(path, content["id"], _TEXT)
  return "id" in content


def _features(path: Path) -> dict[str, Any]:
  """Returns name -> feature, of features.json."""
  table = _read_table(path)
  _require_class(path, table, _TABLE)
  # Before version 4.5, tensorflow_datasets called them otherwise.
  content = table.get("featuresDict", table.get("content"))
  if isinstance(content, dict):
    content = content.get("features", content)
  if not isinstance(content, dict):
    raise _unknown(path, "it has no features")
  return content


def _require_class(path: Path, feature: Any, wanted: str = "") -> None:
  """Raises DataError for another class than is wanted, or than is known."""
  name = None
  if isinstance(feature, dict):
    name = feature.get("pythonClassName", feature.get("type"))
  if not isinstance(name, str):
    raise _unknown(path, "a feature of it has no class")
  if name not in _CLASSES:
    raise _unknown(
      path,
      f"the class {name!r} is none of tensorflow_datasets' for images and labels, and "
      "was not imported",
    )
  if wanted and name != wanted:
    raise _unknown(path, f"{name.split('.')[-1]} in place of {wanted.split('.')[-1]}")


def read_split_info(path: Path, name: str) -> PreparedSplit:
  """Reads which files a split consists of.

  Args:
    path: dataset_info.json.
    name: of the split.
  """
  table = _read_table(path)
  file_format = table.get("fileFormat", "tfrecord")
  if file_format not in ("array_record", "tfrecord"):
    raise _unknown(path, f"the format {file_format!r} is not read here")
  dataset = table.get("name")
  if not isinstance(dataset, str) or not re.fullmatch(r"[A-Za-z0-9_]{1,100}", dataset):
    raise _unknown(path, f"{dataset!r} is no name of a data set")

  split = _named_split(path, table.get("splits"), name)
  # The files could be anywhere else.
  template = split.get("filepathTemplate") or _TEMPLATE
  if template != _TEMPLATE:
    raise _unknown(path, f"its files are named by {template!r}, not {_TEMPLATE!r}")
  lengths = _lengths(path, split.get("shardLengths"))
  shards = []
  for number, length in enumerate(lengths):
    file = f"{dataset}-{name}.{file_format}-{number:05d}-of-{len(lengths):05d}"
    shards.append(Shard(path=path.with_name(file), num_examples=length))
  return PreparedSplit(file_format=file_format, shards=shards)


def _named_split(path: Path, splits: Any, name: str) -> dict[str, Any]:
  """Returns what is said of one split."""
  if isinstance(splits, list):
    for split in splits:
      if isinstance(split, dict) and split.get("name") == name:
        return split
  raise _unknown(path, f"it has no split {name!r}")


def _lengths(path: Path, listed: Any) -> list[int]:
  """Returns how many examples each file holds; JSON has 64-bit integers as text."""
  if not isinstance(listed, list) or not 0 < len(listed) < 100_000:
    raise _unknown(path, "it has no list of shardLengths")
  lengths = []
  for length in listed:
    if not re.fullmatch(r"[0-9]{1,9}", str(length)):
      raise _unknown(path, f"{str(length)!r} in shardLengths is no number of examples")
    lengths.append(int(length))
  return lengths


# The examples.


def _read_shard(shard: Shard, file_format: str) -> list[bytes]:
  """Reads the records of a file, and checks their number."""
  path = shard.path
  try:
    if file_format == "array_record":
      return _array_records(shard)
    records = _tfrecords(path)
  except DataError:
    raise
  # array_record documents no type for a damaged file.
  except Exception as error:
    raise DataError(
      f"{path} cannot be read ({reason(error)}): prepare it again"
    ) from error
  require_count(shard, len(records))
  return records


def require_count(shard: Shard, count: int) -> None:
  """Raises DataError unless a file holds as many records as it is said to."""
  if count != shard.num_examples:
    raise DataError(
      f"{shard.path} holds {count} examples, but dataset_info.json declares "
      f"{shard.num_examples}: prepare it again"
    )


def _array_records(shard: Shard) -> list[bytes]:
  """Reads an ArrayRecord file, which has checksums of its own."""
  # An optional dependency, and one that no other format needs.
  try:
    from array_record.python.array_record_module import ArrayRecordReader
  except ImportError as error:
    raise not_installed("array_record", shard.path, error) from error

  # It opens the file itself, whatever that is.
  open_file(shard.path, _MAX_SHARD_BYTES).close()
  reader = ArrayRecordReader(str(shard.path))
  try:
    require_count(shard, reader.num_records())
    return reader.read_all()
  finally:
    reader.close()


def _parsed(records: list[bytes], has_id: bool, folder: Path) -> list[Any]:
  """Returns the examples of records, images still encoded."""
  # It takes a second to import, and is an optional dependency.
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise not_installed("tensorflow_datasets", folder, error) from error

  features: dict[str, Any] = {
    "image": tfds.features.Image(),
    "label": tfds.features.ClassLabel(),
  }
  if has_id:
    features["id"] = tfds.features.Text()
  table = tfds.features.FeaturesDict(features)
  decoders = {"image": tfds.decode.SkipDecoding()}
  return [table.deserialize_example_np(record, decoders=decoders) for record in records]


def _tfrecords(path: Path) -> list[bytes]:
  """Reads a TFRecord file, and checks the checksum of each record."""
  # An optional dependency, and one that no other format needs.
  try:
    import google_crc32c
  except ImportError as error:
    raise not_installed("google-crc32c", path, error) from error

  content = read_file(path, _MAX_SHARD_BYTES)
  records = []
  position = 0
  while position < len(content):
    length = number(content[position : position + LENGTH_BYTES])
    start = position + LENGTH_BYTES + CHECKSUM_BYTES
    end = start + length
    position = end + CHECKSUM_BYTES
    if length > _MAX_RECORD_BYTES or position > len(content):
      raise DataError(
        f"{path} is damaged or cut off in record {len(records)}: prepare it again"
      )
    record = content[start:end]
    if masked(google_crc32c.value(record)) != number(content[end:position]):
      raise DataError(
        f"{path} has a wrong checksum in record {len(records)}: prepare it again"
      )
    records.append(record)
  return records


def number(data: bytes) -> int:
  return int.from_bytes(data, "little")


def masked(crc: int) -> int:
  """Returns a checksum as TFRecord files store it: rotated, with a constant added."""
  rotated = (crc >> 15) | (crc << 17)
  return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def _decoded(data: bytes, shape: tuple[int, int, int], where: str) -> np.ndarray:
  """Decodes an image, after comparing the size in its header with the shape."""
  height, width, _ = shape
  try:
    with Image.open(io.BytesIO(data)) as image:
      # Before decoding: a header may claim an image of gigabytes.
      if (image.height, image.width) != (height, width) or image.mode != "RGB":
        raise DataError(
          f"{where} is {image.height}x{image.width} of mode {image.mode}, not "
          f"{height}x{width} of mode RGB: prepare it again"
        )
      return np.asarray(image)
  except DataError:
    raise
  # Each of Pillow's decoders raises types of its own.
  except Exception as error:
    raise DataError(
      f"{where} cannot be decoded ({reason(error)}): prepare it again"
    ) from error
