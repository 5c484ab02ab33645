"""Reads prepared tensorflow_datasets directories without TensorFlow."""

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from jaxdistill.data._text import summary
from jaxdistill.errors import DataError

# An example with a small image takes about 3 kB; a frame that claims far more is
# damaged.
_MAX_RECORD_BYTES = 2**16

# A frame of a TFRecord file is the length of the data, its checksum, the data, its
# checksum.
_LENGTH_BYTES = 8
_CHECKSUM_BYTES = 4


def read_tfds_split(
  folder: Path, split: str, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Reads `image` and `label` of a prepared tensorflow_datasets directory.

  Args:
    folder: the directory of one version, with dataset_info.json.
    split: "train" or "test".
    shape: (H, W, 3) that every image must have.

  Returns:
    (images uint8[N, H, W, 3], labels [N]), in the order of the feature `id` where there
    is one: preparing shuffles, and `id` remembers the row in the original files.

  Raises:
    DataError: if tensorflow_datasets or google-crc32c is not installed, or the
      directory is damaged, naming the record.
  """
  # It takes a second to import, and is an optional dependency.
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise _not_installed("tensorflow_datasets", folder, error) from error

  try:
    examples = _examples(tfds, folder, split)
    examples.sort(key=lambda example: example.get("id", b""))
    labels = np.array([example["label"] for example in examples])
    encoded = [example["image"] for example in examples]
  except DataError:
    raise
  # tfds, protobuf and array_record document no common type for a damaged file.
  except Exception as error:
    raise DataError(
      f"{folder}: {split} cannot be read ({summary(error)}): prepare it again"
    ) from error

  images = np.empty((len(encoded), *shape), np.uint8)
  for row, data in enumerate(encoded):
    images[row] = _decoded(data, shape, f"{folder} {split} example {row}")
  return images, labels


def _not_installed(package: str, path: Path, error: ImportError) -> DataError:
  """Returns what is raised where an optional package is missing."""
  return DataError(
    f"{path} needs {package} ({summary(error)}): run pip install 'jaxdistill[tfds]', "
    "or use the original archive"
  )


def _examples(tfds: ModuleType, folder: Path, split: str) -> list[dict[str, Any]]:
  """Reads the examples of a split, images still encoded, and checks their number."""
  builder = tfds.builder_from_directory(folder)
  info = builder.info.splits[split]
  decoders = {"image": tfds.decode.SkipDecoding()}
  if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
    # tfds would read these by TensorFlow.
    examples = []
    features = builder.info.features
    for path in info.filepaths:
      for record in _tfrecords(Path(path)):
        examples.append(features.deserialize_example_np(record, decoders=decoders))
  else:
    source = builder.as_data_source(split=split, decoders=decoders)
    examples = source.__getitems__(range(len(source)))
  if len(examples) != info.num_examples:
    raise DataError(
      f"{folder} declares {info.num_examples} {split} examples, but holds "
      f"{len(examples)}: prepare it again"
    )
  return examples


def _tfrecords(path: Path) -> list[bytes]:
  """Reads a TFRecord file, and checks the checksum of each record."""
  # An optional dependency, and one that no other format needs.
  try:
    import google_crc32c
  except ImportError as error:
    raise _not_installed("google-crc32c", path, error) from error

  content = path.read_bytes()
  records = []
  position = 0
  while position < len(content):
    length = _number(content[position : position + _LENGTH_BYTES])
    start = position + _LENGTH_BYTES + _CHECKSUM_BYTES
    end = start + length
    position = end + _CHECKSUM_BYTES
    if length > _MAX_RECORD_BYTES or position > len(content):
      raise DataError(
        f"{path} is damaged or cut off in record {len(records)}: prepare it again"
      )
    record = content[start:end]
    if _masked(google_crc32c.value(record)) != _number(content[end:position]):
      raise DataError(
        f"{path} has a wrong checksum in record {len(records)}: prepare it again"
      )
    records.append(record)
  return records


def _number(data: bytes) -> int:
  return int.from_bytes(data, "little")


def _masked(crc: int) -> int:
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
      f"{where} cannot be decoded ({summary(error)}): prepare it again"
    ) from error
