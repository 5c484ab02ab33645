"""CIFAR: every layout gives the same arrays, and every fault ends in one clear line."""

import os
import pickle
import sys
import tarfile
import time

import numpy as np
import pytest

from jaxdistill.data import _tfds, cifar
from jaxdistill.errors import ConfigError
from tests.helpers.data_files import (  # noqa: F401 (fixtures)
  LAYOUTS,
  TEST,
  TRAIN,
  arrays,
  error_of,
  load,
  no_network,
  pack,
  python2_pickle,
  tfrecord_frame,
  to_tfrecord,
  write_folder,
  write_tfds,
)

# Layouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["cifar10", "cifar100"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_arrays(tmp_path, arrays, variant, layout):
  LAYOUTS[layout](tmp_path, variant, arrays)
  listing = sorted(tmp_path.rglob("*"))
  loaded = load(variant, tmp_path, source=layout.replace("two ", "").split()[0])
  for split in ("train", "test"):
    np.testing.assert_array_equal(getattr(loaded, split).image, arrays[f"images_{split}"])
    np.testing.assert_array_equal(getattr(loaded, split).label, arrays[f"labels_{split}"])
  assert loaded.train.image.flags.c_contiguous and loaded.train.label.dtype == np.int32
  assert loaded.num_classes == {"cifar10": 10, "cifar100": 100}[variant]
  assert abs(loaded.mean[2] - {"cifar10": 0.4465, "cifar100": 0.4409}[variant]) < 1e-6
  assert sorted(tmp_path.rglob("*")) == listing, "reading wrote something"


def test_python2_stream_of_the_test_is_a_real_pickle(arrays):
  contents = {b"labels": [1, 2], b"data": np.ascontiguousarray(arrays["images_test"].reshape(TEST, 3072)),
              b"filenames": [b"a.png"], b"batch_label": b"x"}
  real = pickle.loads(python2_pickle(contents), encoding="bytes")
  np.testing.assert_array_equal(real.pop(b"data"), contents.pop(b"data"))
  assert real == contents


def test_the_environment_variable_is_searched_and_the_newest_version_wins(tmp_path, arrays, monkeypatch):
  write_tfds(tmp_path, "cifar100", arrays).rename(tmp_path / "cifar100" / "3.0.10")
  older = {key: value[::-1] for key, value in arrays.items()}
  write_tfds(tmp_path, "cifar100", older).rename(tmp_path / "cifar100" / "3.0.9")
  (tmp_path / "cifar100" / "incomplete.ABC_4.0.0").mkdir()
  (tmp_path / "cifar100" / "incomplete.ABC_4.0.0" / "dataset_info.json").write_text("{}")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  loaded = cifar.cifar100(allow_partial=True)
  np.testing.assert_array_equal(loaded.train.label, arrays["labels_train"])


def test_tfds_without_ids_keeps_the_prepared_order(tmp_path, arrays):
  write_tfds(tmp_path, "cifar10", arrays, with_id=False)
  image = load("cifar10", tmp_path).train.image
  assert not np.array_equal(image, arrays["images_train"])
  assert sorted(i.tobytes() for i in image) == sorted(i.tobytes() for i in arrays["images_train"])


@pytest.mark.parametrize("exists", [True, False])
def test_a_missing_data_set_ends_at_once_and_says_what_to_do(tmp_path, exists):
  root = tmp_path if exists else tmp_path / "typo"
  start = time.monotonic()
  text = error_of(cifar.cifar100, dir=str(root))
  assert time.monotonic() - start < 1
  for part in (str(root), "cifar100/<version>/", "cifar-100-binary.tar.gz", "cifar-100-python/",
               "cifar100.npz", "curl -LO https://", "data.dir", "digits"):
    assert part in text
  assert ("does not exist" in text) == (not exists)
  assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_there_names_the_ones_that_are(tmp_path, arrays):
  LAYOUTS["npz"](tmp_path, "cifar10", arrays)
  text = error_of(load, "cifar10", tmp_path, source="python")
  assert "has only npz" in text and "cifar-10-batches-py/" in text and "cifar-10-python.tar.gz" in text
  with pytest.raises(ConfigError, match="source must be one of auto.*'zip'"):
    load("cifar10", tmp_path, source="zip")


def test_a_partial_set_is_refused_unless_it_is_asked_for(tmp_path, arrays):
  LAYOUTS["npz"](tmp_path, "cifar100", arrays)
  text = error_of(load, "cifar100", tmp_path, allow_partial=False)
  assert "40 training and 20 test" in text and "50000 and 10000" in text and "data.allow_partial=True" in text


def test_a_partial_set_cannot_be_larger_than_the_full_one(tmp_path, arrays, monkeypatch):
  monkeypatch.setattr(cifar, "EXAMPLES", (39, 20))
  LAYOUTS["npz"](tmp_path, "cifar100", arrays)
  assert "40 training" in error_of(load, "cifar100", tmp_path)
  monkeypatch.setattr(cifar, "EXAMPLES", (40, 20))
  load("cifar100", tmp_path, allow_partial=False)


def test_cifar_of_another_image_size_is_refused(tmp_path, arrays):
  small = {k: v[:, :28, :28] if v.ndim == 4 else v for k, v in arrays.items()}
  LAYOUTS["npz"](tmp_path, "cifar10", small)
  assert "[28, 28, 3]" in error_of(load, "cifar10", tmp_path)


# Damage and malice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage, message", [
  (lambda f: f.write_bytes(f.read_bytes()[:-5]), "no multiple of 3074"),
  (lambda f: f.write_bytes(b""), "0 bytes"),
  (lambda f: f.unlink(), "cannot be read"),
  (lambda f: f.write_bytes(b"\0\xff" + f.read_bytes()[2:]), "train: label 255 of example 0 is outside 0..99"),
])
def test_damaged_binary_file_is_named(tmp_path, arrays, damage, message):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  damage(folder / "train.bin")
  text = error_of(load, "cifar100", tmp_path)
  assert message in text and str(folder) in text


def test_an_unpacked_file_of_absurd_size_is_not_read(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  os.truncate(folder / "train.bin", 3074 * 2**20)  # sparse: takes no disk
  assert "larger than any CIFAR file" in error_of(load, "cifar100", tmp_path)


def odd_member(name, kind=tarfile.REGTYPE, link=""):
  member = tarfile.TarInfo(name)
  member.type, member.linkname = kind, link
  return member


@pytest.mark.parametrize("member", [
  odd_member("../escaped.bin"), odd_member("cifar-100-binary/../../escaped.bin"),
  odd_member("/cifar-100-binary/escaped.bin"),
  odd_member("cifar-100-binary/link.bin", tarfile.SYMTYPE, "/etc/passwd"),
  odd_member("cifar-100-binary/hard.bin", tarfile.LNKTYPE, "cifar-100-binary/train.bin"),
  odd_member("cifar-100-binary/holes", tarfile.GNUTYPE_SPARSE),
  odd_member("cifar-100-binary/pipe", tarfile.FIFOTYPE),
  odd_member("cifar-100-binary/device", tarfile.CHRTYPE),
  odd_member("cifar-100-binary-evil/train.bin"),
], ids=lambda m: m.name)
def test_archives_with_odd_members_are_refused(tmp_path, arrays, member):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as archive:
    archive.add(folder, folder.name)
    archive.addfile(member)
  folder.rename(tmp_path / "elsewhere")
  listing = sorted(tmp_path.rglob("*"))
  text = error_of(load, "cifar100", tmp_path)
  assert member.name.lstrip("/") in text and "nothing was unpacked" in text
  assert sorted(tmp_path.rglob("*")) == listing


def test_an_archive_packed_with_a_leading_dot_is_read(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as archive:
    archive.add(folder, f"./{folder.name}")
  folder.rename(tmp_path / "elsewhere")
  assert len(load("cifar100", tmp_path).train.label) == TRAIN


@pytest.mark.parametrize("damage, message", [
  (lambda b: b[:len(b) // 2], "is damaged"),
  (lambda b: b[:2000] + bytes([b[2000] ^ 16]) + b[2001:], "is damaged"),
  (lambda b: b[:-8] + bytes(8), "is damaged"),
  (lambda b: b"<html>404</html>", "is damaged"),
  (lambda b: b"", "is damaged"),
])
def test_damaged_archives_are_refused(tmp_path, arrays, damage, message):
  path = pack(write_folder(tmp_path, "cifar100", arrays, "binary"))
  path.write_bytes(damage(path.read_bytes()))
  text = error_of(load, "cifar100", tmp_path)
  assert message in text and str(path) in text


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, arrays, monkeypatch):
  pack(write_folder(tmp_path, "cifar100", arrays, "binary"))
  monkeypatch.setattr(cifar, "_MAX_BYTES", 100_000)
  assert "unpacks to more" in error_of(load, "cifar100", tmp_path)


def test_an_archive_without_a_batch_names_it(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar10", arrays, "binary")
  (folder / "data_batch_3.bin").unlink()
  pack(folder)
  assert "no cifar-10-batches-bin/data_batch_3.bin" in error_of(load, "cifar10", tmp_path)


def flip(path, position):
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize("damage, message", [
  (lambda f: flip(next(f.glob("*train*")), 70_000), "cannot be read"),
  (lambda f: next(f.glob("*train*")).write_bytes(b""), "cannot be read"),
  (lambda f: next(f.glob("*train*")).unlink(), "cannot be read"),
  (lambda f: (f / "dataset_info.json").write_text("{"), "cannot be read"),
  (lambda f: (f / "features.json").unlink(), "cannot be read"),
], ids=["flipped bit", "empty", "deleted", "dataset_info.json", "features.json"])
def test_damaged_array_record_is_refused(tmp_path, arrays, damage, message):
  folder = write_tfds(tmp_path, "cifar100", arrays)
  damage(folder)
  text = error_of(load, "cifar100", tmp_path)
  assert message in text and str(folder) in text


@pytest.mark.parametrize("damage, message", [
  (lambda f: flip(f, 20), "wrong checksum in record 0"),
  (lambda f: flip(f, f.stat().st_size - 100), "wrong checksum in record 39"),
  (lambda f: flip(f, 6), "damaged or cut off in record 0"),
  (lambda f: f.write_bytes(f.read_bytes()[:-3]), "cut off in record 39"),
  (lambda f: f.write_bytes(tfrecord_frame(bytes(70_000))), "damaged or cut off in record 0"),
  (lambda f: f.write_bytes(b""), "declares 40 train examples, but holds 0"),
])
def test_damaged_tfrecord_is_refused(tmp_path, arrays, damage, message):
  folder = to_tfrecord(write_tfds(tmp_path, "cifar100", arrays))
  damage(next(folder.glob("*train*")))
  text = error_of(load, "cifar100", tmp_path)
  assert message in text and str(folder) in text


def test_tfds_image_of_another_size_is_named(tmp_path, arrays):
  changed = {**arrays, "images_test": arrays["images_test"][:, :31]}
  write_tfds(tmp_path, "cifar100", changed, declared_shape=(None, None, 3))
  assert "test example 0 is 31x32 of mode RGB, not 32x32" in error_of(load, "cifar100", tmp_path)


def test_checksum_of_the_standard():
  assert _tfds._crc32c([b"123456789", b"", b"a"]).tolist() == [0xE3069283, 0, 0xC1D04330]


def test_a_missing_tensorflow_datasets_is_named(tmp_path, arrays, monkeypatch):
  folder = write_tfds(tmp_path, "cifar100", arrays)
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  text = error_of(load, "cifar100", tmp_path)
  assert "pip install 'jaxdistill[tfds]'" in text and str(folder) in text
