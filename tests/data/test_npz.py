"""Arrays of one's own in npz files: read as they are, or refused in one line."""

import io
from pathlib import Path
import struct
import zipfile

import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.data import _npz
from jaxdistill.data.npz import npz
from jaxdistill.errors import ConfigError
from tests.helpers.data_files import TEST, TRAIN, error_of


def save(path, arrays, **changes):
  np.savez(path, **{**arrays, **changes})
  return str(path)


def of_split(arrays, split):
  return {key: value for key, value in arrays.items() if key.endswith(split)}


# What is read -------------------------------------------------------------------------


def test_npz_reads_one_file_or_two(tmp_path, arrays):
  one = npz(path=save(tmp_path / "mine.npz", arrays), num_classes=12)
  two = npz(
    path=save(tmp_path / "a.npz", of_split(arrays, "train")),
    test_path=save(tmp_path / "b.npz", of_split(arrays, "test")),
    num_classes=12,
  )
  assert one.name == "mine"
  assert one.num_classes == 12
  for name in ("train", "test"):
    for split in (getattr(one, name), getattr(two, name)):
      np.testing.assert_array_equal(split.image, arrays[f"images_{name}"])
      np.testing.assert_array_equal(split.label, arrays[f"labels_{name}"])
  pixels = arrays["images_train"].reshape(-1, 3) / 255
  np.testing.assert_allclose(one.mean, pixels.mean(0), rtol=1e-12)
  np.testing.assert_allclose(one.std, pixels.std(0), rtol=1e-12)


def test_npz_is_found_by_its_name(tmp_path, arrays):
  path = save(tmp_path / "x.npz", arrays)
  loaded = registry.resolve("data", "npz", path=path, num_classes=10)
  assert loaded.num_classes == 10


def test_npz_counts_its_classes(tmp_path, arrays):
  def with_test_labels(name, labels_test):
    labels_train = np.arange(TRAIN) % 7
    path = tmp_path / name
    return save(path, arrays, labels_train=labels_train, labels_test=labels_test)

  assert npz(path=with_test_labels("x.npz", np.arange(TEST) % 5)).num_classes == 7
  text = error_of(npz, path=with_test_labels("y.npz", np.full(TEST, 8)))
  assert "go up to 8 but class 7 has no training example" in text
  assert "data.num_classes=9" in text


def test_class_names_are_read_from_the_training_file(tmp_path, arrays):
  names = [f"klass {c} é" for c in range(12)]
  one = save(tmp_path / "one.npz", arrays, class_names=np.array(names))
  assert npz(path=one, num_classes=12).class_names == tuple(names)
  test = save(tmp_path / "test.npz", of_split(arrays, "test"))
  assert npz(path=one, test_path=test, num_classes=12).class_names == tuple(names)
  without = save(tmp_path / "without.npz", arrays)
  assert npz(path=without, num_classes=12).class_names == ()


@pytest.mark.parametrize(
  "names, message",
  [
    (np.array(["a", "b"]), "2 class names for 10 classes"),
    (np.array(["a"] * 10, dtype=object), "array of Python objects"),
    (np.array([b"a"] * 10), "class_names must be an array of strings"),
    (np.arange(10), "class_names must be an array of strings"),
    (np.array("a"), "class_names must be an array of strings"),
    (np.full((5, 2), "a"), "class_names must be an array of strings"),
    (np.full(10, 0x7FFFFFFF, np.uint32).view("<U1"), "cannot be read as npz"),
  ],
)
def test_other_class_names_are_refused(tmp_path, arrays, names, message):
  path = save(tmp_path / "x.npz", arrays, class_names=names)
  text = error_of(npz, path=path, num_classes=10)
  assert message in text
  assert path in text


# What is refused ----------------------------------------------------------------------


def images(*shape):
  return np.zeros(shape, np.uint8)


@pytest.mark.parametrize(
  "changes, message",
  [
    (
      {"labels_train": np.full(TRAIN, 10)},
      "train: label 10 of example 0 is outside 0..9 (40 such labels)",
    ),
    (
      {"labels_test": np.array([0] * (TEST - 1) + [-1])},
      f"test: label -1 of example {TEST - 1} is outside",
    ),
    (
      {"labels_train": np.array([1, 2, 1.5] + [0] * (TRAIN - 3))},
      "got float64 (example 2: 1.5)",
    ),
    ({"labels_train": np.array(["cat"] * TRAIN)}, "labels must be integers"),
    ({"labels_train": np.zeros(TRAIN - 1, int)}, "40 images but labels of shape [39]"),
    (
      {"images_train": np.zeros((TRAIN, 32, 32, 3), np.float32)},
      "got float32[40, 32, 32, 3]",
    ),
    ({"images_train": images(TRAIN, 32, 32)}, "got uint8[40, 32, 32]"),
    ({"images_train": images(TRAIN, 32, 32, 4)}, "got uint8[40, 32, 32, 4]"),
    ({"images_test": images(TEST, 31, 32, 3)}, "test images [31, 32, 3]"),
    (
      {"images_test": images(0, 32, 32, 3), "labels_test": np.zeros(0, int)},
      "no images",
    ),
    (
      {"images_train": np.array([images(2, 2), images(3, 3)], dtype=object)},
      "array of Python objects",
    ),
  ],
)
def test_inconsistent_arrays_are_refused(tmp_path, arrays, changes, message):
  path = save(tmp_path / "x.npz", arrays, **changes)
  text = error_of(npz, path=path, num_classes=10)
  assert message in text
  assert path in text


def test_npz_names_what_is_missing_and_what_is_there(tmp_path, arrays):
  misnamed = {
    "images": arrays["images_train"],
    "labels_train": arrays["labels_train"],
  }
  path = save(tmp_path / "x.npz", misnamed)
  text = error_of(npz, path=path)
  assert "no images_train" in text
  assert "images, labels_train" in text
  assert path in text
  assert "no such file" in error_of(npz, path=str(tmp_path / "typo.npz"))
  with pytest.raises(ConfigError, match="path must"):
    npz()
  with pytest.raises(ConfigError, match="num_classes must"):
    npz(path=path, num_classes=-1)


@pytest.mark.parametrize(
  "damage",
  [
    lambda content: content[: len(content) // 2],
    lambda content: b"PK",
    lambda content: b"",
    lambda content: b"text",
    lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
  ],
  ids=["half", "two bytes", "empty", "text", "flipped bit"],
)
def test_damaged_npz_is_refused(tmp_path, arrays, damage):
  path = Path(save(tmp_path / "x.npz", arrays))
  path.write_bytes(damage(path.read_bytes()))
  text = error_of(npz, path=str(path))
  assert "cannot be read as npz" in text
  assert str(path) in text


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, compression):
  path = tmp_path / "x.npz"
  with zipfile.ZipFile(path, "w", compression) as archive:
    for key in ("images_train", "labels_train"):
      archive.writestr(f"{key}.npy", npy((3,), b"abc"))
  assert "is compressed in another way" in error_of(npz, path=str(path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused(tmp_path, arrays):
  path = save(tmp_path / "x.npz", arrays)
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr("labels_train.npy", npy((3,), b"abc"))
  assert "labels_train is there twice" in error_of(npz, path=path)


def test_an_encrypted_array_is_refused(tmp_path, arrays):
  path = Path(save(tmp_path / "x.npz", arrays))
  content = bytearray(path.read_bytes())
  central = content.find(b"PK\x01\x02")
  content[central + 8] |= 1
  path.write_bytes(content)
  assert "cannot be read as npz (RuntimeError" in error_of(npz, path=str(path))


def test_an_array_larger_than_the_memory_is_refused(tmp_path, arrays, monkeypatch):
  path = save(tmp_path / "x.npz", arrays)
  monkeypatch.setattr(_npz, "physical_memory", lambda: 100_000)
  text = error_of(npz, path=path)
  assert "takes 122880 bytes, and this machine has 100000 of memory" in text


def npy(shape, data=b"", dtype="|u1") -> bytes:
  """An array's header, and what is said to be its data."""
  file = io.BytesIO()
  header = {"descr": dtype, "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(file, header)
  return file.getvalue() + data


@pytest.mark.parametrize(
  "content, message",
  [
    (npy((2**40, 32, 32, 3), b"abc"), "holds 3 bytes"),
    (npy((2, 2), b"abc"), "holds 3 bytes"),
    (npy((2**30,), bytes(2**20)), "holds 1048576 bytes"),
    (npy((-1, -3), b"abc"), "has a negative size"),
    (npy((-3,), b"abc"), "has a negative size"),
    (npy((3,), b"abc", dtype="q9"), "cannot be read as npz (ValueError"),
    (b"\x93NUMPY\x01\x00\x03\x00'''", "cannot be read as npz (TokenError"),
    (b"\x93NUMPY\x07\x00", "(7, 0)"),
    (b"no npy", "cannot be read as npz"),
  ],
  ids=[
    "tera",
    "small",
    "giga",
    "negative",
    "minus",
    "dtype",
    "quotes",
    "version",
    "text",
  ],
)
def test_arrays_that_lie_about_their_size_are_refused(tmp_path, content, message):
  path = tmp_path / "x.npz"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for key in ("images_train", "labels_train"):
      archive.writestr(f"{key}.npy", content)
  assert message in error_of(npz, path=str(path))


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
  path = tmp_path / "x.npz"
  claim = 2**31
  array = npy((claim - 128,))
  with zipfile.ZipFile(path, "w") as archive:
    for key in ("images_train", "labels_train"):
      archive.writestr(f"{key}.npy", array)
  size = len(array)
  true_sizes = struct.pack("<II", size, size)
  false_sizes = struct.pack("<II", size, claim)
  path.write_bytes(path.read_bytes().replace(true_sizes, false_sizes))
  assert "claims 2147483648 bytes" in error_of(npz, path=str(path))
