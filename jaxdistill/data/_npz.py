"""Reads npz files: never unpickling, and no size is believed unchecked."""

import math
from pathlib import Path
import zipfile
import zlib

import numpy as np

from jaxdistill.data._text import summary
from jaxdistill.errors import DataError

# The best ratio that deflate can reach is 1032; what claims more would fill the memory
# from a small file.
_MAX_DEFLATE_RATIO = 1100


def read_npz_splits(train_path: Path, test_path: Path) -> tuple[tuple, tuple]:
  """Reads `images_train`, `labels_train`, `images_test` and `labels_test`, never unpickling.

  Args:
    train_path: npz file with the training arrays.
    test_path: npz file with the test arrays; it may be the same.

  Returns:
    ((images, labels) of the training split, the same of the test split), as they are
    stored.

  Raises:
    DataError: naming the file, the array and what the file holds.
  """
  return tuple(
    tuple(_read_npz(path, (f"images_{split}", f"labels_{split}")))
    for path, split in ((train_path, "train"), (test_path, "test"))
  )


def _read_npz(path: Path, keys: tuple[str, ...]) -> list[np.ndarray]:
  if not path.is_file():
    raise DataError(f"{path}: there is no such file: correct the path to the npz file")
  try:
    with zipfile.ZipFile(path) as archive:
      held = [name.removesuffix(".npy") for name in archive.namelist()]
      missing = [key for key in keys if key not in held]
      if missing:
        raise DataError(
          f"{path} has no {' and no '.join(missing)}; it holds "
          f"{', '.join(held[:12]) or 'nothing'}: rename its arrays"
        )
      return [
        _read_npy(archive, f"{path}: {key}", archive.getinfo(f"{key}.npy"))
        for key in keys
      ]
  except DataError:
    raise
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
  ) as error:
    raise DataError(
      f"{path} cannot be read as npz ({summary(error)}): copy or write it again"
    ) from error


def _read_npy(
  archive: zipfile.ZipFile, where: str, info: zipfile.ZipInfo
) -> np.ndarray:
  """Reads one array, after comparing the size in its header with the size of the file."""
  if info.file_size > _MAX_DEFLATE_RATIO * info.compress_size + 4096:
    raise DataError(
      f"{where} claims {info.file_size} bytes from {info.compress_size} compressed ones: it is "
      "damaged, write it again"
    )
  with archive.open(info) as file:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # the others are for records with a thousand fields
      raise DataError(
        f"{where} is npy version {version}: write it again with np.savez, as a plain array"
      )
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
      raise DataError(
        f"{where} is an array of Python objects: bring all images to one shape and store one "
        "plain array"
      )
    if file.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
      raise DataError(
        f"{where} claims to be {dtype}{list(shape)} but holds {info.file_size - file.tell()} "
        "bytes: it is damaged, write it again"
      )
  with archive.open(info) as file:
    return np.lib.format.read_array(file, allow_pickle=False)
