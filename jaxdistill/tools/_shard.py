"""Prepares one shard, in a process of its own: images are read, checked and stored.

Nothing heavy is imported here: every process that prepares shards imports it.
"""

from collections.abc import Callable, Sequence
import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from jaxdistill.data.shards import (
  Shard,
  hash_file,
  not_installed,
  open_shard,
  read_with_hash,
  with_hash,
)
from jaxdistill.errors import DataError, StorageError, reason
from jaxdistill.run.manifest import write_json
from jaxdistill.tools._images import Fault, Settings, store
from jaxdistill.tools._sources import Contents, Example, Source

_OPTIONS = "group_size:1,max_parallelism:1"
"""Each record alone, for random access; one thread, for the same bytes every time."""

ON_ERROR = ("raise", "skip")


class Task(NamedTuple):
  """A shard to prepare.

  Attributes:
    source: where the images are.
    examples: the images.
    settings: how they are stored.
    on_error: "raise" or "skip".
    path: of the shard.
    workplace: folder for what is not complete.
  """

  source: Source
  examples: Sequence[Example]
  settings: Settings
  on_error: str
  path: Path
  workplace: Path

  @property
  def note(self) -> Path:
    """File that says that the shard is complete, and what is in it."""
    return self.workplace / f"{self.path.name}.json"


def finished(task: Task) -> dict[str, Any] | None:
  """Returns what the note of a shard says; None unless the shard is intact."""
  try:
    note = read_with_hash(task.note)
    if os.stat(task.path).st_size != note["bytes"]:
      return None
    if hash_file(task.path) != note["sha256"]:
      return None
  except (OSError, ValueError, KeyError):
    return None
  return note


def prepare(task: Task, report: Callable[[int], None]) -> dict[str, Any]:
  """Writes a shard, and its note when it is complete.

  Args:
    task: the shard.
    report: called with the number of images since the last call.

  Returns:
    What the note says.

  Raises:
    DataError: naming an image that cannot be used, unless such are to be skipped, or a
      file that has changed since it was listed.
    StorageError: if the shard cannot be written.
  """
  temporary = task.workplace / f"{task.path.name}.tmp-{os.getpid()}"
  try:
    note = _write(task, temporary, report)
    note |= {"bytes": os.stat(temporary).st_size, "sha256": hash_file(temporary)}
    os.replace(temporary, task.path)
    write_json(task.note, with_hash(note))
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
  return note


def _write(
  task: Task, temporary: Path, report: Callable[[int], None]
) -> dict[str, Any]:
  """Writes the records of a shard; returns what is known of them."""
  rows = []
  skipped = []
  sums = [0, 0, 0]
  squares = [0, 0, 0]
  writer = _opened(temporary)
  contents = Contents(task.source)
  try:
    for file, label in task.examples:
      try:
        stored = store(contents.read(file), task.settings)
      except Fault as fault:
        if task.on_error == "raise":
          raise DataError(
            f"{task.source.path}: {file.name}: {fault}: repair or remove it, or leave "
            "such images out with --on-error=skip"
          ) from fault
        skipped.append((file.name, str(fault)))
        report(1)
        continue
      _append(writer, stored.content, temporary)
      name = os.fsencode(file.name).decode("latin-1")
      rows.append((name, label, stored.height, stored.width, len(stored.content)))
      sums = _added(sums, stored.sums)
      squares = _added(squares, stored.squares)
      report(1)
  finally:
    contents.close()
    _close(writer, temporary)
  _check_written(temporary, len(rows))
  return {
    "file": task.path.name,
    "records": len(rows),
    "rows": rows,
    "skipped": skipped,
    "sums": sums,
    "squares": squares,
  }


def _added(left: list[int], right: list[int]) -> list[int]:
  return [one + other for one, other in zip(left, right, strict=True)]


# array_record documents no type for a file that cannot be written.


def _opened(path: Path) -> Any:
  # An optional dependency.
  try:
    from array_record.python.array_record_module import ArrayRecordWriter
  except ImportError as error:
    raise not_installed(path, error) from error
  try:
    return ArrayRecordWriter(str(path), _OPTIONS)
  except RuntimeError as error:
    raise unwritable(path, error) from error


def _append(writer: Any, record: bytes, path: Path) -> None:
  try:
    writer.write(record)
  except RuntimeError as error:
    raise unwritable(path, error) from error


def _close(writer: Any, path: Path) -> None:
  try:
    writer.close()
  except RuntimeError as error:
    raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> StorageError:
  """Returns what is raised where a file of the preparation cannot be written."""
  return StorageError(
    f"{path.parent}: {path.name} cannot be written ({reason(error)}): make room, and "
    "run the same command again to go on"
  )


def _check_written(path: Path, records: int) -> None:
  """Brings a shard to the disk; raises StorageError unless its records are there."""
  try:
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
    open_shard(Shard(path=path, records=records, size=0, sha256="")).close()
  except (OSError, RuntimeError, DataError) as error:
    raise unwritable(path, error) from error


# Processes of a pool.

_counter: Any = None


def start(counter: Any) -> None:
  """Prepares a process of the pool: the first one decides when it ends.

  Args:
    counter: shared number of images that are done.
  """
  import multiprocessing
  from multiprocessing import connection
  import signal
  import threading

  global _counter
  _counter = counter
  # Both may be sent to all processes at once.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def watch() -> None:
    # Without the first process nobody would end this one.
    if parent is not None:
      connection.wait([parent.sentinel])
      os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def prepare_in_pool(task: Task) -> dict[str, Any]:
  """Writes a shard in a process of the pool; see `prepare`."""

  def report(images: int) -> None:
    with _counter.get_lock():
      _counter.value += images

  return prepare(task, report)
