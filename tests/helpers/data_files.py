"""Small data sets for the tests, in every layout that CIFAR comes in; all of them real files."""

import io
import pickle
import socket
import struct
import tarfile

import numpy as np
from PIL import Image
import pytest

from jaxdistill.data import cifar
from jaxdistill.errors import DataError

TRAIN, TEST = 40, 20
FOLDERS = {
  ("cifar10", "binary"): "cifar-10-batches-bin",
  ("cifar10", "python"): "cifar-10-batches-py",
  ("cifar100", "binary"): "cifar-100-binary",
  ("cifar100", "python"): "cifar-100-python",
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
  random = np.random.default_rng(0)
  return {
    "images_train": random.integers(0, 256, (TRAIN, 32, 32, 3), np.uint8),
    "labels_train": random.integers(0, 10, TRAIN),
    "images_test": random.integers(0, 256, (TEST, 32, 32, 3), np.uint8),
    "labels_test": random.integers(0, 10, TEST),
  }


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
  def refuse(*args, **kwargs):
    pytest.fail(f"something tried the network: {args}")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)


def load(variant, root, **kwargs):
  """Loads what may be a part of CIFAR."""
  return getattr(cifar, variant)(dir=str(root), **{"allow_partial": True, **kwargs})


def error_of(call, *args, **kwargs) -> str:
  """Returns the text of the DataError that a call ends in, after checking that it is one line."""
  with pytest.raises(DataError) as caught:
    call(*args, **kwargs)
  text = str(caught.value)
  assert "\n" not in text and len(text) < 800
  return text


def batches(variant, arrays):
  """Yields (batch name, pixels [N, 3072] in planes, labels) as the original archives divide them."""

  def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)

  train, test = ("images_train", "labels_train"), ("images_test", "labels_test")
  if variant == "cifar100":
    yield "train", planes(arrays[train[0]]), arrays[train[1]]
    yield "test", planes(arrays[test[0]]), arrays[test[1]]
    return
  for i in range(5):
    rows = slice(i * TRAIN // 5, (i + 1) * TRAIN // 5)
    yield f"data_batch_{i + 1}", planes(arrays[train[0]][rows]), arrays[train[1]][rows]
  yield "test_batch", planes(arrays[test[0]]), arrays[test[1]]


def python2_pickle(contents: dict) -> bytes:
  """Writes a dict as Python 2 did at protocol 2, opcode by opcode: every string as bytes."""

  def text(value):
    return b"U" + bytes([len(value)]) + value

  out = b"\x80\x02}q\x01("
  for number, (key, value) in enumerate(contents.items(), 2):
    out += text(key) + b"q" + bytes([number])
    if isinstance(value, np.ndarray):
      raw = value.tobytes()
      out += (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x60cnumpy\nndarray\nq\x61K\x00\x85q\x62U\x01bq\x63"
        b"\x87q\x64Rq\x65(K\x01K"
        + bytes([len(value)])
        + b"M\x00\x0c\x86q\x66cnumpy\ndtype\nq\x67"
        b"U\x02u1q\x68K\x00K\x01\x87q\x69Rq\x6a(K\x03U\x01|q\x6bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tq\x6cb\x89T" + struct.pack("<i", len(raw)) + raw + b"q\x6dtq\x6eb"
      )
    elif isinstance(value, list):
      out += (
        b"]("
        + b"".join(
          text(v) if isinstance(v, bytes) else b"K" + bytes([v]) for v in value
        )
        + b"e"
      )
    else:
      out += text(value)
  return out + b"u."


def write_folder(root, variant, arrays, version, protocol=2):
  folder = root / FOLDERS[variant, version]
  folder.mkdir(parents=True)
  for name, pixels, labels in batches(variant, arrays):
    if version == "binary":
      columns = [labels[:, None].astype(np.uint8), pixels]
      coarse = [np.full((len(labels), 1), 3, np.uint8)] if variant == "cifar100" else []
      np.concatenate(coarse + columns, axis=1).tofile(folder / f"{name}.bin")
      continue
    key = b"fine_labels" if variant == "cifar100" else b"labels"
    contents = {
      b"batch_label": b"some batch",
      key: [int(label) for label in labels],
      b"data": np.ascontiguousarray(pixels),
      b"filenames": [b"%d.png" % i for i in range(len(labels))],
    }
    if variant == "cifar100":
      contents[b"coarse_labels"] = [3] * len(labels)
    (folder / name).write_bytes(
      python2_pickle(contents)
      if protocol == "python2"
      else pickle.dumps(contents, protocol)
    )
  return folder


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


def write_tfds(root, variant, arrays, with_id=True, declared_shape=(32, 32, 3)):
  """Prepares real tensorflow_datasets files; PNG bytes and this builder keep TensorFlow out of it."""
  tfds = pytest.importorskip("tensorflow_datasets")
  from tensorflow_datasets.core.dataset_builders import adhoc_builder

  class Prepared(adhoc_builder.AdhocBuilder, skip_registration=True):
    def _split_generators(self, dl_manager):
      return self._split_datasets

  def examples(split):
    for row, (image, label) in enumerate(
      zip(arrays[f"images_{split}"], arrays[f"labels_{split}"])
    ):
      png = io.BytesIO()
      Image.fromarray(image).save(png, "PNG")
      example = {"image": png.getvalue(), "label": int(label)}
      yield row, {"id": f"{split}_{row:05d}", **example} if with_id else example

  features = {
    "image": tfds.features.Image(shape=declared_shape),
    "label": tfds.features.ClassLabel(num_classes=10),
  }
  if with_id:
    features["id"] = tfds.features.Text()
  Prepared(
    name=variant,
    version="3.0.2",
    features=tfds.features.FeaturesDict(features),
    data_dir=root,
    split_datasets={s: examples(s) for s in ("train", "test")},
    file_format="array_record",
  ).download_and_prepare()
  return root / variant / "3.0.2"


def crc32c(data: bytes) -> int:
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def tfrecord_frame(record: bytes) -> bytes:
  def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

  length = struct.pack("<Q", len(record))
  return length + masked(length) + record + masked(record)


def to_tfrecord(folder):
  """Turns prepared array_record files into the TFRecord files that preparing writes by default."""
  from array_record.python import array_record_data_source

  for path in list(folder.glob("*array_record*")):
    source = array_record_data_source.ArrayRecordDataSource([str(path)])
    path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(
      b"".join(
        tfrecord_frame(record)
        for record in source.__getitems__(list(range(len(source))))
      )
    )
    path.unlink()
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  return folder


LAYOUTS = {
  "binary folder": lambda *where: write_folder(*where, "binary"),
  "binary archive": lambda *where: pack(write_folder(*where, "binary")),
  "python folder, as Python 2 wrote it": lambda *where: write_folder(
    *where, "python", "python2"
  ),
  "python folder, protocol 0": lambda *where: write_folder(*where, "python", 0),
  "python folder, protocol 2": lambda *where: write_folder(*where, "python", 2),
  "python folder, protocol 4": lambda *where: write_folder(*where, "python", 4),
  "python archive": lambda *where: pack(write_folder(*where, "python", "python2")),
  "tfds array_record": lambda *where: write_tfds(*where),
  "tfds tfrecord": lambda *where: to_tfrecord(write_tfds(*where)),
  "npz": lambda root, variant, arrays: np.savez_compressed(
    root / f"{variant}.npz", **arrays
  ),
  "two npz": lambda root, variant, arrays: [
    np.savez(
      root / f"{variant}_{s}.npz", **{k: v for k, v in arrays.items() if k.endswith(s)}
    )
    for s in ("train", "test")
  ],
}
