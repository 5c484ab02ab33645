"""Market-1501: what is read from names, and what is refused."""

import shutil

import numpy as np
from PIL import Image
import pytest

from jaxdistill.core import registry
from jaxdistill.data import Ranking, checked
from jaxdistill.errors import ConfigError, DataError
from tests.helpers import market


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  return market.write(tmp_path_factory.mktemp("market") / "Market-1501-v15.09.15")


@pytest.fixture
def folder(original, tmp_path):
  """A copy to be damaged."""
  return shutil.copytree(original, tmp_path / "market")


def read(folder, **keys):
  keys = {"height": 32, "width": 16, "allow_partial": True, **keys}
  return registry.resolve("data", "market1501", dir=str(folder), **keys)


def test_persons_cameras_and_queries_are_read_from_the_names(original):
  # The folder around it does as well.
  dataset = read(original.parent, height=24, width=12)
  assert dataset.train.image.shape == (24, 24, 12, 3)
  assert dataset.num_classes == 4
  np.testing.assert_array_equal(dataset.train.label, np.repeat(range(4), 6))
  assert dataset.class_names == ("0001", "0003", "0005", "0007")
  ranking = dataset.ranking
  assert ranking.identity[:12].tolist() == np.repeat([2, 4, 6, 8], 3).tolist()
  assert ranking.identity[12:14].tolist() == [-1, 0]
  assert ranking.camera[:14].tolist() == [1, 2, 3] * 4 + [1, 2]
  assert ranking.is_query.tolist() == [True] * 12 + [False] * 14
  assert ranking.distance == "cosine"


def test_images_are_those_of_the_files_resized(original):
  path = original / "query" / "0002_c1s1_000000_01.jpg"
  with Image.open(path) as image:
    same = np.asarray(image)
    resized = np.asarray(image.resize((20, 48), Image.Resampling.BILINEAR))
  np.testing.assert_array_equal(read(original).test.image[0], same)
  larger = read(original, height=48, width=20)
  np.testing.assert_array_equal(larger.test.image[0], resized)


TRAIN = "bounding_box_train/0001_c1s1_000000_01.jpg"
GALLERY = "bounding_box_test"


def rename(new):
  return lambda folder: (folder / TRAIN).rename(folder / new)


def remove(name):
  return lambda folder: shutil.rmtree(folder / name)


def empty_gallery(folder):
  for path in (folder / GALLERY).glob("*.jpg"):
    path.unlink()


def cut_off(folder):
  content = (folder / TRAIN).read_bytes()
  (folder / TRAIN).write_bytes(content[: len(content) // 2])


def huge(folder):
  market.save(folder / TRAIN, np.zeros((2048, 2049, 3), np.uint8))


def other_format(folder):
  with Image.open(folder / TRAIN) as image:
    image.save(folder / TRAIN, "PNG")


@pytest.mark.parametrize(
  "damage, message",
  [
    (remove("bounding_box_train"), "has no folder bounding_box_train: unpack Market"),
    (remove("query"), "query cannot be read .No such file.*: unpack"),
    (empty_gallery, f"{GALLERY} has no images: unpack"),
    (rename(f"{GALLERY}/0002_c7s1_000000_01.jpg"), "0002_c7s1.* is not named as"),
    (rename("query/2_c1.jpg"), "query/2_c1.jpg is not named as"),
    (rename("query/1502_c1s1_000000_01.jpg"), "shows identity 1502, .* -1 to 1501"),
    (rename("query/0000_c1s1_000000_01.jpg"), r"shows nobody \(identity 0\)"),
    (rename("query/0003_c1s1_000000_01.jpg"), "shows identity 3, which is in bound"),
    (cut_off, f"{TRAIN} cannot be read .*[Tt]runcated"),
    (huge, f"{TRAIN} is 2048x2049 pixels"),
    (other_format, f"{TRAIN} cannot be read .*cannot identify"),
  ],
)
def test_what_is_damaged_is_refused_in_a_line(folder, damage, message):
  damage(folder)
  with pytest.raises(DataError, match=message):
    read(folder)


def test_a_part_is_refused_unless_it_is_meant(original):
  message = "bounding_box_train holds 24 images, Market-1501 has 12936: .*allow_partial"
  with pytest.raises(DataError, match=message):
    read(original, allow_partial=False)


@pytest.mark.parametrize(
  "keys, message",
  [
    ({"height": 0}, "height must lie in 1..1024, got 0"),
    ({"distance": "taxi"}, "distance must be one of cosine, euclidean, got 'taxi'"),
  ],
)
def test_values_out_of_range_are_refused(original, keys, message):
  with pytest.raises(ConfigError, match=message):
    read(original, **keys)
  with pytest.raises(ConfigError, match="dir must name the folder"):
    read("")


@pytest.mark.parametrize(
  "changed, message",
  [
    ({"identity": np.ones(3)}, r"ranking.identity is float64\[3\]: give one integer"),
    ({"camera": np.ones(2, int)}, r"ranking.camera is int64\[2\].* the 3 test images"),
    ({"is_query": np.ones(3, int)}, r"ranking.is_query is int64\[3\]: give a bool"),
    ({"camera": np.ones(3, int)}, "no image of any query's identity by another camera"),
  ],
)
def test_a_ranking_of_ones_own_is_checked(changed, message):
  arrays = {
    "identity": np.array([1, 1, 2]),
    "camera": np.array([1, 2, 1]),
    "is_query": np.array([True, False, False]),
  }
  images = np.zeros((3, 2, 2, 3), np.uint8)
  split = (images, np.zeros(3, int))
  ranking = Ranking(**arrays)
  assert checked("mine", split, split, 1, ranking=ranking).ranking.identity[2] == 2
  with pytest.raises(DataError, match=message):
    checked("mine", split, split, 1, ranking=ranking._replace(**changed))
