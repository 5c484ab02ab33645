"""Folders and lists of image files: what is found, in which order, and the errors."""

import csv
import os
import sys

import numpy as np
from PIL import Image
import pytest

from jaxdistill.core import registry
from jaxdistill.data import Streamed
from jaxdistill.data._files import Files, list_images
from jaxdistill.data._streamed import parse_size
from jaxdistill.data.folder import folder
from jaxdistill.data.imagenet import imagenet
from jaxdistill.data.index_file import index_file
from jaxdistill.errors import ConfigError
from tests.helpers.data_files import error_of

# Nothing is read with these, so that no test here needs TensorFlow.
UNREAD = {"size": "8", "statistics": "imagenet"}


def write(root, *names, size=(8, 8)):
  """Writes small images of different colours."""
  for number, name in enumerate(names):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number, 0, 0)).save(path)
  return root


def two_splits(root):
  return write(
    root,
    "train/cat/b.png",
    "train/cat/a.jpg",
    "train/ant/deep/er/z.PNG",
    "train/ant/.hidden.png",
    "val/ant/1.png",
    "val/cat/2.png",
  )


def names_of(split):
  return [os.path.relpath(split.reader.source.name(row)) for row in split.rows]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


# Folders ------------------------------------------------------------------------------


def test_a_folder_with_two_splits(tmp_path):
  (two_splits(tmp_path) / "train" / "ant" / "notes.txt").write_text("no image")
  loaded = registry.resolve("data", "folder", dir=str(tmp_path), **UNREAD)
  assert isinstance(loaded.train, Streamed)
  assert loaded.class_names == ("ant", "cat")
  assert names_of(loaded.train) == [
    "train/ant/deep/er/z.PNG",
    "train/cat/a.jpg",
    "train/cat/b.png",
  ]
  assert loaded.train.label.tolist() == [0, 1, 1]
  assert loaded.train.shape == (8, 8, 3)
  assert loaded.train.varies
  assert names_of(loaded.test) == ["val/ant/1.png", "val/cat/2.png"]
  assert not loaded.test.varies
  # 8 * 256 / 224
  assert loaded.test.reader.reading.resize == 9


def test_a_fraction_of_every_class_is_held_out(tmp_path):
  names = [f"{label}/{number}.png" for label in "abc" for number in range(10)]
  write(tmp_path, *names)
  # A folder of that name is a class where it has no folders.
  write(tmp_path, "train/1.png", "train/2.png")
  kwargs = {"dir": str(tmp_path), "test_fraction": 0.3, **UNREAD}
  first = folder(**kwargs)
  assert first.class_names == ("a", "b", "c", "train")
  assert np.bincount(first.test.label).tolist() == [3, 3, 3, 1]
  both = {*names_of(first.train), *names_of(first.test)}
  assert len(both) == 32
  assert names_of(folder(**kwargs).test) == names_of(first.test)
  assert names_of(folder(**kwargs, seed=1).test) != names_of(first.test)
  # An image that is held out does not stand in for a faulty one.
  stand_ins = first.train.reader.stand_ins(int(first.train.rows[0]))
  assert stand_ins
  assert not set(stand_ins) & set(first.test.rows.tolist())


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda root: (root / "train" / "bee").mkdir(), "train/bee has no images"),
    (lambda root: write(root, "val/dog/1.png"), "val/dog is a class that the"),
    (lambda root: (root / "val/cat").rename(root / "val/.cat"), "no folder 'cat'"),
    (lambda root: write(root, "test/ant/1.png"), "has val and test: set"),
    (lambda root: os.symlink("b.png", root / "train/cat/c.png"), "c.png is a link"),
    (lambda root: os.symlink("..", root / "train/cat/up"), "cat/up is a link"),
    (lambda root: os.symlink("/etc", root / "train/etc"), "train/etc is a link"),
    (lambda root: (root / "val").chmod(0), "val cannot be read (Permission denied)"),
    (lambda root: write(root, "train/a\nb/1.png", "val/a\nb/1.png"), "the name of"),
  ],
)
def test_folders_that_make_no_data_set(tmp_path, change, message):
  if "Permission" in message and os.geteuid() == 0:
    pytest.skip("root may read everything")
  change(two_splits(tmp_path))
  assert message in error_of(folder, dir=str(tmp_path), **UNREAD)


def test_links_are_followed_if_they_may_be(tmp_path):
  write(tmp_path / "elsewhere", "1.png", "2.png")
  two_splits(tmp_path / "data")
  os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "train" / "cat" / "more")
  loaded = folder(dir="data", follow_links=True, **UNREAD)
  assert "data/train/cat/more/2.png" in names_of(loaded.train)
  os.symlink("..", tmp_path / "data" / "train" / "cat" / "up")
  message = error_of(folder, dir="data", follow_links=True, **UNREAD)
  assert "leads in a circle" in message


def test_there_is_no_folder_or_nothing_in_it(tmp_path):
  assert "is no folder" in error_of(folder, dir=str(tmp_path / "no"))
  assert "has no folders" in error_of(folder, dir=str(tmp_path))
  write(tmp_path, "cat/1.png")
  assert "cat has a single image" in error_of(folder, dir=str(tmp_path), **UNREAD)
  with pytest.raises(ConfigError, match="dir must name"):
    folder()


@pytest.mark.parametrize(
  "keys, message",
  [
    ({"size": "12y"}, "size must be a number of pixels"),
    ({"size": "5000"}, r"size must lie in 1\.\.4096"),
    ({"crop": "center"}, "crop must be one of random, centre"),
    ({"size": "224", "test_resize": 100}, "test_resize must be 0, or from 224"),
    ({"interpolation": "nearest"}, "interpolation must be one of"),
    ({"on_error": "ignore"}, "on_error must be one of raise, skip"),
    ({"max_faulty": 2.0}, "max_faulty must lie in"),
    ({"threads": -1}, "threads must lie in"),
    ({"test_fraction": 1.0}, "test_fraction must lie"),
  ],
)
def test_keys_are_checked(tmp_path, keys, message):
  write(tmp_path, "cat/1.png", "cat/2.png")
  with pytest.raises(ConfigError, match=message):
    folder(dir=str(tmp_path), **{**UNREAD, **keys})


def test_sizes():
  assert parse_size("size", "") is None
  assert parse_size("size", 0) is None
  assert parse_size("size", 224) == (224, 224)
  assert parse_size("size", "256x128") == (256, 128)


def test_without_a_size_images_stay_as_they_are(tmp_path):
  write(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png", size=(32, 24))
  loaded = folder(dir=str(tmp_path), statistics="imagenet")
  assert loaded.train.shape == loaded.test.shape == (24, 32, 3)
  assert not loaded.train.varies


def test_what_is_no_file_is_not_opened(tmp_path):
  write(tmp_path, "1.png")
  os.mkfifo(tmp_path / "2.png")
  files = Files(tmp_path, list_images(tmp_path, follow_links=False))
  assert len(files) == 2
  assert files.paths([0, 1]) == [os.fsencode(tmp_path / "1.png"), b""]
  with pytest.raises(OSError, match="it is a pipe"):
    files.read([1])
  assert files.digest == Files(tmp_path / "moved", ["1.png", "2.png"]).digest
  assert files.digest != Files(tmp_path, ["1.png"]).digest


def test_tensorflow_is_needed_to_read_only(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  loaded = folder(dir=str(two_splits(tmp_path)), **UNREAD)
  requests = [(loaded.test.rows, loaded.test.rows)]

  def read():
    from jaxdistill.data import Request

    list(loaded.test.reader.batches(Request(*request) for request in requests))

  assert "pip install 'jaxdistill[tf]'" in error_of(read)


# Lists in a CSV file ------------------------------------------------------------------


def write_index(path, *rows, columns=("path", "label")):
  with open(path, "w", newline="") as file:
    csv.writer(file).writerows([columns, *rows])
  return str(path)


def test_a_list_with_splits_and_names(tmp_path):
  path = write_index(
    tmp_path / "index.csv",
    ("x/1.png", "dog", "train", "?"),
    ("2.png", "ant", "train", "?"),
    ("3, 4.png", "dog", "val", "?"),
    columns=("path", "label", "split", "remark"),
  )
  loaded = registry.resolve("data", "index_file", path=path, **UNREAD)
  assert loaded.name == "index"
  assert loaded.class_names == ("ant", "dog")
  assert names_of(loaded.train) == ["x/1.png", "2.png"]
  assert loaded.train.label.tolist() == [1, 0]
  assert names_of(loaded.test) == ["3, 4.png"]
  assert loaded.test.label.tolist() == [1]


def test_a_list_with_numbers(tmp_path):
  rows = [(f"{number}.png", number % 3) for number in range(30)]
  path = write_index(tmp_path / "index.csv", *rows)
  loaded = index_file(path=path, test_fraction=0.2, **UNREAD)
  assert loaded.class_names == ()
  assert loaded.num_classes == 3
  assert np.bincount(loaded.test.label).tolist() == [2, 2, 2]
  both = index_file(path=path, test_path=path, **UNREAD)
  assert len(both.train.label) == len(both.test.label) == 30


@pytest.mark.parametrize(
  "rows, columns, message",
  [
    ([("1.png", 0)], ("file", "label"), "has no column 'path'"),
    ([], ("path", "label"), "lists no images"),
    ([("1.png", "")], ("path", "label"), "line 2: a path or a label is missing"),
    ([("1.png",)], ("path", "label"), "line 2: a path or a label is missing"),
    ([("../1.png", 0)], ("path", "label"), "line 2: ../1.png leaves the folder"),
    ([("/1.png", 0)], ("path", "label"), "line 2: /1.png leaves the folder"),
    ([("1.png", 0), ("2.png", 2)] * 2, ("path", "label"), "class 1 has no training"),
    ([("1.png", 0, "tset")], ("path", "label", "split"), "the split is 'tset'"),
    ([("1.png", 0, "val")], ("path", "label", "split"), "no image of the split"),
    (
      [("1.png", "a", "train"), ("2.png", "b", "val")],
      ("path", "label", "split"),
      "line 3: 'b' is no class of the training images",
    ),
    (
      [("1.png", 0, "train"), ("2.png", 0, "val"), ("3.png", 0, "test")],
      ("path", "label", "split"),
      "has the splits test and val",
    ),
    ([("1.png", 10**30)] * 3, ("path", "label"), "is no class"),
  ],
)
def test_lists_that_make_no_data_set(tmp_path, rows, columns, message):
  path = write_index(tmp_path / "index.csv", *rows, columns=columns)
  assert message in error_of(index_file, path=path, **UNREAD)


def test_a_list_that_is_no_text(tmp_path):
  (tmp_path / "index.csv").write_bytes(b"path,label\n\xff.png,0\n")
  assert "UTF-8" in error_of(index_file, path="index.csv", **UNREAD)
  assert "No such file" in error_of(index_file, path="none.csv", **UNREAD)


# ImageNet -----------------------------------------------------------------------------


def test_imagenet_in_its_folders(tmp_path, monkeypatch):
  for split in ("train", "val"):
    write(tmp_path, *[f"{split}/n{label:08d}/1.jpeg" for label in range(10)])
  assert "has 10 classes, ImageNet has 1000" in error_of(imagenet, dir=str(tmp_path))

  monkeypatch.setattr("jaxdistill.data.imagenet._NUM_CLASSES", 10)
  assert "holds 10 training and 10 test images, ImageNet has 1281167" in error_of(
    imagenet, dir=str(tmp_path)
  )
  loaded = registry.resolve("data", "imagenet", dir=str(tmp_path), allow_partial=True)
  assert loaded.class_names[7] == "n00000007"
  assert loaded.train.shape == loaded.test.shape == (224, 224, 3)
  assert loaded.test.reader.reading.resize == 256
  assert loaded.mean == (0.485, 0.456, 0.406)


def test_imagenet_whose_validation_images_are_not_sorted(tmp_path):
  write(tmp_path, "train/n01440764/1.png", "val/ILSVRC2012_val_00000001.png")
  assert "a folder for each class" in error_of(imagenet, dir=str(tmp_path))
  assert "neither train/ and val/" in error_of(imagenet, dir=str(tmp_path / "val"))
