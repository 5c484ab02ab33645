"""Reads named files out of a folder, or out of the .tar.gz that unpacks to it."""

from collections.abc import Iterator, Sequence
import gzip
import io
import os
from pathlib import Path
import posixpath
import tarfile
from typing import NamedTuple
import zlib

from jaxdistill.core.foreign import open_file, read_file
from jaxdistill.errors import DataError, reason

# An original archive has a dozen; each takes a thousand bytes of memory.
_MAX_MEMBERS = 1000


class File(NamedTuple):
  """A file that was read.

  Attributes:
    name: without its folder.
    where: what to call it in errors.
    content: all of it.
  """

  name: str
  where: str
  content: bytes


def read_files(
  path: Path,
  folder: str,
  names: Sequence[str],
  optional: Sequence[str],
  max_bytes: int,
) -> Iterator[File]:
  """Reads files one by one, in memory; nothing is written to the disk.

  Args:
    path: the unpacked folder, or the archive.
    folder: the folder inside the archive.
    names: files to read.
    optional: files to read after these, if they are there.
    max_bytes: size of a file, or of the unpacked archive, from which it is refused.

  Yields:
    The files, in the order of the names.

  Raises:
    DataError: if a file is missing or damaged, or the archive holds anything but plain
      files in its folder.
  """
  if os.path.isdir(path):
    present = [name for name in optional if os.path.lexists(path / name)]
    for name in (*names, *present):
      yield _read_from_folder(path, name, max_bytes)
    return
  try:
    with tarfile.open(fileobj=io.BytesIO(_unzipped(path, max_bytes))) as archive:
      members = _checked_members(archive, path, folder)
      present = [name for name in optional if f"{folder}/{name}" in members]
      for name in (*names, *present):
        yield _read_from_archive(archive, members, path, f"{folder}/{name}")
  except DataError:
    raise
  except (
    OSError,
    EOFError,
    zlib.error,
    tarfile.TarError,
    ValueError,
    OverflowError,
    # Of headers that come one for the other without end.
    RecursionError,
  ) as error:
    raise DataError(
      f"{path} is damaged ({reason(error)}): get the original archive again"
    ) from error


def _read_from_folder(path: Path, name: str, max_bytes: int) -> File:
  file = path / name
  try:
    content = read_file(file, max_bytes)
    return File(name=name, where=str(file), content=content)
  except OSError as error:
    raise DataError(
      f"{file} cannot be read ({reason(error)}): unpack the archive again"
    ) from error


def _unzipped(path: Path, max_bytes: int) -> bytes:
  with open_file(path, max_bytes) as packed, gzip.open(packed) as file:
    # To the end, where the checksum is; the limit is for files that unpack to something
    # huge.
    content = file.read(max_bytes + 1)
  if len(content) > max_bytes:
    raise DataError(
      f"{path} unpacks to more than any CIFAR archive: get the original one"
    )
  return content


def _checked_members(
  archive: tarfile.TarFile, path: Path, folder: str
) -> dict[str, tarfile.TarInfo]:
  """Returns normalised name -> member, after looking at all of them."""
  members = {}
  for count, member in enumerate(archive):
    if count == _MAX_MEMBERS:
      raise DataError(
        f"{path} has more members than any CIFAR archive: get the original one"
      )
    name = posixpath.normpath(member.name)
    is_plain_file = member.isfile() and not member.issparse()
    is_inside = name == folder or name.startswith(f"{folder}/")
    if not is_inside or not (is_plain_file or member.isdir()):
      raise DataError(
        f"{path} has the member {member.name!r}, which is no file inside {folder}/: it "
        "is not the original archive, and nothing was unpacked"
      )
    if name in members and is_plain_file:
      raise DataError(f"{path} has the member {name!r} twice: get the original archive")
    members[name] = member
  return members


def _read_from_archive(
  archive: tarfile.TarFile,
  members: dict[str, tarfile.TarInfo],
  path: Path,
  name: str,
) -> File:
  member = members.get(name)
  file = archive.extractfile(member) if member else None
  # Folders cannot be read.
  if file is None:
    raise DataError(f"{path} has no {name}: get the original archive")
  return File(
    name=posixpath.basename(name), where=f"{path}: {name}", content=file.read()
  )
