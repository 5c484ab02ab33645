"""Market-1501: persons that are to be found again, by six cameras."""

from collections.abc import Sequence
import concurrent.futures
import io
import os
from pathlib import Path
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxdistill.core.foreign import expand, read_file
from jaxdistill.data import DISTANCES, Dataset, Ranking, checked
from jaxdistill.errors import DataError, reason, require, require_choice

ARCHIVE = "Market-1501-v15.09.15"
TRAIN = "bounding_box_train"
QUERY = "query"
GALLERY = "bounding_box_test"

# Images of the three folders.
_FULL = {TRAIN: 12_936, QUERY: 3_368, GALLERY: 19_732}

# Identity, camera, sequence, frame, box. Identity -1 is junk, 0000 a distractor.
_NAME = re.compile(r"(-1|[0-9]{4})_c([1-6])s[0-9]_[0-9]{6}_[0-9]{2}(\.jpg){1,2}")
_LARGEST_IDENTITY = 1501

# Of ImageNet, with which networks for this task usually start.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

_MAX_FILE_BYTES = 2**20
_MAX_PIXELS = 2**22
_MAX_SIDE = 1024


class _File(NamedTuple):
  """An image of which only the name has been read.

  Attributes:
    path: of the file.
    identity: of the person; -1 is junk, 0 a distractor.
    camera: 1 to 6.
  """

  path: Path
  identity: int
  camera: int


def market1501(
  *,
  dir: str = "",
  height: int = 256,
  width: int = 128,
  distance: str = "cosine",
  allow_partial: bool = False,
) -> Dataset:
  """Returns Market-1501: 12,936 images of 751 persons, and others to be searched.

  Networks are trained to tell the 751 persons apart. They are measured on 750 others:
  3,368 queries search 19,732 images, of which 2,798 show nobody who is searched, and
  3,819 are junk that does not count. All images are kept in memory: 3.5 GB at 256x128.

  Args:
    dir: the unpacked archive, a folder with bounding_box_train, query and
      bounding_box_test, or the folder around it.
    height: pixels that images are resized to; theirs are 128.
    width: likewise; theirs are 64.
    distance: between the features of two images: "cosine" or "euclidean".
    allow_partial: accept fewer images than the full set has.

  Returns:
    The data set: persons numbered from 0 in the order of their identities, images in
      the order of their names, queries before the images that they search; normalised
      by the statistics of ImageNet.

  Raises:
    ConfigError: if no folder is named, or a value is out of range.
    DataError: naming what is missing or damaged, or not named as in the original.

  Reference:
    L. Zheng, L. Shen, L. Tian, S. Wang, J. Wang, Q. Tian: Scalable Person
      Re-identification: A Benchmark. ICCV 2015.
  """
  require(bool(dir), f"dir must name the folder {ARCHIVE}, the unpacked archive")
  for name, side in (("height", height), ("width", width)):
    require(1 <= side <= _MAX_SIDE, f"{name} must lie in 1..{_MAX_SIDE}, got {side}")
  require_choice(distance=(distance, DISTANCES))

  root = _find(expand(dir))
  train = _list(root / TRAIN)
  query = _list(root / QUERY)
  gallery = _list(root / GALLERY)
  _require_complete(root, train, query, gallery, allow_partial=allow_partial)
  _require_persons(train)
  _require_persons(query)
  _require_disjoint(train, query)

  # Persons are numbered in the order of their identities.
  identities = np.array([file.identity for file in train])
  persons, labels = np.unique(identities, return_inverse=True)

  test = query + gallery
  ranking = Ranking(
    identity=np.array([file.identity for file in test]),
    camera=np.array([file.camera for file in test]),
    is_query=np.arange(len(test)) < len(query),
    distance=distance,
  )
  return checked(
    "market1501",
    train=(_read(train, height, width), labels),
    test=(_read(test, height, width), np.zeros(len(test), np.int32)),
    num_classes=len(persons),
    mean=_MEAN,
    std=_STD,
    where=str(root),
    class_names=[f"{person:04d}" for person in persons],
    ranking=ranking,
  )


# Finding.


def _find(path: Path) -> Path:
  """Returns the folder that has the three folders of images."""
  for root in (path, path / ARCHIVE):
    if os.path.isdir(root / TRAIN):
      return root
  raise DataError(
    f"{path} has no folder {TRAIN}: unpack {ARCHIVE}.zip there, or set data.dir to the "
    "folder that it makes"
  )


def _list(folder: Path) -> list[_File]:
  """Returns the images of a folder in the order of their names."""
  try:
    names = sorted(os.listdir(folder))
  except OSError as error:
    raise DataError(
      f"{folder} cannot be read ({reason(error)}): unpack {ARCHIVE}.zip again"
    ) from error
  files = []
  for name in names:
    # What file managers leave behind.
    if name == "Thumbs.db" or name.startswith("."):
      continue
    files.append(_parse(folder, name))
  if not files:
    raise DataError(f"{folder} has no images: unpack {ARCHIVE}.zip again")
  return files


def _parse(folder: Path, name: str) -> _File:
  """Reads who is in an image, and which camera took it, from the name of its file."""
  match = _NAME.fullmatch(name)
  if not match:
    raise DataError(
      f"{folder / name} is not named as Market-1501's images are, such as "
      "0002_c1s1_000451_03.jpg: take it away, or unpack the archive again"
    )
  identity = int(match[1])
  if identity > _LARGEST_IDENTITY:
    raise DataError(
      f"{folder / name} shows identity {identity}, Market-1501 has -1 to "
      f"{_LARGEST_IDENTITY}: take it away, or unpack the archive again"
    )
  return _File(path=folder / name, identity=identity, camera=int(match[2]))


# Checking.


def _require_complete(
  root: Path,
  train: Sequence[_File],
  query: Sequence[_File],
  gallery: Sequence[_File],
  *,
  allow_partial: bool,
) -> None:
  """Raises DataError unless all images are there, or fewer are there and allowed."""
  counts = {TRAIN: len(train), QUERY: len(query), GALLERY: len(gallery)}
  for folder, count in counts.items():
    full = _FULL[folder]
    if count == full or (allow_partial and count < full):
      continue
    raise DataError(
      f"{root / folder} holds {count} images, Market-1501 has {full}: unpack the "
      "archive again, or set data.allow_partial=True if a part is meant"
    )


def _require_persons(files: Sequence[_File]) -> None:
  """Raises DataError for an image that shows junk or a distractor."""
  for file in files:
    if file.identity < 1:
      raise DataError(
        f"{file.path} shows nobody (identity {file.identity}): such images belong to "
        f"{GALLERY}: unpack the archive again"
      )


def _require_disjoint(train: Sequence[_File], query: Sequence[_File]) -> None:
  """Raises DataError for a query that shows a person who is trained on."""
  trained = {file.identity for file in train}
  for file in query:
    if file.identity in trained:
      raise DataError(
        f"{file.path} shows identity {file.identity}, which is in {TRAIN} too: persons "
        "who are searched must not be trained on, unpack the archive again"
      )


# Reading.


def _read(files: Sequence[_File], height: int, width: int) -> np.ndarray:
  """Returns uint8[N, height, width, 3]; Pillow decodes outside of Python's lock."""
  images = np.empty((len(files), height, width, 3), np.uint8)

  def read_one(row: int) -> None:
    images[row] = _decode(files[row].path, height, width)

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    # Where one cannot be read, those behind it are not begun.
    for _ in pool.map(read_one, range(len(files))):
      pass
  return images


def _decode(path: Path, height: int, width: int) -> np.ndarray:
  """Returns an image, resized: uint8[height, width, 3]."""
  try:
    content = read_file(path, _MAX_FILE_BYTES)
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
      # Before decoding: a header may claim an image of gigabytes.
      if image.width * image.height > _MAX_PIXELS:
        raise DataError(
          f"{path} is {image.height}x{image.width} pixels, Market-1501's images are "
          "128x64: unpack the archive again"
        )
      resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
      return np.asarray(resized)
  except DataError:
    raise
  # Each of Pillow's decoders raises types of its own.
  except Exception as error:
    raise DataError(
      f"{path} cannot be read ({reason(error)}): unpack the archive again"
    ) from error
