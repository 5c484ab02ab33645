"""What comes from outside: files that may be anything, and the errors they give."""

from io import BufferedReader
import json
import os
from pathlib import Path
import stat
import sys
from typing import Any

_KINDS = {
  stat.S_IFDIR: "a directory",
  stat.S_IFIFO: "a pipe",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}


class UnusableFile(OSError):
  """A path is no file that may be read; the text says why."""

  def __init__(self, text: str):
    # As the system's own errors are made, so that it is told like them.
    super().__init__(0, text)

  def __str__(self) -> str:
    """Returns the text, without the number of an error."""
    return str(self.strerror)


# Files.


def expand(path: str) -> Path:
  """Returns a path with the home directory in place of `~`, if there is one."""
  return Path(os.path.expanduser(path))


def open_file(path: Path, max_bytes: int = sys.maxsize) -> BufferedReader:
  """Opens a regular file of a bounded size.

  Pipes and devices are refused before they are opened: one would be waited for without
  end, the other might have no end.

  Args:
    path: of the file.
    max_bytes: size beyond which it is refused.

  Raises:
    OSError: if it is missing, larger, or no regular file.
  """
  try:
    _require_regular(os.stat(path), max_bytes)
    # Something else may have taken its place since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  except ValueError as error:
    raise UnusableFile("no file can have this name") from error
  file = os.fdopen(descriptor, "rb")
  try:
    _require_regular(os.fstat(descriptor), max_bytes)
  except OSError:
    file.close()
    raise
  return file


def _require_regular(status: os.stat_result, max_bytes: int) -> None:
  """Raises UnusableFile for what is no regular file, or too large."""
  if not stat.S_ISREG(status.st_mode):
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
    raise UnusableFile(f"it is {kind}, not a file")
  if status.st_size > max_bytes:
    raise UnusableFile(f"it has {status.st_size} bytes, more than {max_bytes}")


def read_file(path: Path, max_bytes: int) -> bytes:
  """Reads a regular file of a bounded size.

  Raises:
    OSError: if it is missing, larger, or no regular file.
  """
  with open_file(path, max_bytes) as file:
    # It may be growing.
    content = file.read(max_bytes + 1)
  if len(content) > max_bytes:
    raise UnusableFile(f"it has more than {max_bytes} bytes")
  return content


def read_json(path: Path, max_bytes: int) -> Any:
  """Reads JSON that has no key twice.

  Raises:
    OSError: if the file is missing, larger, or no regular file.
    ValueError: if it holds anything else.
  """
  return parse_json(read_file(path, max_bytes))


def parse_json(content: bytes) -> Any:
  """Reads JSON that has no key twice.

  Raises:
    ValueError: for anything else.
  """
  try:
    return json.loads(content, object_pairs_hook=_without_duplicates)
  except RecursionError as error:
    raise ValueError("it is nested too deeply") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns a table; which of two equal keys counts depends on the reader."""
  table = dict(pairs)
  if len(table) != len(pairs):
    raise ValueError("it has a key twice")
  return table


def physical_memory() -> int:
  """Returns the bytes of this machine's memory."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
