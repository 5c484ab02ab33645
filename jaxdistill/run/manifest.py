"""The manifest that commits a directory: sizes and hashes of its files, and its own.

Orbax keeps no checksum of array data. A directory is committed from the moment its
manifest is there, and intact if every file, the manifest among them, is as it was
written.
"""

from collections.abc import Mapping
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from jaxdistill.core.foreign import open_file, read_json
from jaxdistill.errors import reason

MANIFEST = "JD_MANIFEST.json"

# A run of a thousand modules writes less than a megabyte.
_MAX_BYTES = 2**26


class Damaged(Exception):
  """A directory is not as it was written; the text says what is wrong with it."""


def write_json(path: Path, value: Any) -> None:
  """Writes JSON so that a crash leaves either the old file or the new one."""
  temporary = path.with_name(path.name + ".tmp")
  try:
    with open(temporary, "w") as file:
      json.dump(value, file, indent=1)
      file.write("\n")
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise
  directory = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


def _hash_file(path: Path) -> str:
  with open_file(path) as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_contents(contents: Any) -> str:
  return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _measure_files(directory: Path) -> dict[str, list]:
  """Returns path -> [bytes, SHA-256] of every file in a directory but its manifest."""
  found = {}
  for name, path in _list_files(directory).items():
    found[name] = [path.stat().st_size, _hash_file(path)]
  return found


def _list_files(directory: Path) -> dict[str, Path]:
  """Returns the files of a directory but its manifest, and whatever else is no folder.

  A link to a folder is not followed.
  """
  found = {}
  for path in sorted(directory.rglob("*")):
    is_folder = path.is_dir() and not path.is_symlink()
    if not is_folder and path != directory / MANIFEST:
      found[str(path.relative_to(directory))] = path
  return found


def commit(directory: Path, tree: Mapping[str, str], extra: Mapping[str, Any]) -> None:
  """Writes the manifest of a directory whose files are complete.

  Args:
    directory: what is committed.
    tree: path of a leaf -> its dtype and shape.
    extra: JSON values to keep besides.
  """
  contents = {"files": _measure_files(directory), "tree": dict(tree), **extra}
  # As it will be read: tuples are lists, keys are strings.
  contents = json.loads(json.dumps(contents))
  record = {"manifest": contents, "sha256": _hash_contents(contents)}
  write_json(directory / MANIFEST, record)


def read(directory: Path) -> dict[str, Any]:
  """Reads the manifest of a directory.

  Raises:
    Damaged: if it is missing, not of this form, or not as it was written.
  """
  try:
    record = read_json(directory / MANIFEST, _MAX_BYTES)
  except (OSError, ValueError) as error:
    raise Damaged(f"{MANIFEST} cannot be read ({reason(error)})") from error
  if not isinstance(record, dict) or record.keys() != {"manifest", "sha256"}:
    raise Damaged(f"{MANIFEST} is not of the form that this version writes")
  contents = record["manifest"]
  if _hash_contents(contents) != record["sha256"]:
    raise Damaged(f"{MANIFEST} has changed")
  # A hash of its own says that it is whole, not that this package wrote it.
  for key in ("files", "tree"):
    if not isinstance(contents, dict) or not isinstance(contents.get(key), dict):
      raise Damaged(f"{MANIFEST} has no {key}")
  return contents


def check(directory: Path) -> dict[str, Any]:
  """Returns the manifest of a directory after comparing every file with it.

  Raises:
    Damaged: naming the first file that is missing, was added or has changed.
  """
  contents = read(directory)
  expected = contents["files"]
  found = _list_files(directory)
  for name in sorted(expected.keys() | found.keys()):
    if name not in found:
      raise Damaged(f"{name} is missing")
    if name not in expected:
      raise Damaged(f"{name} was added")
    try:
      is_same = _is_as_written(found[name], expected[name])
    except OSError as error:
      raise Damaged(f"{name} cannot be read ({reason(error)})") from error
    if not is_same:
      raise Damaged(f"{name} has changed")
  return contents


def _is_as_written(path: Path, expected: Any) -> bool:
  """Tells whether a file has the size and the hash that the manifest has of it."""
  if not isinstance(expected, list) or len(expected) != 2:
    return False
  size, digest = expected
  # A file of another size is not read: it might be endless.
  return path.stat().st_size == size and _hash_file(path) == digest


def are_channels(entry: Any) -> bool:
  """Tells whether an entry of a manifest is a number for each of three channels."""
  if not isinstance(entry, list) or len(entry) != 3:
    return False
  return all(type(x) in (int, float) and math.isfinite(x) for x in entry)
