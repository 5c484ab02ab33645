"""CIFAR-10 and CIFAR-100 from whichever of their usual layouts is on the disk.

Nothing is ever downloaded.

Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from collections.abc import Sequence
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.foreign import expand
from jaxdistill.data import Dataset, Split, checked
from jaxdistill.data._archive import File, read_files
from jaxdistill.data._npz import read_class_names, read_split
from jaxdistill.data._pickle import read_pickled_arrays
from jaxdistill.data._tfds import PREPARED_NAMES, prepared_versions, read_tfds_split
from jaxdistill.errors import DataError, require_choice

SHAPE = (32, 32, 3)
PIXEL_BYTES = 3072
EXAMPLES = (50_000, 10_000)
SOURCES = ("auto", "tfds", "binary", "python", "npz")
SIZES = (32, 16, 8)
# An original archive unpacks to 187 MB, one that Python 3 pickled again to 269 MB.
MAX_BYTES = 2**29

Arrays = tuple[np.ndarray, np.ndarray]
"""(images, labels)."""


class _Original(NamedTuple):
  """One of the two versions of the original archive.

  Attributes:
    folder: that it unpacks to.
    archive: its file name.
    suffix: of the batch files.
    names_file: file with the names of the classes.
  """

  folder: str
  archive: str
  suffix: str
  names_file: str


class _Variant(NamedTuple):
  """What tells CIFAR-10 and CIFAR-100 apart.

  Attributes:
    name: of the data set.
    class_names: in the order of the labels.
    binary: the version of plain bytes.
    python: the version of pickled batches.
    train: batch files of the training split.
    test: of the test split.
    label_key: key of the labels in the python version.
    names_key: key of the class names there.
    label_bytes: bytes before the pixels in the binary version; the last of them is the
      label.
    mean: of the full training split, in [0, 1]: a constant, so that a partial set does
      not change it.
    std: likewise.
  """

  name: str
  class_names: tuple[str, ...]
  binary: _Original
  python: _Original
  train: tuple[str, ...]
  test: tuple[str, ...]
  label_key: str
  names_key: str
  label_bytes: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


_CIFAR10 = _Variant(
  name="cifar10",
  class_names=tuple(
    "airplane automobile bird cat deer dog frog horse ship truck".split()
  ),
  binary=_Original(
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    suffix=".bin",
    names_file="batches.meta.txt",
  ),
  python=_Original(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    suffix="",
    names_file="batches.meta",
  ),
  train=tuple(f"data_batch_{number}" for number in range(1, 6)),
  test=("test_batch",),
  label_key="labels",
  names_key="label_names",
  label_bytes=1,
  mean=(0.4914, 0.4822, 0.4465),
  std=(0.2470, 0.2435, 0.2616),
)

_CIFAR100 = _Variant(
  name="cifar100",
  class_names=tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge
    bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud
    cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox
    girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter
    palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit
    raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
  ),
  binary=_Original(
    folder="cifar-100-binary",
    archive="cifar-100-binary.tar.gz",
    suffix=".bin",
    names_file="fine_label_names.txt",
  ),
  python=_Original(
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    suffix="",
    names_file="meta",
  ),
  train=("train",),
  test=("test",),
  label_key="fine_labels",
  names_key="fine_label_names",
  label_bytes=2,
  mean=(0.5071, 0.4865, 0.4409),
  std=(0.2673, 0.2564, 0.2762),
)


def cifar10(
  *, dir: str = "", source: str = "auto", allow_partial: bool = False, size: int = 32
) -> Dataset:
  """Returns CIFAR-10: 50,000 + 10,000 images of 32x32 pixels in 10 classes.

  Args:
    dir: local directory to search; empty for $TFDS_DATA_DIR, else
      ~/tensorflow_datasets. It may hold cifar10/<version>/ as tensorflow_datasets
      prepares it, cifar-10-batches-bin/ or cifar-10-binary.tar.gz, cifar-10-batches-py/
      or cifar-10-python.tar.gz, cifar10.npz, or cifar10_train.npz and cifar10_test.npz.
    source: "tfds", "binary", "python" or "npz" to insist on one; "auto" takes the first
      that is there.
    allow_partial: accept fewer images than the full set has.
    size: pixels of a side, 32, 16 or 8; a pixel of a smaller image is the mean of a
      block. A convolution does a quarter of the work on half the side.

  Returns:
    The data set, in the order of the original files for every source but npz, which
    keeps its own.

  Raises:
    DataError: if it is not there, incomplete or damaged; no network is tried and
      nothing is substituted.
  """
  return _load(_CIFAR10, dir, source, allow_partial, size)


def cifar100(
  *, dir: str = "", source: str = "auto", allow_partial: bool = False, size: int = 32
) -> Dataset:
  """Returns CIFAR-100 with its fine labels: 50,000 + 10,000 images in 100 classes.

  Args:
    dir: local directory to search; empty for $TFDS_DATA_DIR, else
      ~/tensorflow_datasets. It may hold cifar100/<version>/ as tensorflow_datasets
      prepares it, cifar-100-binary/ or cifar-100-binary.tar.gz, cifar-100-python/ or
      cifar-100-python.tar.gz, cifar100.npz, or cifar100_train.npz and
      cifar100_test.npz.
    source: "tfds", "binary", "python" or "npz" to insist on one; "auto" takes the first
      that is there.
    allow_partial: accept fewer images than the full set has.
    size: pixels of a side, 32, 16 or 8; a pixel of a smaller image is the mean of a
      block. A convolution does a quarter of the work on half the side.

  Returns:
    The data set, in the order of the original files for every source but npz, which
    keeps its own.

  Raises:
    DataError: if it is not there, incomplete or damaged; no network is tried and
      nothing is substituted.
  """
  return _load(_CIFAR100, dir, source, allow_partial, size)


def _load(
  variant: _Variant, folder: str, source: str, allow_partial: bool, size: int
) -> Dataset:
  """Finds a source of the data set, reads it, and checks that it is the whole set."""
  require_choice(source=(source, SOURCES), size=(size, SIZES))
  root = _root(folder)
  found = _find(variant, root)
  if source == "auto" and found:
    source = next(iter(found))
  if source not in found:
    raise DataError(_missing(variant, root, source, found))

  path = found[source]
  train, test = _read(variant, root, path, source)
  dataset = checked(
    variant.name,
    train=train,
    test=test,
    num_classes=len(variant.class_names),
    mean=variant.mean,
    std=variant.std,
    where=str(path),
    class_names=variant.class_names,
  )
  _require_shape(dataset, path)
  _require_complete(dataset, path, allow_partial)
  assert isinstance(dataset.train, Split) and isinstance(dataset.test, Split)
  return dataset._replace(
    train=_averaged(dataset.train, size), test=_averaged(dataset.test, size)
  )


def _averaged(split: Split, size: int) -> Split:
  """Returns a split of smaller images, whose pixels are the means of blocks."""
  side = SHAPE[0] // size
  if side == 1:
    return split
  blocks = split.image.reshape(-1, size, side, size, side, 3)
  sums = blocks.sum(axis=(2, 4), dtype=np.uint16)
  pixels = side * side
  # Rounded to the nearest.
  return split._replace(image=((sums + pixels // 2) // pixels).astype(np.uint8))


# Finding.


def _root(folder: str) -> Path:
  """Returns the directory to search."""
  if not folder:
    folder = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return expand(folder)


def _find(variant: _Variant, root: Path) -> dict[str, Path]:
  """Returns source -> path of what is under `root`, in the order of preference."""
  npz_train, _ = _npz_files(variant, root)
  candidates = {
    "tfds": prepared_versions(root / variant.name),
    "binary": [root / variant.binary.folder, root / variant.binary.archive],
    "python": [root / variant.python.folder, root / variant.python.archive],
    "npz": [npz_train],
  }
  found = {}
  for source, paths in candidates.items():
    present = [path for path in paths if os.path.exists(path)]
    if present:
      found[source] = present[0]
  return found


def _npz_files(variant: _Variant, root: Path) -> tuple[Path, Path]:
  """Returns the files of the training and the test arrays; they may be the same."""
  single = root / f"{variant.name}.npz"
  if os.path.exists(single):
    return single, single
  return root / f"{variant.name}_train.npz", root / f"{variant.name}_test.npz"


def _missing(variant: _Variant, root: Path, source: str, found: dict[str, Path]) -> str:
  """Says in one line what was looked for, where, and how to get it."""
  name = variant.name
  looked_for = {
    "tfds": f"{name}/<version>/",
    "binary": f"{variant.binary.folder}/",
    "python": f"{variant.python.folder}/",
    "npz": f"{name}.npz",
  }
  wanted = looked_for.get(source) or ", ".join(looked_for.values())
  if found:
    state = f"{root} has only {', '.join(found)} of {name}"
  elif os.path.isdir(root):
    state = f"{root} has no {name}"
  else:
    state = f"{root} does not exist"
  original = variant.python if source == "python" else variant.binary
  return (
    f"{state}; looked for {wanted}: run "
    f"`curl -LO https://www.cs.toronto.edu/~kriz/{original.archive}` there, or set "
    "data.dir, or data.name=digits"
  )


# Reading.


def _read(
  variant: _Variant, root: Path, path: Path, source: str
) -> tuple[Arrays, Arrays]:
  """Returns the training and the test arrays of a source."""
  if source == "tfds":
    _check_prepared_names(variant, path)
    return read_tfds_split(path, "train", SHAPE), read_tfds_split(path, "test", SHAPE)
  if source == "npz":
    train_file, test_file = _npz_files(variant, root)
    names = read_class_names(train_file)
    if names:
      _require_names(variant, str(train_file), names)
    return read_split(train_file, "train"), read_split(test_file, "test")
  return _read_original(variant, path, source)


def _check_prepared_names(variant: _Variant, path: Path) -> None:
  """Raises DataError if a prepared directory numbers its classes in another way."""
  files = read_files(
    path,
    folder="",
    names=(),
    optional=[PREPARED_NAMES],
    max_bytes=MAX_BYTES,
  )
  for file in files:
    _require_names(variant, file.where, _parse_names(variant, file, source="binary"))


def _read_original(variant: _Variant, path: Path, source: str) -> tuple[Arrays, Arrays]:
  """Reads the original archive, or the folder it unpacks to, in either version."""
  original = variant.binary if source == "binary" else variant.python
  parse = _parse_binary if source == "binary" else _parse_python
  batches = {}
  files = read_files(
    path,
    folder=original.folder,
    names=[name + original.suffix for name in (*variant.train, *variant.test)],
    optional=[original.names_file],
    max_bytes=MAX_BYTES,
  )
  for file in files:
    if file.name == original.names_file:
      _require_names(variant, file.where, _parse_names(variant, file, source))
    else:
      batches[file.name.removesuffix(original.suffix)] = parse(variant, file)
  return _join(batches, variant.train), _join(batches, variant.test)


def _join(batches: dict[str, Arrays], names: tuple[str, ...]) -> Arrays:
  """Joins the batches of a split."""
  images = np.concatenate([batches[name][0] for name in names])
  labels = np.concatenate([batches[name][1] for name in names])
  return images, labels


def _parse_binary(variant: _Variant, file: File) -> Arrays:
  """Reads a batch of records, each of them the labels and the pixels."""
  record_bytes = variant.label_bytes + PIXEL_BYTES
  if not file.content or len(file.content) % record_bytes:
    raise DataError(
      f"{file.where} has {len(file.content)} bytes, which is no multiple of "
      f"{record_bytes}: it is cut off or not the binary version of {variant.name}"
    )
  records = np.frombuffer(file.content, np.uint8).reshape(-1, record_bytes)
  labels = records[:, variant.label_bytes - 1]
  return _as_images(records[:, variant.label_bytes :]), labels


def _parse_python(variant: _Variant, file: File) -> Arrays:
  """Reads a pickled batch."""
  batch = read_pickled_arrays(file.content, file.where)
  pixels = batch.get("data")
  is_array = isinstance(pixels, np.ndarray)
  if not is_array or pixels.ndim != 2 or pixels.shape[1] != PIXEL_BYTES:
    raise DataError(
      f"{file.where} has no array 'data' of uint8[N, {PIXEL_BYTES}]: it is not the "
      f"python version of {variant.name}"
    )
  labels = batch.get(variant.label_key)
  if not isinstance(labels, list) or not all(_is_label(label) for label in labels):
    raise DataError(
      f"{file.where} has no list of integers {variant.label_key!r}: it is not the "
      f"python version of {variant.name}"
    )
  return _as_images(pixels), np.array(labels, np.int64)


def _is_label(value: object) -> bool:
  """Tells whether a value is an integer of at most 64 bits."""
  return type(value) is int and value.bit_length() < 64


def _as_images(pixels: np.ndarray) -> np.ndarray:
  """Turns rows of three colour planes [N, 3072] into images [N, 32, 32, 3]."""
  return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _parse_names(variant: _Variant, file: File, source: str) -> list[Any]:
  """Reads the names of the classes: lines of text, or a pickled list."""
  if source == "binary":
    return file.content.decode("latin-1").split()
  listed = read_pickled_arrays(file.content, file.where).get(variant.names_key)
  if not isinstance(listed, list):
    return []
  # Python 2 wrote strings as bytes.
  names = []
  for name in listed:
    names.append(name.decode("latin-1") if isinstance(name, bytes) else name)
  return names


# Checking.


def _require_names(variant: _Variant, where: str, names: Sequence[Any]) -> None:
  """Raises DataError if a file numbers the classes in another way."""
  if tuple(names) != variant.class_names:
    raise DataError(
      f"{where} names other classes than {variant.name} has, or in another order, "
      "so that its labels mean something else: get the original archive"
    )


def _require_shape(dataset: Dataset, path: Path) -> None:
  """Raises DataError for images of another size."""
  shape = dataset.train.shape
  if shape != SHAPE:
    raise DataError(
      f"{path}: images are {list(shape)}, CIFAR's are {list(SHAPE)}: use "
      "data.name=npz for other images"
    )


def _require_complete(dataset: Dataset, path: Path, allow_partial: bool) -> None:
  """Raises DataError unless all images are there, or fewer are there and allowed."""
  counts = (len(dataset.train.label), len(dataset.test.label))
  if counts == EXAMPLES:
    return
  num_train, num_test = counts
  full_train, full_test = EXAMPLES
  if allow_partial and num_train <= full_train and num_test <= full_test:
    return
  raise DataError(
    f"{path} holds {num_train} training and {num_test} test images, "
    f"{dataset.name} has {full_train} and {full_test}: get the full set, or set "
    "data.allow_partial=True if a part is meant"
  )
