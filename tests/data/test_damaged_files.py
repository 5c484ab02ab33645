"""CIFAR's files, damaged or hostile: each ends in one line that names the file."""

import os
import sys
import tarfile
import time

import google_crc32c
import numpy as np
import pytest

from jaxdistill.data import cifar
from jaxdistill.data.npz import npz
from jaxdistill.errors import DataError
from tests.faults.malformed import PLACES
from tests.helpers.data_files import (
  TRAIN,
  crc32c,
  error_of,
  load,
  pack,
  tfrecord_frame,
  to_tfrecord,
  write_folder,
  write_tfds,
)


def flip(path, position):
  """Flips one bit of a file."""
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


# The binary version -------------------------------------------------------------------


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda f: f.write_bytes(f.read_bytes()[:-5]), "no multiple of 3074"),
    (lambda f: f.write_bytes(b""), "0 bytes"),
    (lambda f: f.unlink(), "cannot be read"),
    (
      lambda f: f.write_bytes(b"\0\xff" + f.read_bytes()[2:]),
      "train: label 255 of example 0 is outside 0..99",
    ),
  ],
)
def test_damaged_binary_file_is_named(tmp_path, arrays, damage, message):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  damage(folder / "train.bin")
  text = error_of(load, "cifar100", tmp_path)
  assert message in text
  assert str(folder) in text


def test_an_unpacked_file_of_absurd_size_is_not_read(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  # Sparse: it takes no disk.
  os.truncate(folder / "train.bin", 3074 * 2**20)
  assert "bytes, more than 536870912" in error_of(load, "cifar100", tmp_path)


# Archives -----------------------------------------------------------------------------


def odd_member(name, kind=tarfile.REGTYPE, link=""):
  member = tarfile.TarInfo(name)
  member.type = kind
  member.linkname = link
  return member


@pytest.mark.parametrize(
  "member",
  [
    odd_member("../escaped.bin"),
    odd_member("cifar-100-binary/../../escaped.bin"),
    odd_member("/cifar-100-binary/escaped.bin"),
    odd_member("cifar-100-binary/link.bin", tarfile.SYMTYPE, "/etc/passwd"),
    odd_member(
      "cifar-100-binary/hard.bin", tarfile.LNKTYPE, "cifar-100-binary/train.bin"
    ),
    odd_member("cifar-100-binary/holes", tarfile.GNUTYPE_SPARSE),
    odd_member("cifar-100-binary/pipe", tarfile.FIFOTYPE),
    odd_member("cifar-100-binary/device", tarfile.CHRTYPE),
    odd_member("cifar-100-binary-evil/train.bin"),
  ],
  ids=lambda member: member.name,
)
def test_archives_with_odd_members_are_refused(tmp_path, arrays, member):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as archive:
    archive.add(folder, folder.name)
    archive.addfile(member)
  folder.rename(tmp_path / "elsewhere")
  listing = sorted(tmp_path.rglob("*"))
  text = error_of(load, "cifar100", tmp_path)
  assert member.name.lstrip("/") in text
  assert "nothing was unpacked" in text
  assert sorted(tmp_path.rglob("*")) == listing


def add_members(folder, *members):
  """Packs a folder, and members besides."""
  with tarfile.open(folder.parent / "cifar-100-binary.tar.gz", "w:gz") as archive:
    archive.add(folder, folder.name)
    for member in members:
      archive.addfile(member)
  folder.rename(folder.parent / "elsewhere")


def test_an_archive_with_a_member_twice_is_refused(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  add_members(folder, odd_member(f"{folder.name}/train.bin"))
  text = error_of(load, "cifar100", tmp_path)
  assert "has the member 'cifar-100-binary/train.bin' twice" in text


def test_an_archive_of_endlessly_many_members_is_refused(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  add_members(folder, *[odd_member(f"{folder.name}/{i}") for i in range(1000)])
  assert "has more members than any" in error_of(load, "cifar100", tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "zeros", "socket", "folder", "loop"])
@pytest.mark.parametrize("layout", ["binary", "python", "tfds", "npz", "archive"])
def test_what_is_no_file_is_not_read(tmp_path, arrays, layout, kind):
  if layout == "tfds":
    folder = write_tfds(tmp_path, "cifar100", arrays)
    path = next(folder.glob("*train*"))
  elif layout == "npz":
    path = tmp_path / "cifar100_test.npz"
    np.savez(tmp_path / "cifar100_train.npz", **arrays)
    path.touch()
  elif layout == "archive":
    path = pack(write_folder(tmp_path, "cifar100", arrays, "binary"))
  else:
    folder = write_folder(tmp_path, "cifar100", arrays, layout)
    path = min(folder.glob("train*"))
  path.unlink()
  PLACES[kind](path)
  start = time.monotonic()
  text = error_of(load, "cifar100", tmp_path)
  assert time.monotonic() - start < 2
  # A link that leads nowhere is not there at all; a folder is one that was unpacked.
  if layout != "archive" or kind not in ("loop", "folder"):
    assert path.name in text


@pytest.mark.parametrize(
  "root", ["x" * 300, "x/" * 3000, "a\0b", "~nobody-of-this-name"]
)
def test_directories_that_cannot_be_are_missing(root):
  with pytest.raises(DataError, match="does not exist"):
    cifar.cifar100(dir=root)
  with pytest.raises(DataError, match="cannot be read|no such file"):
    npz(path=root)


def test_an_archive_packed_with_a_leading_dot_is_read(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as archive:
    archive.add(folder, f"./{folder.name}")
  folder.rename(tmp_path / "elsewhere")
  assert len(load("cifar100", tmp_path).train.label) == TRAIN


@pytest.mark.parametrize(
  "damage",
  [
    lambda content: content[: len(content) // 2],
    lambda content: content[:2000] + bytes([content[2000] ^ 16]) + content[2001:],
    lambda content: content[:-8] + bytes(8),
    lambda content: b"<html>404</html>",
    lambda content: b"",
  ],
  ids=["half", "flipped bit", "wrong checksum", "a web page", "empty"],
)
def test_damaged_archives_are_refused(tmp_path, arrays, damage):
  path = pack(write_folder(tmp_path, "cifar100", arrays, "binary"))
  path.write_bytes(damage(path.read_bytes()))
  text = error_of(load, "cifar100", tmp_path)
  assert "is damaged" in text
  assert str(path) in text


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, arrays, monkeypatch):
  pack(write_folder(tmp_path, "cifar100", arrays, "binary"))
  # More than the archive has, and less than it unpacks to.
  monkeypatch.setattr(cifar, "MAX_BYTES", 190_000)
  assert "unpacks to more" in error_of(load, "cifar100", tmp_path)


def test_an_archive_without_a_batch_names_it(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar10", arrays, "binary")
  (folder / "data_batch_3.bin").unlink()
  pack(folder)
  text = error_of(load, "cifar10", tmp_path)
  assert "no cifar-10-batches-bin/data_batch_3.bin" in text


def test_an_archive_with_a_folder_in_place_of_a_batch_is_refused(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "binary")
  (folder / "test.bin").unlink()
  with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as archive:
    archive.add(folder, folder.name)
    archive.addfile(odd_member(f"{folder.name}/test.bin", tarfile.DIRTYPE))
  folder.rename(tmp_path / "elsewhere")
  assert "no cifar-100-binary/test.bin" in error_of(load, "cifar100", tmp_path)


# tensorflow_datasets ------------------------------------------------------------------


@pytest.mark.parametrize(
  "damage",
  [
    lambda folder: flip(next(folder.glob("*train*")), 70_000),
    lambda folder: next(folder.glob("*train*")).write_bytes(b""),
    lambda folder: next(folder.glob("*train*")).unlink(),
    lambda folder: (folder / "dataset_info.json").write_text("{"),
    lambda folder: (folder / "features.json").unlink(),
  ],
  ids=["flipped bit", "empty", "deleted", "dataset_info.json", "features.json"],
)
def test_damaged_array_record_is_refused(tmp_path, arrays, damage):
  folder = write_tfds(tmp_path, "cifar100", arrays)
  damage(folder)
  text = error_of(load, "cifar100", tmp_path)
  assert "cannot be read" in text
  assert str(folder) in text


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda f: flip(f, 20), "wrong checksum in record 0"),
    (lambda f: flip(f, f.stat().st_size - 100), "wrong checksum in record 39"),
    (lambda f: flip(f, 6), "damaged or cut off in record 0"),
    (lambda f: f.write_bytes(f.read_bytes()[:-3]), "cut off in record 39"),
    (
      lambda f: f.write_bytes(tfrecord_frame(bytes(70_000))),
      "damaged or cut off in record 0",
    ),
    (
      lambda f: f.write_bytes(b""),
      "holds 0 examples, but dataset_info.json declares 40",
    ),
  ],
)
def test_damaged_tfrecord_is_refused(tmp_path, arrays, damage, message):
  folder = to_tfrecord(write_tfds(tmp_path, "cifar100", arrays))
  damage(next(folder.glob("*train*")))
  text = error_of(load, "cifar100", tmp_path)
  assert message in text
  assert str(folder) in text


def test_tfds_image_of_another_size_is_named(tmp_path, arrays):
  changed = {**arrays, "images_test": arrays["images_test"][:, :31]}
  write_tfds(tmp_path, "cifar100", changed, declared_shape=(None, None, 3))
  text = error_of(load, "cifar100", tmp_path)
  assert "test example 0 is 31x32 of mode RGB, not 32x32" in text


@pytest.mark.parametrize(
  "data, checksum", [(b"123456789", 0xE3069283), (b"", 0), (b"a", 0xC1D04330)]
)
def test_checksum_of_the_standard(data, checksum):
  assert google_crc32c.value(data) == checksum
  assert crc32c(data) == checksum


@pytest.mark.parametrize("module", ["tensorflow_datasets", "google_crc32c"])
def test_a_missing_package_is_named(tmp_path, arrays, monkeypatch, module):
  folder = to_tfrecord(write_tfds(tmp_path, "cifar100", arrays))
  monkeypatch.setitem(sys.modules, module, None)
  text = error_of(load, "cifar100", tmp_path)
  assert module in text
  assert "pip install 'jaxdistill[tfds]'" in text
  assert str(folder) in text
