"""Reads prepared tensorflow_datasets directories without TensorFlow."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdistill.data._text import summary
from jaxdistill.errors import DataError

# An example with a small image takes about 3 kB; a frame that claims far more is
# damaged.
_MAX_RECORD_BYTES = 2**16


def _crc32c(records: list[bytes]) -> np.ndarray:
  """Computes the Castagnoli checksum of many records at once, one byte position after the other."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
  lengths = np.array([len(record) for record in records])
  padded = np.zeros((lengths.max(), len(records)), np.uint8)
  for column, record in enumerate(records):
    padded[: len(record), column] = np.frombuffer(record, np.uint8)
  crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
  for position, byte in enumerate(padded):
    crc = np.where(position < lengths, table[(crc ^ byte) & 0xFF] ^ (crc >> 8), crc)
  return ~crc


def _tfrecords(path: Path) -> list[bytes]:
  """Reads a TFRecord file: each frame is length, its checksum, the data, its checksum."""
  content, at, records, sums = path.read_bytes(), 0, [], []
  while at < len(content):
    length = int.from_bytes(content[at : at + 8], "little")
    end = at + 12 + length
    if length > _MAX_RECORD_BYTES or end + 4 > len(content):
      raise DataError(
        f"{path} is damaged or cut off in record {len(records)}: prepare it again"
      )
    records.append(content[at + 12 : end])
    sums.append(int.from_bytes(content[end : end + 4], "little"))
    at = end + 4
  for start in range(0, len(records), 1000):
    crc = _crc32c(records[start : start + 1000])
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    wrong = np.flatnonzero(masked != np.array(sums[start : start + 1000], np.uint32))
    if wrong.size:
      raise DataError(
        f"{path} has a wrong checksum in record {start + wrong[0]}: prepare it again"
      )
  return records


def _tfds_examples(tfds, folder: Path, split: str) -> list[dict]:
  """Reads the examples of a prepared split, images still encoded, and checks their number."""
  builder = tfds.builder_from_directory(folder)
  info, decoders = builder.info.splits[split], {"image": tfds.decode.SkipDecoding()}
  if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
    examples = [
      builder.info.features.deserialize_example_np(record, decoders=decoders)
      for path in info.filepaths
      for record in _tfrecords(Path(path))
    ]
  else:
    source = builder.as_data_source(split=split, decoders=decoders)
    examples = source.__getitems__(range(len(source)))
  if len(examples) != info.num_examples:
    raise DataError(
      f"{folder} declares {info.num_examples} {split} examples, but holds {len(examples)}: "
      "prepare it again"
    )
  return examples


def _decoded(data: bytes, shape: tuple[int, int, int], where: str) -> np.ndarray:
  try:
    with Image.open(io.BytesIO(data)) as image:
      # Before decoding: a header may claim an image of gigabytes.
      if (image.height, image.width) != shape[:2] or image.mode != "RGB":
        raise DataError(
          f"{where} is {image.height}x{image.width} of mode {image.mode}, not "
          f"{shape[0]}x{shape[1]} of mode RGB: prepare it again"
        )
      return np.asarray(image)
  except DataError:
    raise
  except Exception as error:  # each of Pillow's decoders raises types of its own
    raise DataError(
      f"{where} cannot be decoded ({summary(error)}): prepare it again"
    ) from error


def read_tfds_split(
  folder: Path, split: str, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Reads `image` and `label` of a prepared tensorflow_datasets directory, without TensorFlow.

  Args:
    folder: the directory of one version, with dataset_info.json.
    split: "train" or "test".
    shape: (H, W, 3) that every image must have.

  Returns:
    (images uint8[N, H, W, 3], labels [N]), in the order of the feature `id` where there
    is one: preparing shuffles, and `id` remembers the row in the original files.

  Raises:
    DataError: if tensorflow_datasets is not installed, or the directory is damaged,
      naming the record.
  """
  try:
    import tensorflow_datasets as tfds  # takes a second, and is an optional dependency
  except ImportError as error:
    raise DataError(
      f"{folder} needs tensorflow_datasets ({summary(error)}): "
      "run pip install 'jaxdistill[tfds]', or use the original archive"
    ) from error
  try:
    examples = _tfds_examples(tfds, folder, split)
    examples.sort(key=lambda example: example.get("id", b""))
    labels = np.array([example["label"] for example in examples])
    encoded = [example["image"] for example in examples]
  except DataError:
    raise
  except Exception as error:  # tfds, protobuf and array_record document no common type for a damaged file
    raise DataError(
      f"{folder}: {split} cannot be read ({summary(error)}): prepare it again"
    ) from error
  images = [
    _decoded(data, shape, f"{folder} {split} example {row}")
    for row, data in enumerate(encoded)
  ]
  return np.stack(images) if images else np.empty((0, *shape), np.uint8), labels
