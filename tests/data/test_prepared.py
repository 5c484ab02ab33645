"""The data set `prepared`: what it reads, and what it finds damaged."""

import io
import json
import os
import sys

import numpy as np
from PIL import Image
import pytest

from jaxdistill.core import registry
from jaxdistill.data import Request, shards
from jaxdistill.data.prepared import prepared
from jaxdistill.errors import ConfigError
from jaxdistill.tools import _images, prepare
from tests.faults.malformed import PLACES
from tests.helpers import pictures
from tests.helpers.data_files import error_of

SHARD = "train-00001-of-00004.array_record"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  """Files of a prepared directory, by their names."""
  root = tmp_path_factory.mktemp("original")
  source = pictures.write_folder(root / "photos")
  settings = _images.Settings(size=16)
  fewest = prepare._FEWEST_IMAGES
  prepare._FEWEST_IMAGES = 2
  try:
    prepare.prepare(prepare.Order(source, root / "out", settings))
  finally:
    prepare._FEWEST_IMAGES = fewest
  return pictures.contents(root / "out")


@pytest.fixture
def folder(tmp_path, original):
  """A prepared directory of one's own."""
  root = tmp_path / "photos_16"
  root.mkdir()
  for name, content in original.items():
    (root / name).write_bytes(content)
  return root


def rewrite(folder, change):
  """Changes the index, and gives it a hash of what it says now."""
  contents = shards.read_with_hash(folder / "index.json")
  change(contents)
  record = shards.with_hash(contents)
  (folder / "index.json").write_text(json.dumps(record))


def flip(path, position):
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


def test_a_prepared_directory_is_a_streamed_data_set(folder, original):
  found = prepared(dir=str(folder), size=12)
  assert found.name == "photos_16"
  assert found.class_names == ("cat", "dog")
  assert found.train.shape == (12, 12, 3)
  assert found.train.label.tolist() == [0] * 4 + [1] * 4
  assert found.test.rows.tolist() == [0, 1, 2, 3]
  assert found.train.varies
  assert not found.test.varies
  assert found.mean == shards.read_index(folder).mean
  assert registry.find("data", "prepared") is prepared
  # Nothing of the place is in it.
  digest = found.train.reader.digest
  moved = folder.rename(folder.with_name("moved"))
  assert prepared(dir=f"{moved}/", size=12).train.reader.digest == digest
  assert prepared(dir=str(moved), size=11).train.reader.digest != digest


def test_keys_that_make_no_sense_are_refused(folder):
  with pytest.raises(ConfigError, match="dir must name"):
    prepared()
  with pytest.raises(ConfigError, match="crop must be one of"):
    prepared(dir=str(folder), crop="left")


@pytest.mark.parametrize("name", [SHARD, "index.json", "table.npz"])
@pytest.mark.parametrize(
  "damage",
  [
    lambda path: path.unlink(),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-10]),
    lambda path: os.truncate(path, 2**40),
    lambda path: (path.unlink(), PLACES["pipe"](path)),
    lambda path: (path.unlink(), PLACES["zeros"](path)),
    lambda path: (path.unlink(), path.mkdir()),
  ],
  ids=["missing", "empty", "cut", "enormous", "pipe", "zeros", "folder"],
)
def test_a_damaged_file_is_named(folder, name, damage):
  damage(folder / name)
  text = error_of(prepared, dir=str(folder))
  assert str(folder / name) in text
  assert "prepare" in text


def test_a_flipped_bit_is_found_before_the_run_where_this_is_wanted(folder):
  flip(folder / SHARD, 5)
  path = str(folder / SHARD)
  prepared(dir=str(folder), size=12)
  assert path in error_of(prepared, dir=str(folder), verify=True)
  flip(folder / SHARD, 5)
  prepared(dir=str(folder), size=12, verify=True)


@pytest.mark.parametrize("name", ["index.json", "table.npz"])
def test_a_flipped_bit_of_the_tables_is_always_found(folder, name):
  flip(folder / name, 300)
  assert str(folder / name) in error_of(prepared, dir=str(folder))


def of_shard(key, value):
  def change(contents):
    contents["splits"]["train"][1][key] = value

  return change


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda c: c.update(version=2), "it has version 2, this reads 1"),
    (lambda c: c.pop("classes"), "not of the form"),
    (lambda c: c["classes"].pop(), "label 1 of train example 4 is outside 0..0"),
    (lambda c: c.update(classes=["cat", "cat"]), "not distinct"),
    (lambda c: c.update(mean=[0.5, 0.5]), "not of the form"),
    (lambda c: c.update(std=[0.5, 0.5, float("nan")]), "not of the form"),
    (lambda c: c["splits"]["train"].pop(), "has the name"),
    (lambda c: c["splits"].update(test=[]), "no list of the shards of test"),
    (lambda c: c["splits"].pop("test"), "not of the form"),
    (of_shard("file", "../../other"), "has the name '../../other'"),
    (of_shard("file", "train-00000-of-00004.array_record"), "has the name"),
    (of_shard("records", 3), "the index declares 9 records"),
    (of_shard("records", -1), "not of the form"),
    (of_shard("records", True), "not of the form"),
    (of_shard("bytes", 5), f"{SHARD} cannot be used"),
    (of_shard("sha256", "0" * 63), "has no hash"),
    (lambda c: c["table"].update(bytes=3), "table.npz cannot be used"),
    (lambda c: c["table"].update(sha256="0" * 64), "not as it was written"),
  ],
)
def test_an_index_that_lies_is_refused(folder, change, message):
  rewrite(folder, change)
  assert message in error_of(prepared, dir=str(folder))


def test_counts_that_agree_with_the_table_only_are_refused(folder):
  def change(contents):
    contents["splits"]["train"][0]["records"] = 1
    contents["splits"]["train"][1]["records"] = 3

  rewrite(folder, change)
  text = error_of(prepared, dir=str(folder))
  assert "holds 2 records, the index declares 1" in text


def test_an_empty_shard_of_the_right_size_is_named(folder):
  path = folder / SHARD
  path.write_bytes(bytes(path.stat().st_size))
  assert str(path) in error_of(prepared, dir=str(folder))


@pytest.mark.parametrize(
  "key, values, message",
  [
    ("train_label", np.full(8, 2, np.int32), "outside 0..1"),
    ("train_label", np.full(8, -1, np.int32), "is negative"),
    ("train_label", np.zeros(8), "label of train is float64[8]"),
    ("train_label", np.zeros(7, np.int32), "label of train is int32[7]"),
    ("train_names", np.zeros(7, np.uint8), "not one name for each"),
    ("test_height", None, "has no test_height"),
  ],
)
def test_a_table_that_lies_is_refused(folder, key, values, message):
  path = folder / "table.npz"
  arrays = dict(np.load(path))
  arrays[key] = values
  if values is None:
    arrays.pop(key)
  np.savez(path, **arrays)

  def change(contents):
    described = {"bytes": path.stat().st_size, "sha256": shards.hash_file(path)}
    contents["table"] = described

  rewrite(folder, change)
  assert message in error_of(prepared, dir=str(folder))


def test_a_record_that_is_damaged_is_told_with_its_name(folder):
  index = shards.read_index(folder)
  records = shards.Records(index, "train")
  path = folder / SHARD
  content = path.read_bytes()
  (record,) = records.read([2])
  flip(path, content.index(record[:20]) + 15)
  damaged = shards.Records(index, "train")
  with pytest.raises(OSError, match="the record is damaged"):
    damaged.read([0, 2])
  assert damaged.name(2) == f"{path} record 0 (train/cat/002.jpg)"
  assert damaged.read([0, 3, 7]) == records.read([0, 3, 7])


def test_a_missing_package_is_named(folder, monkeypatch):
  name = "array_record.python.array_record_module"
  monkeypatch.setitem(sys.modules, name, None)
  text = error_of(prepared, dir=str(folder))
  assert "needs array_record" in text
  assert "pip install" in text


@pytest.mark.slow
def test_images_are_read_as_they_are_stored(folder):
  found = prepared(dir=str(folder), size=16, crop="centre", test_resize=16)
  index = np.array([5, 0, 5])
  (batch,) = found.train.reader.batches([Request(index, np.zeros(3, np.int64))])
  assert batch.intact.all()
  for row, image in zip(index, batch.image, strict=True):
    (content,) = shards.Records(shards.read_index(folder), "train").read([int(row)])
    expected = np.asarray(Image.open(io.BytesIO(content)))
    height = expected.shape[0]
    # Three rows too many, of which the middle is taken.
    top = round((height - 16) / 2)
    difference = image.astype(int) - expected[top : top + 16].astype(int)
    assert np.abs(difference).max() <= 2
  evaluated = list(found.test.reader.batches([Request(np.arange(4), np.zeros(4, int))]))
  assert evaluated[0].image.shape == (4, 16, 16, 3)


@pytest.mark.slow
def test_a_damaged_record_ends_the_run_or_is_skipped_and_counted(folder):
  index = shards.read_index(folder)
  (record,) = shards.Records(index, "train").read([2])
  content = (folder / SHARD).read_bytes()
  flip(folder / SHARD, content.index(record[:20]) + 15)
  request = Request(np.arange(8), np.zeros(8, np.int64))
  found = prepared(dir=str(folder), size=16)
  text = error_of(list, found.train.reader.batches([request]))
  assert "record 0 (train/cat/002.jpg)" in text
  found = prepared(dir=str(folder), size=16, on_error="skip")
  (batch,) = found.train.reader.batches([request])
  assert batch.intact.all()
  np.testing.assert_array_equal(batch.image[2], batch.image[3])
  (name,) = found.train.reader.faulty
  assert "train/cat/002.jpg" in name
