"""Images that are files of a folder: finding and reading them."""

from collections.abc import Callable, Sequence
import hashlib
import os
from pathlib import Path
import stat

from jaxdistill.core.foreign import read_file
from jaxdistill.errors import DataError, reason

SUFFIXES = (
  ".jpg",
  ".jpeg",
  ".png",
  ".bmp",
  ".gif",
  ".webp",
  ".tif",
  ".tiff",
  ".ppm",
  ".pgm",
)
"""Of the files that are images, in lower case; other files are ignored."""

# ImageNet's largest file has 15 MB.
MAX_FILE_BYTES = 2**27

# Folders in folders; more of them are a mistake.
_MAX_DEPTH = 30


class Files:
  """Images in files; a source of `TfReader`, whose TensorFlow reads them by itself."""

  def __init__(self, root: Path, names: Sequence[str]):
    """Opens nothing.

    Args:
      root: folder of all files.
      names: their paths below the folder, in the order of the rows.
    """
    self._root = str(root)
    self._names = tuple(names)

  @property
  def digest(self) -> str:
    """A hash of the names: another place of the folder does not change it."""
    digest = hashlib.sha256()
    for name in self._names:
      digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()

  def __len__(self) -> int:
    """Returns the number of files."""
    return len(self._names)

  def name(self, row: int) -> str:
    """Returns the path of a file."""
    return os.path.join(self._root, self._names[row])

  def read(self, rows: Sequence[int]) -> list[bytes]:
    """Returns the contents of files; raises OSError for what is none."""
    return [read_file(Path(self.name(row)), MAX_FILE_BYTES) for row in rows]

  def paths(self, rows: Sequence[int]) -> list[bytes]:
    """Returns the path of each file; empty for what is no file or too large."""
    return [self._path(self.name(row)) for row in rows]

  def _path(self, name: str) -> bytes:
    try:
      status = os.stat(name)
    except (OSError, ValueError):
      return b""
    # A pipe would be waited for without end.
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
      return b""
    return os.fsencode(name)


def list_folders(root: Path, follow_links: bool) -> list[str]:
  """Returns the names of the folders in a folder, sorted; hidden ones are left out.

  Args:
    root: the folder.
    follow_links: see `list_images`.

  Raises:
    DataError: if it cannot be read, or a link is in it.
  """
  names = []
  for entry in _scan(root):
    _check_link(entry, follow_links)
    if entry.is_dir():
      names.append(entry.name)
  return names


def list_images(root: Path, follow_links: bool) -> list[str]:
  """Returns the images in a folder and the folders in it, sorted; none that is hidden.

  Args:
    root: the folder.
    follow_links: whether a link counts as what it leads to; else it is refused, as it
      may leave the folder, or lead to images that count already.

  Returns:
    Paths below the folder.

  Raises:
    DataError: if a folder cannot be read, or a link is refused or leads in a circle.
  """
  found: list[str] = []
  _list_into(found.append, Path(root), below="", follow_links=follow_links, depth=0)
  return sorted(found)


def _list_into(
  add: Callable[[str], None], root: Path, *, below: str, follow_links: bool, depth: int
) -> None:
  folder = root / below
  if depth > _MAX_DEPTH:
    raise DataError(
      f"{folder} lies {depth} folders deep: is a link in it that leads in a circle?"
    )
  for entry in _scan(folder):
    _check_link(entry, follow_links)
    path = os.path.join(below, entry.name)
    if entry.is_dir():
      _list_into(add, root, below=path, follow_links=follow_links, depth=depth + 1)
    elif entry.name.lower().endswith(SUFFIXES):
      add(path)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
  """Returns what is in a folder, sorted by name, but what is hidden."""
  try:
    with os.scandir(folder) as entries:
      visible = [entry for entry in entries if not entry.name.startswith(".")]
  except (OSError, ValueError) as error:
    raise DataError(f"{folder} cannot be read ({reason(error)})") from error
  return sorted(visible, key=lambda entry: entry.name)


def _check_link(entry: "os.DirEntry[str]", follow_links: bool) -> None:
  if entry.is_symlink() and not follow_links:
    raise DataError(
      f"{entry.path} is a link, which may lead anywhere: remove it, or set "
      "data.follow_links=True"
    )
