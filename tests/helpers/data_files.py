"""Small data sets in every layout that CIFAR comes in; all of them real files."""

import io
import pickle
import struct
import tarfile
from unittest import mock

import numpy as np
from PIL import Image
import pytest

from jaxdistill.data import cifar
from jaxdistill.errors import DataError

TRAIN = 40
TEST = 20
FOLDERS = {
  ("cifar10", "binary"): "cifar-10-batches-bin",
  ("cifar10", "python"): "cifar-10-batches-py",
  ("cifar100", "binary"): "cifar-100-binary",
  ("cifar100", "python"): "cifar-100-python",
}
NAMES_FILES = {
  ("cifar10", "binary"): "batches.meta.txt",
  ("cifar10", "python"): "batches.meta",
  ("cifar100", "binary"): "fine_label_names.txt",
  ("cifar100", "python"): "meta",
}


# Loading ------------------------------------------------------------------------------


def load(variant, root, **kwargs):
  """Loads what may be a part of CIFAR."""
  keys = {"allow_partial": True, **kwargs}
  return getattr(cifar, variant)(dir=str(root), **keys)


def error_of(call, *args, **kwargs) -> str:
  """Returns the text of the DataError that a call ends in; it must be one line."""
  with pytest.raises(DataError) as caught:
    call(*args, **kwargs)
  text = str(caught.value)
  assert "\n" not in text
  assert len(text) <= 300
  return text


# The original archives ----------------------------------------------------------------


def batches(variant, arrays):
  """Yields (batch name, pixels [N, 3072] in planes, labels) as the archives do."""

  def rows(split, start, stop):
    images = arrays[f"images_{split}"][start:stop]
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    return planes, arrays[f"labels_{split}"][start:stop]

  if variant == "cifar100":
    yield "train", *rows("train", 0, TRAIN)
    yield "test", *rows("test", 0, TEST)
    return
  size = TRAIN // 5
  for i in range(5):
    yield f"data_batch_{i + 1}", *rows("train", i * size, (i + 1) * size)
  yield "test_batch", *rows("test", 0, TEST)


def write_folder(root, variant, arrays, version, protocol=2):
  """Writes the folder that an original archive unpacks to."""
  folder = root / FOLDERS[variant, version]
  folder.mkdir(parents=True)
  for name, pixels, labels in batches(variant, arrays):
    if version == "binary":
      records = _binary_records(variant, pixels, labels)
      records.tofile(folder / f"{name}.bin")
    else:
      contents = _python_batch(variant, pixels, labels)
      (folder / name).write_bytes(_pickled(contents, protocol))
  return folder


def write_names(folder, variant, version, names, protocol=2):
  """Adds the file with the names of the classes; returns its path."""
  path = folder / NAMES_FILES[variant, version]
  if version == "binary":
    # The original of CIFAR-10 ends in an empty line.
    path.write_text("\n".join(names) + "\n\n")
    return path
  key = {"cifar10": b"label_names", "cifar100": b"fine_label_names"}[variant]
  contents = {key: [name.encode() for name in names]}
  path.write_bytes(_pickled(contents, protocol))
  return path


def _binary_records(variant, pixels, labels):
  columns = [labels[:, None].astype(np.uint8), pixels]
  if variant == "cifar100":
    coarse = np.full((len(labels), 1), 3, np.uint8)
    columns = [coarse, *columns]
  return np.concatenate(columns, axis=1)


def _python_batch(variant, pixels, labels):
  key = {"cifar10": b"labels", "cifar100": b"fine_labels"}[variant]
  contents = {
    b"batch_label": b"some batch",
    key: [int(label) for label in labels],
    b"data": np.ascontiguousarray(pixels),
    b"filenames": [b"%d.png" % i for i in range(len(labels))],
  }
  if variant == "cifar100":
    contents[b"coarse_labels"] = [3] * len(labels)
  return contents


def _pickled(contents, protocol):
  if protocol == "python2":
    return python2_pickle(contents)
  return pickle.dumps(contents, protocol)


def pack(folder):
  """Replaces a folder by the original archive of that name."""
  name = folder.name.replace("-batches-bin", "-binary").replace(
    "-batches-py", "-python"
  )
  path = folder.parent / f"{name}.tar.gz"
  with tarfile.open(path, "w:gz") as archive:
    archive.add(folder, folder.name)
  for file in folder.iterdir():
    file.unlink()
  folder.rmdir()
  return path


# Pickles of Python 2 ------------------------------------------------------------------


def python2_pickle(contents: dict) -> bytes:
  """Writes a dict as Python 2 did at protocol 2: every string as bytes."""
  parts = [b"\x80\x02}q\x01("]
  for number, (key, value) in enumerate(contents.items(), 2):
    parts.append(_python2_string(key) + b"q" + bytes([number]))
    if isinstance(value, np.ndarray):
      parts.append(_python2_array(value))
    elif isinstance(value, list):
      items = [_python2_item(item) for item in value]
      parts.append(b"](" + b"".join(items) + b"e")
    else:
      parts.append(_python2_string(value))
  return b"".join(parts) + b"u."


def _python2_string(value: bytes) -> bytes:
  return b"U" + bytes([len(value)]) + value


def _python2_item(value: bytes | int) -> bytes:
  if isinstance(value, bytes):
    return _python2_string(value)
  return b"K" + bytes([value])


def _python2_array(value: np.ndarray) -> bytes:
  """Writes uint8[N, 3072]."""
  raw = value.tobytes()
  minus_one = b"J\xff\xff\xff\xff"
  # numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), "b")
  empty = (
    b"cnumpy.core.multiarray\n_reconstruct\nq\x60"
    b"cnumpy\nndarray\nq\x61K\x00\x85q\x62U\x01bq\x63\x87q\x64Rq\x65"
  )
  shape = b"K" + bytes([len(value)]) + b"M\x00\x0c\x86q\x66"
  # numpy.dtype("u1", 0, 1), with the state (3, "|", None, None, None, -1, -1, 0)
  dtype = (
    b"cnumpy\ndtype\nq\x67U\x02u1q\x68K\x00K\x01\x87q\x69Rq\x6a"
    b"(K\x03U\x01|q\x6bNNN" + minus_one + minus_one + b"K\x00tq\x6cb"
  )
  data = b"T" + struct.pack("<i", len(raw)) + raw + b"q\x6d"
  # The state is (1, shape, dtype, False, data).
  return empty + b"(K\x01" + shape + dtype + b"\x89" + data + b"tq\x6eb"


# tensorflow_datasets ------------------------------------------------------------------


def write_tfds(
  root,
  variant,
  arrays,
  with_id=True,
  declared_shape=(32, 32, 3),
  num_classes=10,
):
  """Prepares real files; PNG bytes and this builder keep TensorFlow out of it."""
  tfds = pytest.importorskip("tensorflow_datasets")
  from tensorflow_datasets.core.dataset_builders import adhoc_builder

  class Prepared(adhoc_builder.AdhocBuilder, skip_registration=True):
    def _split_generators(self, dl_manager):
      return self._split_datasets

  def examples(split):
    pairs = zip(arrays[f"images_{split}"], arrays[f"labels_{split}"], strict=True)
    for row, (image, label) in enumerate(pairs):
      example = {"image": _png(image), "label": int(label)}
      if with_id:
        example["id"] = f"{split}_{row:05d}"
      yield row, example

  features = {
    "image": tfds.features.Image(shape=declared_shape),
    "label": tfds.features.ClassLabel(num_classes=num_classes),
  }
  if with_id:
    features["id"] = tfds.features.Text()
  # It would look for what others prepared, and leave a temporary folder behind.
  with mock.patch.object(tfds.core.DatasetInfo, "initialize_from_bucket"):
    builder = Prepared(
      name=variant,
      version="3.0.2",
      features=tfds.features.FeaturesDict(features),
      data_dir=root,
      split_datasets={split: examples(split) for split in ("train", "test")},
      file_format="array_record",
    )
  builder.download_and_prepare()
  return root / variant / "3.0.2"


def _png(image: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return file.getvalue()


def to_tfrecord(folder):
  """Turns array_record files into TFRecord files, which preparing writes by default."""
  from array_record.python import array_record_data_source

  for path in list(folder.glob("*array_record*")):
    source = array_record_data_source.ArrayRecordDataSource([str(path)])
    records = source.__getitems__(list(range(len(source))))
    frames = [tfrecord_frame(record) for record in records]
    renamed = path.with_name(path.name.replace("array_record", "tfrecord"))
    renamed.write_bytes(b"".join(frames))
    path.unlink()
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  return folder


def tfrecord_frame(record: bytes) -> bytes:
  def masked(data):
    crc = crc32c(data)
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)

  length = struct.pack("<Q", len(record))
  return length + masked(length) + record + masked(record)


def crc32c(data: bytes) -> int:
  """Computes the Castagnoli checksum bit by bit, without the library under test."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


# All of them --------------------------------------------------------------------------


def _write_two_npz(root, variant, arrays):
  for split in ("train", "test"):
    keys = (f"images_{split}", f"labels_{split}")
    np.savez(root / f"{variant}_{split}.npz", **{key: arrays[key] for key in keys})


LAYOUTS = {
  "binary folder": lambda *where: write_folder(*where, "binary"),
  "binary archive": lambda *where: pack(write_folder(*where, "binary")),
  "python folder, as Python 2 wrote it": (
    lambda *where: write_folder(*where, "python", "python2")
  ),
  "python folder, protocol 0": lambda *where: write_folder(*where, "python", 0),
  "python folder, protocol 1": lambda *where: write_folder(*where, "python", 1),
  "python folder, protocol 2": lambda *where: write_folder(*where, "python", 2),
  "python folder, protocol 4": lambda *where: write_folder(*where, "python", 4),
  "python archive": lambda *where: pack(write_folder(*where, "python", "python2")),
  "tfds array_record": lambda *where: write_tfds(*where),
  "tfds tfrecord": lambda *where: to_tfrecord(write_tfds(*where)),
  "npz": (
    lambda root, variant, arrays: np.savez_compressed(root / f"{variant}.npz", **arrays)
  ),
  "two npz": _write_two_npz,
}
