"""CIFAR: every layout gives the same arrays, and what is not CIFAR ends in one line."""

import time

import numpy as np
import pytest

from jaxdistill.data import cifar
from jaxdistill.errors import ConfigError
from tests.helpers.data_files import (
  LAYOUTS,
  TRAIN,
  error_of,
  load,
  pack,
  write_folder,
  write_names,
  write_tfds,
)

NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
BLUE_MEAN = {"cifar10": 0.4465, "cifar100": 0.4409}
VERSIONS = ("binary", "python")

# Layouts ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", NUM_CLASSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_arrays(tmp_path, arrays, variant, layout):
  LAYOUTS[layout](tmp_path, variant, arrays)
  listing = sorted(tmp_path.rglob("*"))
  loaded = load(variant, tmp_path, source=layout.replace("two ", "").split()[0])
  for name in ("train", "test"):
    split = getattr(loaded, name)
    np.testing.assert_array_equal(split.image, arrays[f"images_{name}"])
    np.testing.assert_array_equal(split.label, arrays[f"labels_{name}"])
  assert loaded.train.image.flags.c_contiguous
  assert loaded.train.label.dtype == np.int32
  assert loaded.num_classes == len(loaded.class_names) == NUM_CLASSES[variant]
  assert abs(loaded.mean[2] - BLUE_MEAN[variant]) < 1e-6
  assert sorted(tmp_path.rglob("*")) == listing, "reading wrote something"


@pytest.mark.parametrize("size, side", [(16, 2), (8, 4)])
def test_smaller_images_are_means_of_blocks(tmp_path, arrays, size, side):
  LAYOUTS["npz"](tmp_path, "cifar100", arrays)
  loaded = load("cifar100", tmp_path, size=size)
  for name in ("train", "test"):
    images = arrays[f"images_{name}"].astype(float)
    found = getattr(loaded, name).image
    assert found.shape == (len(images), size, size, 3)
    corner = images[:, -side:, :side].mean(axis=(1, 2))
    assert np.abs(found[:, -1, 0] - corner).max() <= 0.5


def test_an_unknown_size_is_refused(tmp_path, arrays):
  LAYOUTS["npz"](tmp_path, "cifar100", arrays)
  with pytest.raises(ConfigError, match="size must be one of 32, 16, 8, got 24"):
    load("cifar100", tmp_path, size=24)


def test_the_newest_version_in_the_directory_of_the_environment_is_read(
  tmp_path, arrays, monkeypatch
):
  folder = tmp_path / "cifar100"
  write_tfds(tmp_path, "cifar100", arrays).rename(folder / "3.0.10")
  older = {key: value[::-1] for key, value in arrays.items()}
  write_tfds(tmp_path, "cifar100", older).rename(folder / "3.0.9")
  incomplete = folder / "incomplete.ABC_4.0.0"
  incomplete.mkdir()
  (incomplete / "dataset_info.json").write_text("{}")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  loaded = cifar.cifar100(allow_partial=True)
  np.testing.assert_array_equal(loaded.train.label, arrays["labels_train"])


def test_tfds_without_ids_keeps_the_prepared_order(tmp_path, arrays):
  write_tfds(tmp_path, "cifar10", arrays, with_id=False)
  image = load("cifar10", tmp_path).train.image
  original = arrays["images_train"]
  assert not np.array_equal(image, original)
  assert sorted(i.tobytes() for i in image) == sorted(i.tobytes() for i in original)


# Class names --------------------------------------------------------------------------


def test_classes_are_named_in_the_order_of_their_labels(tmp_path, arrays):
  LAYOUTS["npz"](tmp_path, "cifar10", arrays)
  LAYOUTS["npz"](tmp_path, "cifar100", arrays)
  coarse = load("cifar10", tmp_path).class_names
  assert coarse[0] == "airplane"
  assert coarse[3] == "cat"
  assert coarse[9] == "truck"
  fine = load("cifar100", tmp_path).class_names
  assert list(fine) == sorted(set(fine))
  assert fine[0] == "apple"
  assert fine[39] == "keyboard"
  assert fine[99] == "worm"


@pytest.mark.parametrize("variant", NUM_CLASSES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_that_numbers_its_classes_otherwise_is_refused(
  tmp_path, arrays, variant, version, packed
):
  def write(root, names):
    folder = write_folder(root, variant, arrays, version)
    path = write_names(folder, variant, version, names)
    if packed:
      pack(folder)
    return path.name

  write(tmp_path / "same", _names(tmp_path, arrays, variant))
  names = load(variant, tmp_path / "same").class_names

  name = write(tmp_path / "swapped", [names[1], names[0], *names[2:]])
  text = error_of(load, variant, tmp_path / "swapped")
  assert name in text
  assert f"names other classes than {variant} has, or in another order" in text

  write(tmp_path / "fewer", names[:-1])
  assert "names other classes" in error_of(load, variant, tmp_path / "fewer")


def _names(root, arrays, variant):
  """The names that loading gives."""
  LAYOUTS["npz"](root, variant, arrays)
  return load(variant, root).class_names


def test_an_npz_file_that_numbers_its_classes_otherwise_is_refused(tmp_path, arrays):
  names = _names(tmp_path, arrays, "cifar10")
  path = tmp_path / "cifar10.npz"
  np.savez(path, **arrays, class_names=np.array(names))
  assert load("cifar10", tmp_path).class_names == names
  np.savez(path, **arrays, class_names=np.array(names[::-1]))
  assert "cifar10.npz names other classes" in error_of(load, "cifar10", tmp_path)


@pytest.mark.parametrize("protocol", ["python2", 0, 4])
def test_names_are_read_at_every_protocol(tmp_path, arrays, protocol):
  names = _names(tmp_path, arrays, "cifar10")
  folder = write_folder(tmp_path / "new", "cifar10", arrays, "python")
  write_names(folder, "cifar10", "python", names, protocol)
  assert load("cifar10", tmp_path / "new").class_names == names


def test_names_of_python_2_at_protocol_0_are_read(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar10", arrays, "python")
  names = _names(tmp_path, arrays, "cifar10")
  items = b"".join(b"S'" + name.encode() + b"'\np9\na" for name in names)
  pickled = b"(dp1\nS'label_names'\np2\n(lp3\n" + items + b"sS'num_vis'\np5\nI3072\ns."
  (folder / "batches.meta").write_bytes(pickled)
  assert load("cifar10", tmp_path, source="python").class_names == names


def test_a_names_file_without_names_is_refused(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "python")
  (folder / "meta").write_bytes(b"}.")
  assert "names other classes" in error_of(load, "cifar100", tmp_path)


# What is not there --------------------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
def test_a_missing_data_set_ends_at_once_and_says_what_to_do(tmp_path, exists):
  root = tmp_path if exists else tmp_path / "typo"
  start = time.monotonic()
  text = error_of(cifar.cifar100, dir=str(root))
  assert time.monotonic() - start < 1
  parts = [
    str(root),
    "cifar100/<version>/",
    "cifar-100-binary.tar.gz",
    "cifar-100-python/",
    "cifar100.npz",
    "curl -LO https://",
    "data.dir",
    "digits",
  ]
  for part in parts:
    assert part in text
  assert ("does not exist" in text) == (not exists)
  assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_there_names_the_ones_that_are(tmp_path, arrays):
  LAYOUTS["npz"](tmp_path, "cifar10", arrays)
  text = error_of(load, "cifar10", tmp_path, source="python")
  for part in ("has only npz", "cifar-10-batches-py/", "cifar-10-python.tar.gz"):
    assert part in text
  with pytest.raises(ConfigError, match="source must be one of auto.*'zip'"):
    load("cifar10", tmp_path, source="zip")


def test_a_partial_set_is_refused_unless_it_is_allowed(tmp_path, arrays):
  LAYOUTS["npz"](tmp_path, "cifar100", arrays)
  text = error_of(load, "cifar100", tmp_path, allow_partial=False)
  assert "40 training and 20 test" in text
  assert "50000 and 10000" in text
  assert "data.allow_partial=True" in text


def test_a_partial_set_cannot_be_larger_than_the_full_one(
  tmp_path, arrays, monkeypatch
):
  monkeypatch.setattr(cifar, "EXAMPLES", (TRAIN - 1, 20))
  LAYOUTS["npz"](tmp_path, "cifar100", arrays)
  assert "40 training" in error_of(load, "cifar100", tmp_path)
  monkeypatch.setattr(cifar, "EXAMPLES", (TRAIN, 20))
  load("cifar100", tmp_path, allow_partial=False)


def test_cifar_of_another_image_size_is_refused(tmp_path, arrays):
  small = dict(arrays)
  for key in ("images_train", "images_test"):
    small[key] = arrays[key][:, :28, :28]
  LAYOUTS["npz"](tmp_path, "cifar10", small)
  assert "[28, 28, 3]" in error_of(load, "cifar10", tmp_path)
