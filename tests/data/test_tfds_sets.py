"""Prepared sets of tensorflow_datasets that are read when they are needed."""

import io
import json

import numpy as np
from PIL import Image
import pytest

from jaxdistill.core import registry
from jaxdistill.data import Request
from jaxdistill.data.imagenet import imagenet
from jaxdistill.data.tfds import tfds
from jaxdistill.errors import ConfigError
from tests.helpers.data_files import TEST, TRAIN, error_of, to_tfrecord, write_tfds

UNREAD = {"size": "32", "statistics": "imagenet"}
FORMATS = {"array_record": lambda folder: folder, "tfrecord": to_tfrecord}


@pytest.fixture(params=FORMATS)
def prepared(tmp_path, arrays, request):
  """A small set under the name of flowers, in either format."""
  return FORMATS[request.param](write_tfds(tmp_path, "flowers", arrays))


def load(prepared, **keys):
  root = prepared.parent.parent
  return registry.resolve("data", "tfds", set="flowers", dir=str(root), **keys)


def contents(split):
  """Returns the pixels of each example, and its label."""
  pixels = []
  for content in split.reader.source.read(split.rows.tolist()):
    pixels.append(np.asarray(Image.open(io.BytesIO(content))))
  return np.stack(pixels), split.label


def in_order(images, labels):
  """Sorts examples, as preparing has shuffled them."""
  flat = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
  return flat[np.lexsort(flat.T[::-1])]


def test_labels_and_images_are_found_without_tensorflow(prepared, arrays):
  loaded = load(prepared, **UNREAD)
  assert loaded.num_classes == 10
  assert loaded.class_names == ()
  assert (len(loaded.train.label), len(loaded.test.label)) == (TRAIN, TEST)
  for split, name in ((loaded.train, "train"), (loaded.test, "test")):
    images, labels = contents(split)
    expected = in_order(arrays[f"images_{name}"], arrays[f"labels_{name}"])
    np.testing.assert_array_equal(in_order(images, labels), expected)
  # In any order, and twice.
  source = loaded.train.reader.source
  every = source.read(range(TRAIN))
  assert source.read([7, 0, 7]) == [every[7], every[0], every[7]]
  assert source.name(7).endswith("-00000-of-00001 record 7")
  assert load(prepared, **UNREAD).train.reader.digest == loaded.train.reader.digest


@pytest.mark.slow
def test_other_splits_and_sizes(prepared):
  loaded = load(prepared, test_split="train")
  assert len(loaded.test.label) == TRAIN
  assert loaded.train.shape == (32, 32, 3)
  assert "it has no split 'validation'" in error_of(
    load, prepared, test_split="validation", **UNREAD
  )


def test_sets_that_are_not_there(prepared):
  root = str(prepared.parent.parent)
  message = error_of(tfds, set="oxford_flowers102", dir=root)
  assert "run `tfds build oxford_flowers102" in message
  assert "imagenet2012/<version>/" in error_of(imagenet, dir=root)
  with pytest.raises(ConfigError, match="set must name a data set"):
    tfds()


def test_class_names_of_a_prepared_set(prepared):
  names = [f"flower {label}" for label in range(10)]
  (prepared / "label.labels.txt").write_text("\n".join(names) + "\n")
  assert load(prepared, **UNREAD).class_names == tuple(names)
  (prepared / "label.labels.txt").write_text("rose\n")
  assert "1 class names for 10 classes" in error_of(load, prepared, **UNREAD)

  (prepared / "label.labels.txt").unlink()
  path = prepared / "features.json"
  table = json.loads(path.read_text())
  label = table["featuresDict"]["features"]["label"]["classLabel"]
  label["numClasses"] = "4"
  path.write_text(json.dumps(table))
  assert "is outside 0..3" in error_of(load, prepared, **UNREAD)
  label["numClasses"] = "many"
  path.write_text(json.dumps(table))
  assert "'many' is no number of classes" in error_of(load, prepared, **UNREAD)


def damage_length(data):
  data[0] ^= 1


def damage_checksum(data):
  data[8] ^= 1


def cut_off(data):
  del data[-10:]


def damage_key(data):
  at = data.index(b"label")
  data[at : at + 5] = b"lebal"


@pytest.mark.parametrize(
  "damage, message",
  [
    (damage_length, "it is damaged or cut off"),
    (damage_checksum, "its length has a wrong checksum"),
    (cut_off, f"in record {TRAIN - 1} (it is damaged or cut off)"),
    (damage_key, "it has no image and label"),
    (bytearray.clear, f"holds 0 examples, but dataset_info.json declares {TRAIN}"),
  ],
)
def test_damaged_tfrecord_files(tmp_path, arrays, damage, message):
  prepared = to_tfrecord(write_tfds(tmp_path, "flowers", arrays))
  (path,) = prepared.glob("*train*")
  data = bytearray(path.read_bytes())
  if damage is damage_length:
    data[0:8] = (10**12).to_bytes(8, "little")
  else:
    damage(data)
  path.write_bytes(data)
  text = error_of(load, prepared, **UNREAD)
  assert message in text.replace("DataError: ", "")


def test_a_record_that_was_damaged_since(tmp_path, arrays):
  prepared = to_tfrecord(write_tfds(tmp_path, "flowers", arrays))
  loaded = load(prepared, **UNREAD)
  (path,) = prepared.glob("*train*")
  data = bytearray(path.read_bytes())
  data[1000] ^= 1
  path.write_bytes(data)
  with pytest.raises(OSError, match="wrong checksum"):
    loaded.train.reader.source.read([0])
  assert len(loaded.train.reader.source.read([1])) == 1


@pytest.mark.slow
def test_a_prepared_set_is_read_by_tensorflow(prepared, arrays):
  pytest.importorskip("tensorflow")
  loaded = load(prepared, on_error="skip")
  assert loaded.train.shape == (32, 32, 3)
  rows = loaded.train.rows
  ((images, intact),) = loaded.train.reader.batches([Request(rows, rows)])
  assert intact.all()
  np.testing.assert_array_equal(images, contents(loaded.train)[0])
  flat = arrays["images_train"].reshape(-1, 3) / 255
  np.testing.assert_allclose(loaded.mean, flat.mean(axis=0), rtol=0, atol=1e-4)
  if not list(prepared.glob("*tfrecord*")):
    return
  # One record of it is damaged.
  (path,) = prepared.glob("*train*")
  data = bytearray(path.read_bytes())
  data[1000] ^= 1
  path.write_bytes(data)
  (batch,) = loaded.train.reader.batches([Request(rows, rows)])
  same_class = np.flatnonzero(loaded.train.label == loaded.train.label[0])
  np.testing.assert_array_equal(batch.image[0], images[same_class[1]])
  np.testing.assert_array_equal(batch.image[1:], images[1:])
  assert list(loaded.train.reader.faulty.values()) == ["it has a wrong checksum"]
