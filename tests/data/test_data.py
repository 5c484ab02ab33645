"""npz files, digits, and the checks that every data set passes."""

import io
from pathlib import Path
import struct
import zipfile

import numpy as np
import pytest

from jaxdistill import data as datasets
from jaxdistill.core import registry
from jaxdistill.data import digits, npz
from jaxdistill.errors import ConfigError
from tests.helpers.data_files import TEST, TRAIN, arrays, error_of, no_network  # noqa: F401 (fixtures)

# npz --------------------------------------------------------------------------------------------------------


def save(path, arrays, **changes):
  np.savez(path, **{**arrays, **changes})
  return str(path)


def test_npz_reads_one_file_or_two(tmp_path, arrays):
  one = npz.npz(path=save(tmp_path / "mine.npz", arrays), num_classes=12)
  parts = [{k: v for k, v in arrays.items() if k.endswith(s)} for s in ("train", "test")]
  paths = [save(tmp_path / name, part) for name, part in zip(("a.npz", "b.npz"), parts)]
  two = npz.npz(path=paths[0], test_path=paths[1], num_classes=12)
  assert one.name == "mine" and one.num_classes == 12
  for field in ("train", "test"):
    np.testing.assert_array_equal(getattr(one, field).image, arrays[f"images_{field}"])
    np.testing.assert_array_equal(getattr(two, field).label, arrays[f"labels_{field}"])
  pixels = arrays["images_train"].reshape(-1, 3) / 255
  np.testing.assert_allclose(one.mean, pixels.mean(0), rtol=1e-12)
  np.testing.assert_allclose(one.std, pixels.std(0), rtol=1e-12)


def test_npz_counts_its_classes(tmp_path, arrays):
  labels = np.arange(TRAIN) % 7
  path = save(tmp_path / "x.npz", arrays, labels_train=labels, labels_test=np.arange(TEST) % 5)
  assert npz.npz(path=path).num_classes == 7
  path = save(tmp_path / "y.npz", arrays, labels_train=labels, labels_test=np.full(TEST, 8))
  text = error_of(npz.npz, path=path)
  assert "go up to 8 but class 7 has no training example" in text and "data.num_classes=9" in text


@pytest.mark.parametrize("changes, message", [
  ({"labels_train": np.full(TRAIN, 10)}, "train: label 10 of example 0 is outside 0..9 (40 such labels)"),
  ({"labels_test": np.array([0] * (TEST - 1) + [-1])}, f"test: label -1 of example {TEST - 1} is outside"),
  ({"labels_train": np.array([1, 2, 1.5] + [0] * (TRAIN - 3))}, "got float64 (example 2: 1.5)"),
  ({"labels_train": np.array(["cat"] * TRAIN)}, "labels must be integers"),
  ({"labels_train": np.zeros(TRAIN - 1, int)}, "40 images but labels of shape [39]"),
  ({"images_train": np.zeros((TRAIN, 32, 32, 3), np.float32)}, "got float32[40, 32, 32, 3]"),
  ({"images_train": np.zeros((TRAIN, 32, 32), np.uint8)}, "got uint8[40, 32, 32]"),
  ({"images_train": np.zeros((TRAIN, 32, 32, 4), np.uint8)}, "got uint8[40, 32, 32, 4]"),
  ({"images_test": np.zeros((TEST, 31, 32, 3), np.uint8)}, "test images [31, 32, 3]"),
  ({"images_test": np.zeros((0, 32, 32, 3), np.uint8), "labels_test": np.zeros(0, int)}, "no images"),
  ({"images_train": np.array([np.zeros((2, 2)), np.zeros((3, 3))], dtype=object)}, "array of Python objects"),
])
def test_inconsistent_arrays_are_refused(tmp_path, arrays, changes, message):
  path = save(tmp_path / "x.npz", arrays, **changes)
  text = error_of(npz.npz, path=path, num_classes=10)
  assert message in text and path in text


def test_npz_names_what_is_missing_and_what_is_there(tmp_path, arrays):
  path = save(tmp_path / "x.npz", {"images": arrays["images_train"], "labels_train": arrays["labels_train"]})
  text = error_of(npz.npz, path=path)
  assert "no images_train" in text and "images, labels_train" in text and path in text
  assert "no such file" in error_of(npz.npz, path=str(tmp_path / "typo.npz"))
  with pytest.raises(ConfigError, match="path must"):
    npz.npz()
  with pytest.raises(ConfigError, match="num_classes must"):
    npz.npz(path=path, num_classes=-1)


@pytest.mark.parametrize("damage", [
  lambda b: b[:len(b) // 2], lambda b: b"PK", lambda b: b"", lambda b: b"text",
  lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:],
])
def test_damaged_npz_is_refused(tmp_path, arrays, damage):
  path = Path(save(tmp_path / "x.npz", arrays))
  path.write_bytes(damage(path.read_bytes()))
  text = error_of(npz.npz, path=str(path))
  assert "cannot be read as npz" in text and str(path) in text


def npy(shape, data=b"", dtype="|u1") -> bytes:
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
  return file.getvalue() + data


@pytest.mark.parametrize("content, message", [
  (npy((2**40, 32, 32, 3), b"abc"), "holds 3 bytes"),
  (npy((2, 2), b"abc"), "holds 3 bytes"),
  (npy((2**30,), bytes(2**20)), "holds 1048576 bytes"),
  (b"\x93NUMPY\x07\x00", "(7, 0)"),
  (b"no npy", "cannot be read as npz"),
])
def test_arrays_that_lie_about_their_size_are_refused(tmp_path, content, message):
  path = tmp_path / "x.npz"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for key in ("images_train", "labels_train"):
      archive.writestr(f"{key}.npy", content)
  assert message in error_of(npz.npz, path=str(path))


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
  path, claim = tmp_path / "x.npz", 2**31
  with zipfile.ZipFile(path, "w") as archive:
    for key in ("images_train", "labels_train"):
      archive.writestr(f"{key}.npy", npy((claim - 128,)))
  content = path.read_bytes()
  size = len(npy((claim - 128,)))
  path.write_bytes(content.replace(struct.pack("<II", size, size), struct.pack("<II", size, claim)))
  assert "claims 2147483648 bytes" in error_of(npz.npz, path=str(path))


# Digits and the checks --------------------------------------------------------------------------------------


def test_digits_are_split_by_class_and_always_the_same_way():
  before = np.random.get_state()[1].copy()
  first, again, other = digits.digits(), digits.digits(), digits.digits(seed=1)
  np.testing.assert_array_equal(np.random.get_state()[1], before)
  assert first.train.image.shape == (1438, 8, 8, 3) and first.test.image.shape == (359, 8, 8, 3)
  np.testing.assert_array_equal(first.test.image, again.test.image)
  assert not np.array_equal(first.test.image, other.test.image)
  counts = [np.bincount(split.label, minlength=10) for split in (first.train, first.test)]
  np.testing.assert_allclose(counts[1] / (counts[0] + counts[1]), 0.2, atol=0.003)
  assert first.train.image.min() == 0 and first.train.image.max() == 255
  np.testing.assert_array_equal(first.train.image[..., 0], first.train.image[..., 2])
  assert first.test.label[:8].tolist() == [3, 7, 3, 9, 0, 8, 7, 0]


def test_digits_use_every_example_once():
  from sklearn.datasets import load_digits
  loaded = digits.digits(test_fraction=0.35)
  images = np.concatenate([loaded.train.image, loaded.test.image])[..., 0]
  labels = np.concatenate([loaded.train.label, loaded.test.label])
  expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
  assert (sorted((i.tobytes(), int(n)) for i, n in zip(images, labels))
          == sorted((i.tobytes(), int(n)) for i, n in zip(expected, load_digits().target)))


@pytest.mark.parametrize("kwargs, key", [
  ({"test_fraction": 0.0}, "test_fraction"), ({"test_fraction": 1.0}, "test_fraction"),
  ({"test_fraction": float("nan")}, "test_fraction"), ({"seed": -1}, "seed"),
  ({"seed": 2**32}, "seed"),
])
def test_digits_check_their_keys(kwargs, key):
  with pytest.raises(ConfigError, match=key):
    digits.digits(**kwargs)


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_digits_keep_every_class_in_both_splits(fraction):
  loaded = digits.digits(test_fraction=fraction)
  assert len(np.unique(loaded.train.label)) == len(np.unique(loaded.test.label)) == 10


def test_two_image_shapes_are_named():
  good = (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, int))
  ragged = [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
  assert "mine train: image 1 is [5, 4, 3] but image 0 is [4, 4, 3]" in error_of(
    datasets.checked, "mine", (ragged, [0, 0]), good, 1)
  boxed = np.empty(2, object)
  boxed[:] = ragged
  text = error_of(datasets.checked, "mine", good, (boxed, [0, 0]), 1, where="x.npz")
  assert "mine (x.npz) test: image 1" in text
  assert datasets.checked("mine", (ragged[:1], [0]), good, 1).train.image.shape == (1, 4, 4, 3)


def test_a_constant_channel_can_be_divided_by():
  mean, std = datasets.channel_statistics(np.full((1001, 4, 4, 3), 255, np.uint8))
  assert mean == (1, 1, 1) and std == (1e-3,) * 3


def test_data_sets_are_found_by_name(tmp_path, arrays):
  assert {"digits", "npz", "cifar.cifar10", "cifar.cifar100"} <= set(registry.list_available("data"))
  assert not [name for name in registry.list_available("data") if name.startswith("_")]
  path = save(tmp_path / "x.npz", arrays)
  assert registry.resolve("data", "npz", path=path, num_classes=10).num_classes == 10
