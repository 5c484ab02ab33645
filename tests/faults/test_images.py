"""Faulty image files in every kind of data set that reads images when needed."""

import io

import numpy as np
from PIL import Image
import pytest

from jaxdistill.core import registry
from jaxdistill.data import Dataset, Request
from jaxdistill.tools import _images
from tests.helpers import data_files, pictures

pytestmark = pytest.mark.slow

# That of the pictures.
SIZE = (24, 20)
CLASSES = 3

# Of an animation, reading takes the first frame; preparing refuses it.
FAULTY = {
  name: content for name, (content, _) in pictures.FAULTY.items() if name != "animation"
}


def label_of(number):
  return number % CLASSES


# Each writes encoded training images, in classes 0, 1, 2, 0, ..., into a folder, and
# returns the name and the keys of the data set.


def write_folder(root, contents):
  for number, content in enumerate(contents):
    folder = root / "train" / f"class{label_of(number)}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:03d}.jpg").write_bytes(content)
  for label in range(CLASSES):
    folder = root / "val" / f"class{label}"
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes(pictures.encoded(pictures.picture(label)))
  return {"name": "folder", "dir": str(root)}


def write_list(root, contents):
  write_folder(root, contents)
  lines = ["path,label,split"]
  for number in range(len(contents)):
    label = label_of(number)
    lines.append(f"train/class{label}/{number:03d}.jpg,{label},train")
  lines += [f"val/class{label}/0.jpg,{label},val" for label in range(CLASSES)]
  (root / "list.csv").write_text("\n".join(lines))
  return {"name": "index_file", "path": str(root / "list.csv")}


def write_tfds(root, contents):
  tests = [pictures.encoded(pictures.picture(label)) for label in range(CLASSES)]
  arrays = {
    "images_train": contents,
    "labels_train": [label_of(number) for number in range(len(contents))],
    "images_test": tests,
    "labels_test": list(range(CLASSES)),
  }
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data_files, "_png", bytes)
    data_files.write_tfds(
      root, "odd", arrays, declared_shape=(None, None, 3), num_classes=CLASSES
    )
  return {"name": "tfds", "set": "odd", "dir": str(root)}


def write_tfrecords(root, contents):
  keys = write_tfds(root, contents)
  data_files.to_tfrecord(root / "odd" / "3.0.2")
  return keys


LAYOUTS = {
  "folder": write_folder,
  "list": write_list,
  "array_record": write_tfds,
  "tfrecord": write_tfrecords,
}


@pytest.fixture(params=LAYOUTS)
def write(request):
  return LAYOUTS[request.param]


def load(root, write, contents, **keys) -> Dataset:
  written = write(root, contents)
  name = written.pop("name")
  size = f"{SIZE[0]}x{SIZE[1]}"
  options = {"size": size, "statistics": "imagenet", **written, **keys}
  return registry.resolve("data", name, **options)


def read(dataset, rows, split="train"):
  index = np.array(rows)
  reader = getattr(dataset, split).reader
  return list(reader.batches([Request(index, np.zeros(len(index), np.int64))]))


def rows_of(dataset, contents):
  """Rows of training images; some kinds of data sets shuffle what is written."""
  source = dataset.train.reader.source
  stored = source.read(range(len(contents)))
  return [stored.index(content) for content in contents]


def intact(count):
  return [pictures.encoded(pictures.picture(seed)) for seed in range(count)]


def test_every_faulty_image_is_named(tmp_path, write):
  contents = [*FAULTY.values(), *intact(2 * CLASSES)]
  dataset = load(tmp_path, write, contents)
  rows = rows_of(dataset, contents)
  for number, name in enumerate(FAULTY):
    row = rows[number]
    text = data_files.error_of(read, dataset, [rows[-1], row])
    assert text.startswith(dataset.train.reader.source.name(row)), name
    assert "data.on_error=skip" in text


def test_faulty_images_are_skipped_and_counted(tmp_path, write):
  contents = [*FAULTY.values(), *intact(2 * CLASSES)]
  dataset = load(tmp_path, write, contents, on_error="skip")
  rows = rows_of(dataset, contents)
  (batch,) = read(dataset, rows)
  assert batch.intact.all()
  reader = dataset.train.reader
  expected = {reader.source.name(rows[number]) for number in range(len(FAULTY))}
  assert set(reader.faulty) == expected
  # Always the same ones stand in, of the same class.
  (again,) = read(dataset, rows[::-1])
  np.testing.assert_array_equal(again.image[::-1], batch.image)
  good = {}
  for number in range(len(FAULTY), len(contents)):
    good.setdefault(label_of(number), []).append(batch.image[number])
  for number in range(len(FAULTY)):
    images = good[label_of(number)]
    assert any(np.array_equal(batch.image[number], image) for image in images)


def test_unusual_images_are_read_as_they_are_prepared(tmp_path, write):
  contents = list(pictures.UNUSUAL.values())
  dataset = load(tmp_path, write, contents, crop="centre", resize=min(SIZE))
  (batch,) = read(dataset, rows_of(dataset, contents))
  settings = _images.Settings(size=0)
  compared = 0
  for image, content in zip(batch.image, contents, strict=True):
    stored = _images.store(content, settings)
    # One of them is smaller, and two ways of enlarging differ.
    if (stored.height, stored.width) == SIZE:
      pixels = Image.open(io.BytesIO(stored.content)).convert("RGB")
      difference = image.astype(int) - np.asarray(pixels, int)
      assert np.abs(difference).mean() < 3
      compared += 1
  assert compared == len(contents) - 1
