"""Reads npz files: never unpickling, and no size is believed unchecked."""

from collections.abc import Iterator, Sequence
import contextlib
import math
from pathlib import Path
import tokenize
from typing import IO
import zipfile
import zlib

import numpy as np

from jaxdistill.core.foreign import open_file, physical_memory
from jaxdistill.errors import DataError, reason

# The best ratio that deflate can reach is 1032; what claims more would fill the memory
# from a small file.
_MAX_DEFLATE_RATIO = 1100

# Arrays are shorter than their headers in tiny files only.
_HEADER_BYTES = 4096

_NPY_VERSION = (1, 0)

# What np.savez and np.savez_compressed use.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_split(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads `images_<split>` and `labels_<split>`.

  Args:
    path: npz file.
    split: "train" or "test".

  Returns:
    (images, labels), as they are stored.

  Raises:
    DataError: naming the file, the array and what the file holds.
  """
  images_key = f"images_{split}"
  labels_key = f"labels_{split}"
  arrays = read_arrays(path, (images_key, labels_key))
  return arrays[images_key], arrays[labels_key]


def read_arrays(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
  """Reads arrays by their names.

  Args:
    path: npz file.
    keys: names of the arrays.

  Returns:
    name -> array, as it is stored.

  Raises:
    DataError: naming the file, the array and what the file holds.
  """
  with _opened(path) as archive:
    _require_arrays(archive, path, keys)
    return {key: _read_array(archive, path, key) for key in keys}


def read_class_names(path: Path) -> tuple[str, ...]:
  """Reads `class_names`, an array of strings.

  Args:
    path: npz file.

  Returns:
    The names; none if the file has no such array.

  Raises:
    DataError: if the array is damaged or holds anything else.
  """
  key = "class_names"
  with _opened(path) as archive:
    if key not in _held(archive):
      return ()
    names = _read_array(archive, path, key)
    if names.dtype.kind != "U" or names.ndim != 1:
      raise DataError(
        f"{path}: {key} must be an array of strings, one for each class, got "
        f"{names.dtype}{list(names.shape)}: write np.array(..., dtype=str)"
      )
    return tuple(names.tolist())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
  """Opens an npz file, and puts every error of reading it into one line."""
  try:
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
      yield archive
  except DataError:
    raise
  except FileNotFoundError as error:
    raise DataError(
      f"{path}: there is no such file: correct the path to the npz file"
    ) from error
  except (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    # Of headers that are no Python, or nested too deeply.
    SyntaxError,
    tokenize.TokenError,
    # Of strings with characters that Unicode does not have.
    SystemError,
  ) as error:
    raise DataError(
      f"{path} cannot be read as npz ({reason(error)}): copy or write it again"
    ) from error


def _held(archive: zipfile.ZipFile) -> list[str]:
  """Returns the names of the arrays in the file."""
  return [name.removesuffix(".npy") for name in archive.namelist()]


def _require_arrays(archive: zipfile.ZipFile, path: Path, keys: Sequence[str]) -> None:
  """Raises DataError unless the file has all of the arrays."""
  held = _held(archive)
  missing = [key for key in keys if key not in held]
  if missing:
    raise DataError(
      f"{path} has no {' and no '.join(missing)}; it holds "
      f"{', '.join(held[:12]) or 'nothing'}: rename its arrays"
    )


def _read_array(archive: zipfile.ZipFile, path: Path, key: str) -> np.ndarray:
  """Reads one array, after comparing its size in all headers with that of the file."""
  where = f"{path}: {key}"
  info = archive.getinfo(f"{key}.npy")
  if _held(archive).count(key) > 1:
    raise DataError(f"{where} is there twice: write the file again")
  if info.compress_type not in _COMPRESSIONS:
    raise DataError(
      f"{where} is compressed in another way than np.savez_compressed does: write it "
      "again with that"
    )
  if info.file_size > _MAX_DEFLATE_RATIO * info.compress_size + _HEADER_BYTES:
    raise DataError(
      f"{where} claims {info.file_size} bytes from {info.compress_size} compressed "
      "ones: it is damaged, write it again"
    )
  with archive.open(info) as file:
    _check_header(file, where, info.file_size)
  with archive.open(info) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], where: str, file_size: int) -> None:
  """Raises DataError for an array that is not as large as its header claims."""
  version = np.lib.format.read_magic(file)
  # The later versions are for records with a thousand fields.
  if version != _NPY_VERSION:
    raise DataError(
      f"{where} is npy version {version}: write it again with np.savez, as a plain "
      "array"
    )
  shape, _, dtype = np.lib.format.read_array_header_1_0(file)
  if dtype.hasobject:
    raise DataError(
      f"{where} is an array of Python objects: bring all images to one shape and store "
      "one plain array"
    )
  if any(size < 0 for size in shape):
    raise DataError(f"{where} has a negative size: it is damaged, write it again")
  claimed = math.prod(shape) * dtype.itemsize
  held = file_size - file.tell()
  if claimed != held:
    raise DataError(
      f"{where} claims to be {dtype}{list(shape)} but holds {held} bytes: it is "
      "damaged, write it again"
    )
  memory = physical_memory()
  if claimed > memory:
    raise DataError(
      f"{where} takes {claimed} bytes, and this machine has {memory} of memory: write "
      "fewer or smaller images"
    )
