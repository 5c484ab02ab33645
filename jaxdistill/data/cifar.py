"""CIFAR-10 and CIFAR-100 from whichever of their usual layouts is on the disk; nothing is ever downloaded.

Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from collections.abc import Iterator
import gzip
import io
import os
from pathlib import Path
import posixpath
import re
import tarfile
from typing import NamedTuple
import zlib

import numpy as np

from jaxdistill.data import Dataset, checked
from jaxdistill.data._npz import read_npz_splits
from jaxdistill.data._pickle import read_pickled_arrays
from jaxdistill.data._text import summary
from jaxdistill.data._tfds import read_tfds_split
from jaxdistill.errors import DataError, require_choice

SHAPE = (32, 32, 3)
EXAMPLES = (50_000, 10_000)
SOURCES = ("auto", "tfds", "binary", "python", "npz")
# An original archive unpacks to 187 MB, one that Python 3 pickled again to 269 MB.
_MAX_BYTES = 2**29


class _Variant(NamedTuple):
  """What tells CIFAR-10 and CIFAR-100 apart.

  Attributes:
    name, num_classes: of the data set.
    binary, python: folder inside each original archive.
    archives: source -> file name of the original archive.
    train, test: batch files inside the folder.
    label: key of the labels in the python version.
    label_bytes: bytes before the pixels in the binary version; the last of them is the
      label.
    mean, std: of the full training split, in [0, 1]: constants, so that a partial set
      does not change them.
  """

  name: str
  num_classes: int
  binary: str
  python: str
  archives: dict[str, str]
  train: tuple[str, ...]
  test: tuple[str, ...]
  label: str
  label_bytes: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


_CIFAR10 = _Variant(
  "cifar10",
  10,
  "cifar-10-batches-bin",
  "cifar-10-batches-py",
  {"binary": "cifar-10-binary.tar.gz", "python": "cifar-10-python.tar.gz"},
  tuple(f"data_batch_{i}" for i in range(1, 6)),
  ("test_batch",),
  "labels",
  1,
  (0.4914, 0.4822, 0.4465),
  (0.2470, 0.2435, 0.2616),
)
_CIFAR100 = _Variant(
  "cifar100",
  100,
  "cifar-100-binary",
  "cifar-100-python",
  {"binary": "cifar-100-binary.tar.gz", "python": "cifar-100-python.tar.gz"},
  ("train",),
  ("test",),
  "fine_labels",
  2,
  (0.5071, 0.4865, 0.4409),
  (0.2673, 0.2564, 0.2762),
)


def cifar10(
  *, dir: str = "", source: str = "auto", allow_partial: bool = False
) -> Dataset:
  """Loads CIFAR-10: 50,000 + 10,000 images of 32x32 pixels in 10 classes.

  Args:
    dir: local directory to search; empty for $TFDS_DATA_DIR, else
      ~/tensorflow_datasets. It may hold cifar10/<version>/ as tensorflow_datasets
      prepares it, cifar-10-batches-bin/ or cifar-10-binary.tar.gz, cifar-10-batches-py/
      or cifar-10-python.tar.gz, cifar10.npz, or cifar10_train.npz and cifar10_test.npz.
    source: "tfds", "binary", "python" or "npz" to insist on one; "auto" takes the first
      that is there.
    allow_partial: accept fewer images than the full set has.

  Returns:
    The data set, in the order of the original files for every source but npz, which
    keeps its own.

  Raises:
    DataError: if it is not there, incomplete or damaged; no network is tried and
      nothing is substituted.
  """
  return _load(_CIFAR10, dir, source, allow_partial)


def cifar100(
  *, dir: str = "", source: str = "auto", allow_partial: bool = False
) -> Dataset:
  """Loads CIFAR-100 with its fine labels: 50,000 + 10,000 images of 32x32 pixels in 100 classes.

  Args:
    dir: local directory to search; empty for $TFDS_DATA_DIR, else
      ~/tensorflow_datasets. It may hold cifar100/<version>/ as tensorflow_datasets
      prepares it, cifar-100-binary/ or cifar-100-binary.tar.gz, cifar-100-python/ or
      cifar-100-python.tar.gz, cifar100.npz, or cifar100_train.npz and
      cifar100_test.npz.
    source: "tfds", "binary", "python" or "npz" to insist on one; "auto" takes the first
      that is there.
    allow_partial: accept fewer images than the full set has.

  Returns:
    The data set, in the order of the original files for every source but npz, which
    keeps its own.

  Raises:
    DataError: if it is not there, incomplete or damaged; no network is tried and
      nothing is substituted.
  """
  return _load(_CIFAR100, dir, source, allow_partial)


def _load(variant: _Variant, folder: str, source: str, allow_partial: bool) -> Dataset:
  require_choice(source=(source, SOURCES))
  root = Path(
    folder or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  ).expanduser()
  found = _find(variant, root)
  if source == "auto":
    source = next(iter(found), source)
  if source not in found:
    raise DataError(_missing(variant, root, source, found))
  path = found[source]
  if source == "tfds":
    train, test = (read_tfds_split(path, split, SHAPE) for split in ("train", "test"))
  elif source == "npz":
    train, test = read_npz_splits(*_npz_pair(variant, root))
  else:
    train, test = _read_batches(variant, path, source)
  loaded = checked(
    variant.name,
    train,
    test,
    variant.num_classes,
    variant.mean,
    variant.std,
    where=str(path),
  )
  if loaded.train.image.shape[1:] != SHAPE:
    raise DataError(
      f"{path}: images are {list(loaded.train.image.shape[1:])}, CIFAR's are {list(SHAPE)}: "
      "use data.name=npz for other images"
    )
  counts = len(loaded.train.label), len(loaded.test.label)
  complete = counts == EXAMPLES or (
    allow_partial and counts[0] <= EXAMPLES[0] and counts[1] <= EXAMPLES[1]
  )
  if not complete:
    raise DataError(
      f"{path} holds {counts[0]} training and {counts[1]} test images, {variant.name} has "
      f"{EXAMPLES[0]} and {EXAMPLES[1]}: get the full set, or set data.allow_partial=True if a "
      "part of it is meant"
    )
  return loaded


def _find(variant: _Variant, root: Path) -> dict[str, Path]:
  """Returns source -> path of what is under `root`, in the order of preference."""
  versions = [
    path.parent
    for path in root.glob(f"{variant.name}/*/dataset_info.json")
    if re.fullmatch(r"\d+(\.\d+)*", path.parent.name)
  ]
  versions.sort(key=lambda path: [int(number) for number in path.name.split(".")])
  candidates = {
    "tfds": versions[-1:],
    "binary": [root / variant.binary, root / variant.archives["binary"]],
    "python": [root / variant.python, root / variant.archives["python"]],
    "npz": _npz_pair(variant, root)[:1],
  }
  present = {
    source: [path for path in paths if os.path.exists(path)]
    for source, paths in candidates.items()
  }
  return {source: paths[0] for source, paths in present.items() if paths}


def _npz_pair(variant: _Variant, root: Path) -> tuple[Path, Path]:
  """Returns the files of the training and the test arrays: the same file, where there is a single one."""
  single = root / f"{variant.name}.npz"
  if single.exists():
    return single, single
  return root / f"{variant.name}_train.npz", root / f"{variant.name}_test.npz"


def _missing(variant: _Variant, root: Path, source: str, found: dict[str, Path]) -> str:
  """Says in one line what was looked for, where, and how to get it."""
  name, archive = (
    variant.name,
    variant.archives["python" if source == "python" else "binary"],
  )
  looked_for = {
    "tfds": f"{name}/<version>/ (prepared by tensorflow_datasets)",
    "binary": f"{variant.binary}/ or {variant.archives['binary']}",
    "python": f"{variant.python}/ or {variant.archives['python']}",
    "npz": f"{name}.npz or {name}_train.npz + {name}_test.npz",
  }
  wanted = looked_for.get(source) or ", ".join(looked_for.values())
  state = (
    f"{root} has only {', '.join(found)} of it"
    if found
    else (
      f"it is not in {root}"
      if os.path.isdir(root)
      else f"the directory {root} does not exist"
    )
  )
  return (
    f"{name} from data.source={source}: {state}; looked for {wanted}. Nothing is downloaded here: on a "
    f"connected machine run `curl -LO https://www.cs.toronto.edu/~kriz/{archive}`, put the file there "
    "or set data.dir, or try data.name=digits, which needs no files"
  )


def _read_batches(variant: _Variant, path: Path, source: str) -> tuple[tuple, tuple]:
  """Reads the original archive, or the folder it unpacks to, in the binary or the python version."""
  folder, suffix, parse = (
    (variant.binary, ".bin", _parse_binary)
    if source == "binary"
    else (variant.python, "", _parse_python)
  )
  names = [name + suffix for name in variant.train + variant.test]
  read = (
    _folder_files(path, names) if path.is_dir() else _archive_files(path, folder, names)
  )
  batches = [parse(variant, content, where) for where, content in read]
  images, labels = zip(*batches)
  last = len(variant.train)
  return tuple(
    (np.concatenate(images[part]), np.concatenate(labels[part]))
    for part in (slice(0, last), slice(last, None))
  )


def _folder_files(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
  for name in names:
    file = path / name
    try:
      if file.stat().st_size > _MAX_BYTES:
        raise DataError(
          f"{file} is larger than any CIFAR file: get the original archive"
        )
      yield str(file), file.read_bytes()
    except OSError as error:
      raise DataError(
        f"{file} cannot be read ({summary(error)}): unpack the archive again"
      ) from error


def _archive_files(
  path: Path, folder: str, names: list[str]
) -> Iterator[tuple[str, bytes]]:
  """Reads members of a .tar.gz in memory, after looking at all of them; nothing is written to the disk."""
  try:
    with gzip.open(path) as file:
      # To the end, where the checksum is; the limit is for files that unpack to
      # something huge.
      content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
      raise DataError(
        f"{path} unpacks to more than any CIFAR archive: get the original one"
      )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
      members = {
        posixpath.normpath(member.name): member for member in archive.getmembers()
      }
      for name, member in members.items():
        plain = (member.isfile() and not member.issparse()) or member.isdir()
        if not plain or (name != folder and not name.startswith(f"{folder}/")):
          raise DataError(
            f"{path} has the member {member.name!r}, which is no file inside {folder}/: it is "
            "not the original archive, and nothing was unpacked"
          )
      for name in names:
        member = members.get(f"{folder}/{name}")
        if member is None or not member.isfile():
          raise DataError(f"{path} has no {folder}/{name}: get the original archive")
        yield f"{path}: {folder}/{name}", archive.extractfile(member).read()
  except DataError:
    raise
  except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
    raise DataError(
      f"{path} is damaged ({summary(error)}): get the original archive again"
    ) from error


def _as_images(pixels: np.ndarray) -> np.ndarray:
  """Turns rows of three colour planes [N, 3072] into images [N, 32, 32, 3]."""
  return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _parse_binary(
  variant: _Variant, content: bytes, where: str
) -> tuple[np.ndarray, np.ndarray]:
  record = variant.label_bytes + 3072
  if not content or len(content) % record:
    raise DataError(
      f"{where} has {len(content)} bytes, which is no multiple of {record}: it is cut off or "
      f"not the binary version of {variant.name}"
    )
  rows = np.frombuffer(content, np.uint8).reshape(-1, record)
  return _as_images(rows[:, variant.label_bytes :]), rows[:, variant.label_bytes - 1]


def _parse_python(
  variant: _Variant, content: bytes, where: str
) -> tuple[np.ndarray, np.ndarray]:
  batch = read_pickled_arrays(content, where)
  pixels, labels = batch.get("data"), batch.get(variant.label)
  if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072:
    raise DataError(
      f"{where} has no array 'data' of uint8[N, 3072]: it is not the python version of "
      f"{variant.name}"
    )
  if not isinstance(labels, list) or not all(type(label) is int for label in labels):
    raise DataError(
      f"{where} has no list of integers {variant.label!r}: it is not the python version of "
      f"{variant.name}"
    )
  return _as_images(pixels), np.array(labels, np.int64)
