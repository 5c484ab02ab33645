"""Prepares a folder of images for training: checked, resized, in a few large files.

    python -m jaxdistill prepare --source=photos --out=photos_256 --size=256
    python -m jaxdistill prepare --source=photos.tar --out=photos_256 --holdout=0.1

What it writes is read by the data set `prepared`. One that was stopped goes on where it
was when the same command is run again, and ends with the same bytes.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import fcntl
import functools
import math
import multiprocessing
import os
from pathlib import Path
import shutil
import signal
import threading
import time
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, features
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)

from jaxdistill.core.foreign import expand
from jaxdistill.core.processors import processors
from jaxdistill.data import shards
from jaxdistill.errors import (
  BusyError,
  DataError,
  OutOfMemoryError,
  Preempted,
  StorageError,
  reason,
  require,
  require_choice,
  require_rate,
  run_command,
)
from jaxdistill.run.manifest import write_json
from jaxdistill.run.room import free_bytes, in_units
from jaxdistill.tools import _shard, _sources
from jaxdistill.tools._images import FILTERS, Settings

_WORKPLACE = "unfinished"

# A preparation that is killed loses what its processes have of one shard each.
_IMAGES_PER_SHARD = 2048
# Fewer in a small set, so that every process gets some.
_SMALL_SET_SHARDS = 16
_FEWEST_IMAGES = 64

_LARGEST_SIZE = 4096
_MAX_WORKERS = 1024

# What JPEG of quality 95 takes of detailed photographs, which are 4:3.
_BYTES_PER_PIXEL = 0.5
_ASPECT = 4 / 3
_SHARD_OVERHEAD = 2**17
_ROW_BYTES = 100

_POLL_SECONDS = 0.2
_LINE_SECONDS = 30

# What may differ where a preparation is complete: another Pillow writes other bytes of
# the same images.
_ENCODER = "encoder"


class Order(NamedTuple):
  """What is to be prepared.

  Attributes:
    source: folder or archive.
    out: directory to write.
    settings: how images are stored.
    holdout: fraction of every class that becomes the test split.
    on_error: "raise" or "skip".
    max_skipped: fraction of the images that may be skipped.
    follow_links: whether links in a folder count as what they lead to.
    workers: number of processes.
  """

  source: Path
  out: Path
  settings: Settings = Settings()
  holdout: float = 0.0
  on_error: str = "raise"
  max_skipped: float = 0.1
  follow_links: bool = False
  workers: int = 1

  @property
  def workplace(self) -> Path:
    """Folder for what is there while the preparation is not complete."""
    return self.out / _WORKPLACE


def prepare(order: Order) -> shards.Index:
  """Prepares a directory, or goes on with it; returns its index.

  Raises:
    ConfigError: for a setting out of range.
    DataError: naming the file, member or class that is wrong, or what has changed.
    StorageError: if the directory cannot be written, or has too little room.
    BusyError: if another process prepares it.
    Preempted: after Ctrl-C or SIGTERM; the same command goes on.
  """
  _check(order)
  with _locked(order.out), _signals_as_interrupt():
    _require_own(order.out)
    order.workplace.mkdir(exist_ok=True)
    source = _sources.open_source(
      order.source, order.workplace, follow_links=order.follow_links
    )
    listing = _sources.list_images(source, order.holdout)
    _describe(order, listing)
    plan = _plan(order, listing)
    if os.path.lexists(order.out / shards.INDEX):
      return _already(order, plan)
    _begin(order, plan)
    _write_all(order, source, listing)
    if _sources.list_images(source, order.holdout).digest != listing.digest:
      raise _changed(order)
    index = _finish(order, source, listing, plan)
  _tell(order, index)
  return index


def _say(text: str) -> None:
  print(text, flush=True)


# Before the first image.


def _check(order: Order) -> None:
  """Raises ConfigError for settings out of range."""
  settings = order.settings
  require(
    0 <= settings.size <= _LARGEST_SIZE,
    f"--size must lie in 0..{_LARGEST_SIZE}, got {settings.size}",
  )
  require(
    1 <= settings.quality <= 100,
    f"--quality must lie in 1..100, got {settings.quality}",
  )
  require_choice(**{"--filter": (settings.filter, tuple(FILTERS))})
  require_choice(**{"--on-error": (order.on_error, _shard.ON_ERROR)})
  require_rate(**{"--holdout": order.holdout, "--max-skipped": order.max_skipped})
  require(
    1 <= order.workers <= _MAX_WORKERS,
    f"--workers must lie in 1..{_MAX_WORKERS}, got {order.workers}",
  )
  out = order.out.resolve()
  require(
    not out.is_relative_to(order.source.resolve()),
    f"--out={order.out} is inside the source: choose a directory beside it",
  )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
  """Creates the directory, and keeps other preparations out of it.

  Raises:
    StorageError: if it, or what the block writes in it, cannot be written.
    BusyError: if another process holds it.
  """
  try:
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
  except OSError as error:
    raise StorageError(
      f"{out} cannot be written: {reason(error)}: choose another --out"
    ) from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    os.close(lock)
    raise BusyError(
      f"{out} is being prepared by another process: wait for it, or choose another "
      "--out"
    ) from error
  try:
    yield
  except BrokenPipeError:
    # That is the output's, not the directory's.
    raise
  except OSError as error:
    raise StorageError(
      f"{out}: {error.filename or 'a file'} cannot be read or written: {reason(error)} "
      f"({in_units(free_bytes(out))} free): run the same command again to go on"
    ) from error
  finally:
    os.close(lock)


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
  """Makes SIGTERM and Ctrl-C one while the block runs, if this is the main thread.

  Whatever else the program has made of them stands again behind it.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {}
  for number in (signal.SIGINT, signal.SIGTERM):
    before[number] = signal.signal(number, signal.default_int_handler)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _require_own(out: Path) -> None:
  """Raises StorageError for a directory with anything but a preparation in it."""
  is_own = (out / _WORKPLACE).is_dir() or (out / shards.INDEX).is_file()
  if not is_own and any(out.iterdir()):
    raise StorageError(f"{out} holds other files: choose an empty or a new --out")


def _describe(order: Order, listing: _sources.Listing) -> None:
  """Says what was found."""
  train = len(listing.splits["train"])
  test = len(listing.splits["test"])
  ignored = ""
  if listing.ignored:
    ignored = f"; {listing.ignored} files are no images by their names"
  _say(
    f"{order.source}: {train:,} training and {test:,} test images of "
    f"{len(listing.class_names)} classes{ignored}"
  )


def _plan(order: Order, listing: _sources.Listing) -> dict[str, Any]:
  """Returns what determines the bytes of all shards."""
  return {
    "source": listing.digest,
    "holdout": order.holdout,
    **order.settings._asdict(),
    _ENCODER: f"Pillow {Image.__version__}, libjpeg {features.version('jpg')}",
  }


def _changed(order: Order) -> DataError:
  return DataError(
    f"{order.source} has changed since the preparation in {order.out} began: prepare "
    "it again, into an empty directory"
  )


def _require_same(
  order: Order, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
  """Raises DataError where another source or setting would make other shards."""
  differing = [key for key in now if before.get(key) != now[key]]
  # A fraction lists other files in each split.
  if differing == ["source"]:
    raise _changed(order)
  settings = [key for key in differing if key != "source"]
  if settings:
    key = settings[0]
    raise DataError(
      f"{order.out} was begun with {key}={before.get(key)}, now it is {now[key]}: "
      "take the same, or another --out"
    )


def _already(order: Order, plan: Mapping[str, Any]) -> shards.Index:
  """Returns the index of a directory that is complete."""
  index = shards.read_index(order.out)
  wanted = {key: value for key, value in plan.items() if key != _ENCODER}
  _require_same(order, index.plan, wanted)
  shutil.rmtree(order.workplace, ignore_errors=True)
  _say(f"{order.out} is complete already")
  return index


def _begin(order: Order, plan: dict[str, Any]) -> None:
  """Writes down what is prepared, or compares it with what was begun."""
  path = order.workplace / "plan.json"
  if not path.exists():
    write_json(path, shards.with_hash(plan))
    return
  try:
    before = shards.read_with_hash(path)
  except (OSError, ValueError) as error:
    raise StorageError(
      f"{path} cannot be used ({reason(error)}): begin again, with an empty --out"
    ) from error
  _require_same(order, before, plan)
  # Of processes that were killed.
  for left in order.workplace.glob("*.tmp*"):
    left.unlink(missing_ok=True)


# The shards.


def _tasks(
  order: Order, source: _sources.Source, listing: _sources.Listing
) -> list[_shard.Task]:
  """Returns all shards, the same for any number of processes."""
  tasks = []
  for split, examples in listing.splits.items():
    count = _shard_count(len(examples))
    bounds = np.linspace(0, len(examples), count + 1).astype(int)
    for number in range(count):
      task = _shard.Task(
        source=source,
        examples=examples[bounds[number] : bounds[number + 1]],
        settings=order.settings,
        on_error=order.on_error,
        path=order.out / shards.shard_name(split, number, count),
        workplace=order.workplace,
      )
      tasks.append(task)
  return tasks


def _shard_count(images: int) -> int:
  few = min(_SMALL_SET_SHARDS, math.ceil(images / _FEWEST_IMAGES))
  return max(math.ceil(images / _IMAGES_PER_SHARD), few, 1)


def _write_all(
  order: Order, source: _sources.Source, listing: _sources.Listing
) -> None:
  """Writes every shard that is not complete."""
  tasks = _tasks(order, source, listing)
  waiting = []
  skipped = []
  done = 0
  for task in tasks:
    note = _shard.finished(task)
    if note is None:
      waiting.append(task)
    else:
      done += len(task.examples)
      skipped += note["skipped"]
  total = sum(len(task.examples) for task in tasks)
  limit = int(order.max_skipped * total)
  _require_few(order, skipped, limit)
  if done and waiting:
    _say(
      f"going on: {len(tasks) - len(waiting)} of {len(tasks)} shards are complete, "
      f"{done:,} images"
    )
  _require_room(order, waiting)

  complete = len(tasks) - len(waiting)
  try:
    with _Progress(done, total) as progress:
      for note in _written(order, waiting, progress):
        complete += 1
        skipped += note["skipped"]
        _require_few(order, skipped, limit)
  except KeyboardInterrupt as error:
    raise Preempted(
      f"{complete} of {len(tasks)} shards of {order.out} are complete: run the same "
      "command again to go on"
    ) from error


def _require_few(order: Order, skipped: Sequence[Sequence[str]], limit: int) -> None:
  """Raises DataError if more images were skipped than may be."""
  if len(skipped) > limit:
    name, why = skipped[0]
    raise DataError(
      f"{order.source}: more than {limit} images cannot be used (--max-skipped="
      f"{order.max_skipped}), such as {name}: {why}: repair or remove them"
    )


def _require_room(order: Order, tasks: Sequence[_shard.Task]) -> None:
  """Raises StorageError if the disk has no room for the shards."""
  size = order.settings.size
  most = math.inf
  if size:
    most = size * size * _ASPECT * _BYTES_PER_PIXEL
  needed = 0.0
  for task in tasks:
    needed += _SHARD_OVERHEAD
    for file, _ in task.examples:
      expected = min(file.size, most)
      if order.settings.upscale:
        expected = most
      needed += expected + _ROW_BYTES
  there = free_bytes(order.out)
  if needed > there:
    raise StorageError(
      f"{order.out} has {in_units(there)} free, about {in_units(needed)} are needed: "
      "make room, choose another --out, or a smaller --size"
    )


def _written(
  order: Order, tasks: Sequence[_shard.Task], progress: "_Progress"
) -> Iterator[dict[str, Any]]:
  """Writes shards; yields the note of each, in any order."""
  workers = min(order.workers, len(tasks))
  if workers <= 1:
    for task in tasks:
      yield _shard.prepare(task, progress.add)
    return

  # Not forked: threads of libraries that are loaded here would not be there.
  context = multiprocessing.get_context("spawn")
  counter = context.Value("q", 0)
  pool = futures.ProcessPoolExecutor(
    workers, mp_context=context, initializer=_shard.start, initargs=(counter,)
  )
  try:
    waiting = {pool.submit(_shard.prepare_in_pool, task) for task in tasks}
    while waiting:
      ended, waiting = futures.wait(
        waiting, timeout=_POLL_SECONDS, return_when=futures.FIRST_COMPLETED
      )
      progress.set(counter.value)
      for future in ended:
        yield future.result()
  except futures.process.BrokenProcessPool as error:
    raise OutOfMemoryError(
      "a process that prepares images was killed, perhaps for its memory: run the same "
      f"command again with fewer --workers (now {workers})"
    ) from error
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
      process.kill()


class _Progress:
  """Shows how many images are done: a bar on a terminal, a line at times elsewhere."""

  def __init__(self, before: int, total: int):
    """Begins to count.

    Args:
      before: images that were done before.
      total: of all images.
    """
    self._before = before
    self._total = total
    self._images = 0
    self._start = time.monotonic()
    self._line = self._start
    console = Console(highlight=False)
    self._bar = Progress(
      BarColumn(bar_width=20),
      MofNCompleteColumn(),
      TextColumn("images"),
      TextColumn("{task.fields[rate]}"),
      TimeRemainingColumn(),
      TextColumn("left"),
      console=console,
      transient=True,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task("", total=total, completed=before, rate="")

  def __enter__(self) -> "_Progress":
    """Shows the bar."""
    self._bar.start()
    return self

  def __exit__(self, *exception: Any) -> None:
    """Takes the bar away."""
    self._bar.stop()

  def add(self, images: int) -> None:
    """Counts images."""
    self.set(self._images + images)

  def set(self, images: int) -> None:
    """Tells how many images are done since the beginning of this process."""
    self._images = images
    now = time.monotonic()
    rate = images / max(now - self._start, 1e-3)
    done = self._before + images
    self._bar.update(self._task, completed=done, rate=f"{rate:,.0f} images/s")
    if self._bar.disable and now - self._line > _LINE_SECONDS:
      self._line = now
      left = (self._total - done) / max(rate, 1e-3)
      _say(f"{done:,} of {self._total:,} images, {rate:,.0f}/s, {left:.0f} s left")


# The index.


def _finish(
  order: Order,
  source: _sources.Source,
  listing: _sources.Listing,
  plan: Mapping[str, Any],
) -> shards.Index:
  """Writes the table, then the index, which makes the directory complete."""
  described: dict[str, list[dict[str, Any]]] = {split: [] for split in shards.SPLITS}
  rows: dict[str, list[list[Any]]] = {split: [] for split in shards.SPLITS}
  skipped = []
  sums = np.zeros(3, object)
  squares = np.zeros(3, object)
  for task in _tasks(order, source, listing):
    note = shards.read_with_hash(task.note)
    split = task.path.name.partition("-")[0]
    row = {key: note[key] for key in ("file", "records", "bytes", "sha256")}
    described[split].append(row)
    rows[split] += note["rows"]
    skipped += note["skipped"]
    if split == "train":
      sums += np.array(note["sums"], object)
      squares += np.array(note["squares"], object)

  _require_every_class(order, listing, rows)
  mean, std = _statistics(sums, squares, rows["train"])
  table = _write_table(order, rows)
  contents = {
    "version": shards.VERSION,
    "classes": listing.class_names,
    "mean": mean,
    "std": std,
    "plan": plan,
    "skipped": skipped,
    "table": table,
    "splits": described,
  }
  write_json(order.out / shards.INDEX, shards.with_hash(contents))
  shutil.rmtree(order.workplace, ignore_errors=True)
  return shards.read_index(order.out)


def _require_every_class(
  order: Order, listing: _sources.Listing, rows: Mapping[str, list[list[Any]]]
) -> None:
  """Raises DataError for a class of which all training images were skipped."""
  present = {label for _, label, *_ in rows["train"]}
  for label, name in enumerate(listing.class_names):
    if label not in present:
      raise DataError(
        f"{order.source}: no training image of class {name!r} can be used: repair "
        "them, or remove its folder"
      )
  if not rows["test"]:
    raise DataError(f"{order.source}: no test image can be used: repair them")


def _statistics(
  sums: np.ndarray, squares: np.ndarray, rows: Sequence[Sequence[Any]]
) -> tuple[list[float], list[float]]:
  """Returns mean and standard deviation of each channel, in [0, 1].

  Args:
    sums: of the pixels of each channel, whole numbers of any size.
    squares: likewise, of the squares.
    rows: (name, label, height, width, bytes) of each image.
  """
  pixels = sum(height * width for _, _, height, width, _ in rows)
  mean = []
  std = []
  for total, square in zip(sums, squares, strict=True):
    mean.append(total / pixels / 255)
    variance = square / pixels - (total / pixels) ** 2
    # A constant channel gets a small number, to divide by.
    std.append(max(math.sqrt(max(variance, 0.0)) / 255, 1e-3))
  return mean, std


def _write_table(
  order: Order, rows: Mapping[str, list[list[Any]]]
) -> dict[str, int | str]:
  """Writes the table of all images; returns its size and hash."""
  arrays = {}
  for split, listed in rows.items():
    names = [name.encode("latin-1") + b"\0" for name, *_ in listed]
    arrays[f"{split}_names"] = np.frombuffer(b"".join(names), np.uint8)
    arrays[f"{split}_label"] = np.array([row[1] for row in listed], np.int32)
    arrays[f"{split}_height"] = np.array([row[2] for row in listed], np.int32)
    arrays[f"{split}_width"] = np.array([row[3] for row in listed], np.int32)
    arrays[f"{split}_bytes"] = np.array([row[4] for row in listed], np.int64)
  path = order.out / shards.TABLE
  temporary = order.workplace / f"{shards.TABLE}.tmp"
  with open(temporary, "wb") as file:
    np.savez_compressed(file, **arrays)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
  return {"bytes": path.stat().st_size, "sha256": shards.hash_file(path)}


def _tell(order: Order, index: shards.Index) -> None:
  """Says what was written, and how to train on it."""
  size = 0
  counts = {}
  for name, split in index.splits.items():
    counts[name] = f"{len(split.table.label):,} in {len(split.shards)} files"
    size += sum(shard.size for shard in split.shards)
  skipped = ""
  if index.skipped:
    skipped = f"; {len(index.skipped)} images were skipped, {shards.INDEX} lists them"
  _say(
    f"wrote {in_units(size)} to {order.out}: train {counts['train']}, test "
    f"{counts['test']}{skipped}"
  )
  _say(f"train with --config.data.name=prepared --config.data.dir={order.out}")


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill prepare",
    description="Prepare a folder of images, or a tar or zip archive of one, for "
    "training: every image is checked, resized, and stored in ArrayRecord files. Run "
    "again, a preparation that was stopped goes on.",
    epilog="example: python -m jaxdistill prepare --source=photos --out=photos_256 "
    "--size=256 --holdout=0.1",
  )
  _add_flags(parser)
  flags = parser.parse_args(argv)
  order = Order(
    source=expand(flags.source),
    out=expand(flags.out),
    settings=Settings(
      size=flags.size,
      quality=flags.quality,
      filter=flags.filter,
      upscale=flags.upscale,
    ),
    holdout=flags.holdout,
    on_error=flags.on_error,
    max_skipped=flags.max_skipped,
    follow_links=flags.follow_links,
    workers=flags.workers,
  )
  run = functools.partial(prepare, order)
  return run_command(lambda: _code(run()))


def _code(index: shards.Index) -> int:
  del index
  return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
  default = Settings()
  parser.add_argument(
    "--source",
    required=True,
    help="folder or archive with train/CLASS/IMAGE and val/CLASS/IMAGE (or test), or "
    "with CLASS/IMAGE and --holdout",
  )
  parser.add_argument("--out", required=True, help="directory to write")
  parser.add_argument(
    "--size",
    type=int,
    default=default.size,
    help="pixels of the shorter side; 0 resizes nothing; default: %(default)s",
  )
  parser.add_argument(
    "--quality",
    type=int,
    default=default.quality,
    help="of JPEG, 1 to 100; default: %(default)s",
  )
  parser.add_argument(
    "--filter",
    choices=tuple(FILTERS),
    default=default.filter,
    help="for resizing, default: %(default)s",
  )
  parser.add_argument(
    "--upscale", action="store_true", help="enlarge images that are smaller than --size"
  )
  parser.add_argument(
    "--holdout",
    type=float,
    default=0.0,
    help="fraction of every class that becomes the test split, where there is none",
  )
  parser.add_argument(
    "--on-error",
    choices=_shard.ON_ERROR,
    default="raise",
    help="what to do with an image that cannot be used; default: %(default)s",
  )
  parser.add_argument(
    "--max-skipped",
    type=float,
    default=0.1,
    help="fraction of the images that --on-error=skip may skip; default: %(default)s",
  )
  parser.add_argument(
    "--follow-links",
    action="store_true",
    help="take links in the folder for what they lead to; they are refused otherwise",
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=len(processors()),
    help="number of processes; default: one for each core",
  )
