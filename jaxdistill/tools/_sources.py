"""Lists and reads the images of a folder, or of a tar or zip archive of one.

    root/train/CLASS/IMAGE, root/val/CLASS/IMAGE (or root/test)
    root/CLASS/IMAGE, a part of which is held out

An archive is never unpacked into files: its members are listed and checked first, then
read one by one from where they lie in it.
"""

import bz2
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import gzip
import hashlib
import json
import lzma
import os
from pathlib import Path
import posixpath
import shutil
import stat
import tarfile
from typing import IO, Any, NamedTuple
import zipfile
import zlib

import numpy as np

from jaxdistill.core.foreign import open_file
from jaxdistill.errors import DataError, StorageError, reason
from jaxdistill.tools._images import MAX_BYTES, Fault

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
"""Of the files that are taken for images; what is in them decides what they are."""

MAX_MEMBERS = 5_000_000
"""Of an archive. Listing them takes about a kilobyte of memory each."""

TRAIN = "train"
TEST = ("val", "validation", "valid", "test")

# What deflate reaches at best is 1032; of images it is below 20.
_MAX_RATIO = 1100
_MAX_UNPACKED_RATIO = 100
_UNPACKED_SLACK = 2**26
_CHUNK = 2**22
# Of the disk that decompressing leaves free.
_RESERVE = 2**28
# Folders in folders; more of them are a mistake.
_MAX_DEPTH = 30
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1

# What a compressed file begins with, and what opens it.
_DECOMPRESSORS: dict[bytes, Any] = {
  b"\x1f\x8b": gzip.open,
  b"BZh": bz2.open,
  b"\xfd7zXZ\0": lzma.open,
}

# What Finder adds to its archives.
_MAC_FOLDER = "__MACOSX"

_ARCHIVE_ERRORS = (
  EOFError,
  OSError,
  OverflowError,
  RecursionError,
  RuntimeError,
  NotImplementedError,
  ValueError,
  lzma.LZMAError,
  tarfile.TarError,
  zipfile.BadZipFile,
  zlib.error,
)


class File(NamedTuple):
  """A file of the source.

  Attributes:
    name: below the source, with "/" between folders.
    size: in bytes.
    stamp: changes with the content: time of the last change in a folder, checksum in a
      zip archive.
    place: where it is in an archive: bytes from the beginning of a tar archive, number
      of the member of a zip archive.
  """

  name: str
  size: int
  stamp: int
  place: int = 0


class Example(NamedTuple):
  """An image of a split.

  Attributes:
    file: of the source.
    label: number of its class.
  """

  file: File
  label: int


class Source(NamedTuple):
  """Where the images are.

  Attributes:
    path: folder or archive, as the user calls it.
    kind: "folder", "tar" or "zip".
    content: folder or archive that is read: of a compressed tar archive, its content.
    follow_links: whether a link in a folder counts as what it leads to; else it is
      refused, as it may lead out of the folder.
  """

  path: Path
  kind: str
  content: Path
  follow_links: bool = False


class Listing(NamedTuple):
  """The images of a source.

  Attributes:
    class_names: in the order of the labels.
    splits: "train" and "test" -> images, by class and name.
    ignored: number of files that are no images by their names.
    digest: of names, sizes and stamps of all images, and of their splits.
  """

  class_names: tuple[str, ...]
  splits: dict[str, list[Example]]
  ignored: int
  digest: str


# Opening.


def open_source(path: Path, workplace: Path, follow_links: bool = False) -> Source:
  """Finds out what a source is; a compressed tar archive is decompressed to the disk.

  Args:
    path: folder or archive.
    workplace: where to put the content of a compressed tar archive, one file.
    follow_links: see `Source`.

  Raises:
    DataError: if there is no folder and no archive.
    StorageError: if the disk has no room for the content.
  """
  if os.path.isdir(path):
    return Source(path, kind="folder", content=path, follow_links=follow_links)
  try:
    with open_file(path) as file:
      start = file.read(8)
      size = os.fstat(file.fileno()).st_size
  except OSError as error:
    raise DataError(
      f"{path} cannot be read ({reason(error)}): give a folder of images, or a tar or "
      "zip archive of one"
    ) from error
  if start.startswith(b"PK"):
    return Source(path, kind="zip", content=path)
  unpack = _decompressor(start)
  if unpack is None:
    return Source(path, kind="tar", content=path)
  # Named by what tells it from the content of another archive.
  content = workplace / f"{'-'.join(map(str, archive_state(path)))}.tar"
  if not content.exists():
    _decompress(path, unpack, content, size)
  return Source(path, kind="tar", content=content)


def _decompressor(start: bytes) -> Callable[[Path], IO[bytes]] | None:
  """Returns what opens a compressed file that begins with these bytes, or None."""
  for magic, unpack in _DECOMPRESSORS.items():
    if start.startswith(magic):
      return unpack
  return None


def _decompress(
  path: Path, unpack: Callable[[Path], IO[bytes]], content: Path, size: int
) -> None:
  """Writes the content of a compressed file, as long as its size can be believed.

  Args:
    path: of the compressed file.
    unpack: opens it.
    content: file to write.
    size: of the compressed file in bytes.
  """
  limit = _MAX_UNPACKED_RATIO * size + _UNPACKED_SLACK
  temporary = content.with_suffix(".tmp")
  written = 0
  try:
    with open(temporary, "wb") as target:
      for chunk in _chunks(path, unpack):
        written += len(chunk)
        if written > limit:
          raise DataError(
            f"{path} unpacks to more than {_MAX_UNPACKED_RATIO} times its size, which "
            "no images do: unpack it yourself and give the folder"
          )
        if shutil.disk_usage(content.parent).free < _RESERVE + len(chunk):
          raise StorageError(
            f"{content.parent} has no room for the content of {path}: make room, or "
            "choose another --out"
          )
        target.write(chunk)
    os.replace(temporary, content)
  finally:
    temporary.unlink(missing_ok=True)


def _chunks(path: Path, unpack: Callable[[Path], IO[bytes]]) -> Iterator[bytes]:
  """Yields the content of a compressed file, to its end, where the checksum is."""
  with _damage_named(path), unpack(path) as packed:
    while chunk := packed.read(_CHUNK):
      yield chunk


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
  """Puts every error of reading an archive into one line."""
  try:
    yield
  except (DataError, StorageError):
    raise
  except _ARCHIVE_ERRORS as error:
    raise DataError(
      f"{path} is damaged, or no folder and no tar or zip archive ({reason(error)}): "
      "get it again"
    ) from error


# Listing.


def list_images(source: Source, holdout: float) -> Listing:
  """Lists the images of a source by split and class.

  Args:
    source: folder or archive.
    holdout: fraction of every class that is taken out of the training images for the
      test split; 0 where the source has a test split of its own.

  Raises:
    DataError: naming the folder, file, member or class that is wrong.
  """
  ignored = 0
  found: dict[str, dict[str, list[File]]] = {}
  for split, name, file in _located(source, holdout):
    classes = found.setdefault(split, {})
    files = classes.setdefault(name, [])
    if file is None:
      continue
    if is_image(file.name):
      files.append(file)
    else:
      ignored += 1
  train = found.get(TRAIN, {})
  test = found.get("test", {})
  _check_classes(source, train, test)
  class_names = tuple(sorted(train))
  if holdout:
    train, test = _held_out(source, train, holdout)
  splits = {
    "train": _examples(class_names, train),
    "test": _examples(class_names, test),
  }
  return Listing(
    class_names=class_names,
    splits=splits,
    ignored=ignored,
    digest=_digest(source, class_names, splits),
  )


def is_image(name: str) -> bool:
  """Tells whether a file is taken for an image; what the system hides is not."""
  base = posixpath.basename(name)
  return base.lower().endswith(SUFFIXES) and not base.startswith(".")


def _located(source: Source, holdout: float) -> Iterator[tuple[str, str, File | None]]:
  """Yields split, class and file; None in place of the file for a class's folder."""
  if source.kind == "folder":
    yield from _in_folder(source, holdout)
    return
  with _damage_named(source.path):
    if source.kind == "zip":
      members = list(_zip_members(source))
    else:
      members = list(_tar_members(source))
  yield from _in_archive(source.path, members, holdout)


def _examples(
  class_names: Sequence[str], files: dict[str, list[File]]
) -> list[Example]:
  """Returns the images of a split by class and name."""
  examples = []
  for label, name in enumerate(class_names):
    for file in sorted(files.get(name, ())):
      examples.append(Example(file=file, label=label))
  return examples


def _check_classes(
  source: Source, train: dict[str, list[File]], test: dict[str, list[File]]
) -> None:
  """Raises DataError for a class without images, or without training images."""
  if not train:
    raise DataError(
      f"{source.path} has no folder of a class with images: it must hold "
      "train/CLASS/IMAGE and val/CLASS/IMAGE, or CLASS/IMAGE with --holdout"
    )
  for name in sorted(test):
    if name not in train:
      raise DataError(
        f"{source.path}: class {name!r} is in the test split only: add training "
        "images of it, or remove it"
      )
  for split, classes in (("train", train), ("test", test)):
    for name, files in sorted(classes.items()):
      if not files:
        raise DataError(
          f"{source.path}: class {name!r} has no image in {split} (files that end in "
          f"{', '.join(SUFFIXES[:3])}, ...): add some, or remove its folder"
        )
      if not name.isprintable() or not name.strip() or len(name) > 200:
        raise DataError(
          f"{source.path}: the folder {name!r} gives its class no printable name of "
          "at most 200 characters: rename it"
        )


def _held_out(
  source: Source, files: dict[str, list[File]], fraction: float
) -> tuple[dict[str, list[File]], dict[str, list[File]]]:
  """Returns training and test images; the same ones are drawn every time."""
  train = {}
  test = {}
  for name, listed in files.items():
    count = len(listed)
    if count < 2:
      raise DataError(
        f"{source.path}: class {name!r} has a single image, of which none can be held "
        "out: add images, or remove its folder"
      )
    # At least one image of each class on either side.
    taken = min(max(round(count * fraction), 1), count - 1)
    ordered = sorted(listed)
    # numpy keeps the stream of RandomState frozen for ever.
    order = np.random.RandomState(zlib.crc32(os.fsencode(name))).permutation(count)
    test[name] = [ordered[row] for row in order[:taken]]
    train[name] = [ordered[row] for row in order[taken:]]
  return train, test


def _digest(
  source: Source, class_names: Sequence[str], splits: dict[str, list[Example]]
) -> str:
  """Returns a hash of what is listed."""
  digest = hashlib.sha256(json.dumps(class_names).encode())
  digest.update(f"\n{archive_state(source.path)}\n".encode())
  for split, examples in splits.items():
    digest.update(f"{split} {len(examples)}\n".encode())
    for file, label in examples:
      digest.update(os.fsencode(file.name))
      digest.update(f"\0{file.size} {file.stamp} {label}\n".encode())
  return digest.hexdigest()


def archive_state(path: Path) -> list[int]:
  """Returns what changes with an archive: its size, and when it was written."""
  if os.path.isdir(path):
    return []
  status = os.stat(path)
  return [status.st_size, status.st_mtime_ns]


# Folders.


def _in_folder(
  source: Source, holdout: float
) -> Iterator[tuple[str, str, File | None]]:
  """Yields what is in a folder."""
  root = source.path
  top = {entry.name for entry in _scan(source, "") if _is_folder(entry)}
  for split, below in _layout(root, top, holdout):
    for folder in _scan(source, below):
      if _is_folder(folder):
        yield split, folder.name, None
        for file in _below(source, posixpath.join(below, folder.name), depth=0):
          yield split, folder.name, file


def _below(source: Source, place: str, depth: int) -> Iterator[File]:
  """Yields the files in a folder, and in the folders in it."""
  if depth > _MAX_DEPTH:
    raise DataError(
      f"{source.path}: {place} lies {depth} folders deep: is a link in it that leads "
      "in a circle?"
    )
  for entry in _scan(source, place):
    name = posixpath.join(place, entry.name)
    if _is_folder(entry):
      yield from _below(source, name, depth + 1)
      continue
    # A link that leads nowhere has no size, nor has a pipe; reading them will tell.
    size = 0
    stamp = 0
    with contextlib.suppress(OSError):
      status = entry.stat()
      if stat.S_ISREG(status.st_mode):
        size = status.st_size
        stamp = status.st_mtime_ns
    yield File(name=name, size=size, stamp=stamp)


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:
    # A link that leads to itself.
    return False


def _scan(source: Source, place: str) -> list[os.DirEntry]:
  """Returns what is in a folder, sorted by name, but what is hidden.

  Raises:
    DataError: if it cannot be read, or for a link that is not to be followed.
  """
  folder = source.path / place
  try:
    with os.scandir(folder) as entries:
      visible = [entry for entry in entries if not entry.name.startswith(".")]
  except OSError as error:
    raise DataError(
      f"{folder} cannot be read ({reason(error)}): correct --source"
    ) from error
  for entry in visible:
    if entry.is_symlink() and not source.follow_links:
      raise DataError(
        f"{entry.path} is a link, which may lead anywhere: remove it, or add "
        "--follow-links"
      )
  return sorted(visible, key=lambda entry: entry.name)


def _layout(path: Path, top: Iterable[str], holdout: float) -> list[tuple[str, str]]:
  """Returns (split, folder) of what is to be listed, from the folders at the top.

  Raises:
    DataError: if there is no test split and none is to be held out, or the other way
      round.
  """
  top = set(top)
  tests = [name for name in TEST if name in top]
  if TRAIN not in top:
    if not holdout:
      raise DataError(
        f"{path} has no folder train: hold out a fraction of its images for testing "
        "with --holdout=0.1, if its folders are classes"
      )
    return [(TRAIN, "")]
  if holdout:
    if tests:
      raise DataError(
        f"{path} has a test split of its own, {tests[0]}: leave out --holdout"
      )
    return [(TRAIN, TRAIN)]
  if not tests:
    raise DataError(
      f"{path} has train but none of {', '.join(TEST)}: hold out a fraction of the "
      "training images with --holdout=0.1"
    )
  if len(tests) > 1 and "test" in tests:
    # The labels of the one called so are often not public.
    tests.remove("test")
  if len(tests) > 1:
    raise DataError(f"{path} has {' and '.join(tests)}: leave one of them")
  return [(TRAIN, TRAIN), ("test", tests[0])]


# Archives.


def _in_archive(
  path: Path, members: Sequence[tuple[File, bool]], holdout: float
) -> Iterator[tuple[str, str, File | None]]:
  """Yields what is in an archive, whose members are (file, whether it is a folder)."""
  shown = []
  for file, is_folder in members:
    parts = file.name.split("/")
    is_hidden = any(part.startswith(".") for part in parts)
    if not is_hidden and parts[0] != _MAC_FOLDER:
      shown.append((parts, file, is_folder))
  skipped = _common_folders([parts for parts, _, _ in shown])
  top = set()
  for parts, _, is_folder in shown:
    folders = parts if is_folder else parts[:-1]
    top |= set(folders[skipped : skipped + 1])

  for split, below in _layout(path, top, holdout):
    for parts, file, is_folder in shown:
      inside = parts[skipped:]
      if below:
        if inside[:1] != [below]:
          continue
        inside = inside[1:]
      if is_folder and inside:
        yield split, inside[0], None
      elif len(inside) > 1:
        yield split, inside[0], file


def _common_folders(names: Sequence[list[str]]) -> int:
  """Returns how many folders everything in an archive is in: none or one.

  That a source is packed with its own folder is usual; a folder that is a split, or the
  only class, is none of that kind.
  """
  tops = {parts[0] for parts in names}
  if len(tops) != 1:
    return 0
  top = tops.pop()
  deepest = max(len(parts) for parts in names)
  is_wrapper = top != TRAIN and top not in TEST and deepest > 2
  return int(is_wrapper)


def _checked_name(path: Path, name: str, seen: set[str]) -> str:
  """Returns the normalised name of a member; raises DataError for a strange one."""
  normal = posixpath.normpath(name)
  parts = name.replace("\\", "/").split("/")
  leads_out = ".." in parts or posixpath.isabs(normal) or ":" in parts[0]
  if leads_out or "\0" in name:
    raise DataError(
      f"{path} has the member {name!r}, which leads out of it: nothing was read; get "
      "an archive of a folder of images"
    )
  if normal in seen:
    raise DataError(f"{path} has the member {normal!r} twice: pack it again")
  seen.add(normal)
  if len(seen) > MAX_MEMBERS:
    raise DataError(
      f"{path} has more than {MAX_MEMBERS} members: unpack it and give the folder"
    )
  return normal


def _odd_member(path: Path, name: str, what: str) -> DataError:
  return DataError(
    f"{path} has the member {name!r}, which is {what}: nothing was read; pack plain "
    "files and folders"
  )


def _tar_members(source: Source) -> Iterator[tuple[File, bool]]:
  """Yields (file, whether it is a folder) of a tar archive, checked."""
  seen: set[str] = set()
  with (
    open_file(source.content) as content,
    tarfile.open(fileobj=content, mode="r:") as archive,
  ):
    while True:
      member = archive.next()
      _forget_members(archive)
      if member is None:
        _require_end(content, archive.offset)
        return
      # Some tools write a folder again after every change.
      if member.isdir() and posixpath.normpath(member.name) in seen:
        continue
      name = _checked_name(source.path, member.name, seen)
      if not member.isdir() and (not member.isfile() or member.issparse()):
        raise _odd_member(source.path, member.name, "a link, device, pipe or sparse")
      _require_size(source.path, name, member.size)
      file = File(
        name=name, size=member.size, stamp=int(member.mtime), place=member.offset_data
      )
      yield file, member.isdir()


def _forget_members(archive: Any) -> None:
  """Lets go of the members that were listed: tarfile keeps all of them otherwise."""
  archive.members = []


def _require_end(content: IO[bytes], offset: int) -> None:
  """Raises ReadError unless a tar archive ends here: tarfile stops at damage too."""
  block = os.pread(content.fileno(), tarfile.BLOCKSIZE, offset)
  if block.strip(b"\0"):
    raise tarfile.ReadError(f"no header at byte {offset}")


def _zip_members(source: Source) -> Iterator[tuple[File, bool]]:
  """Yields (file, whether it is a folder) of a zip archive, checked."""
  seen: set[str] = set()
  with open_file(source.content) as content, zipfile.ZipFile(content) as archive:
    for number, member in enumerate(archive.infolist()):
      name = _checked_name(source.path, member.filename, seen)
      mode = stat.S_IFMT(member.external_attr >> 16)
      if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _odd_member(source.path, name, "a link, device or pipe")
      if member.flag_bits & _ENCRYPTED:
        raise _odd_member(source.path, name, "encrypted")
      if member.compress_type not in _COMPRESSIONS:
        raise _odd_member(source.path, name, "compressed in an unusual way")
      if member.file_size > _MAX_RATIO * member.compress_size + 64:
        raise _odd_member(
          source.path,
          name,
          f"said to have {member.file_size} bytes, from {member.compress_size} "
          "compressed ones",
        )
      _require_size(source.path, name, member.file_size)
      file = File(name=name, size=member.file_size, stamp=member.CRC, place=number)
      yield file, member.is_dir()


def _require_size(path: Path, name: str, size: int) -> None:
  """Raises DataError for a member that is larger than an image may be."""
  if size > MAX_BYTES:
    raise _odd_member(path, name, f"{size} bytes large, more than {MAX_BYTES}")


# Reading.


class Contents:
  """Reads the files of a source, in the process that made it."""

  def __init__(self, source: Source):
    """Opens the archive, if it is one."""
    self._source = source
    self._zip: zipfile.ZipFile | None = None
    self._tar: IO[bytes] | None = None
    if source.kind == "zip":
      self._zip = zipfile.ZipFile(source.content)
    elif source.kind == "tar":
      self._tar = open_file(source.content)

  def close(self) -> None:
    """Closes the archive."""
    for file in (self._zip, self._tar):
      if file:
        file.close()

  def read(self, file: File) -> bytes:
    """Returns the content of a file.

    Raises:
      Fault: if it cannot be read, or is too large.
      DataError: if it is another file than was listed.
    """
    if file.size > MAX_BYTES:
      raise Fault(f"it has {file.size} bytes, more than {MAX_BYTES}")
    try:
      if self._zip:
        return self._zip.read(self._zip.infolist()[file.place])
      if self._tar:
        return os.pread(self._tar.fileno(), file.size, file.place)
      return self._read_from_folder(file)
    except _ARCHIVE_ERRORS as error:
      if isinstance(error, DataError):
        raise
      raise Fault(f"it cannot be read: {reason(error)}") from error

  def _read_from_folder(self, file: File) -> bytes:
    path = self._source.content / file.name
    with open_file(path, MAX_BYTES) as opened:
      status = os.fstat(opened.fileno())
      if (status.st_size, status.st_mtime_ns) != (file.size, file.stamp):
        raise DataError(
          f"{path} has changed since this preparation began: begin again, with an "
          "empty --out"
        )
      return opened.read(file.size)
