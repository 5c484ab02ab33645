"""A run's metrics on disk.

`metrics.jsonl` is the record, `metrics.csv` and TensorBoard are made from it.
"""

from collections.abc import Mapping
import csv
import json
import math
import os
from pathlib import Path
import time
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from jaxdistill.errors import DataError

# Where and when a line was measured, not what.
_POSITION = ("step", "epoch", "split")

TIMING = ("seconds", "images_per_second")
"""What stands last in a training line, and differs between two runs of one config."""

WAITING = "waiting"
"""Fraction of the time in which training waited for images, where they are streamed.

It stands behind `TIMING` and differs like those.
"""

EVALUATED = ("test", "holdout")
"""Splits of the lines that an evaluation writes."""

# Generated code, of which the type checker cannot know the classes.
_Event: Any = event_pb2.__dict__["Event"]


def read_metrics(path: Path) -> list[dict[str, Any]]:
  """Reads the lines of a `metrics.jsonl`, but for a last one cut off by a crash.

  Raises:
    DataError: for a damaged line before the last.
  """
  if not path.exists():
    return []
  lines = path.read_text(errors="replace").splitlines(keepends=True)
  if lines and not lines[-1].endswith("\n"):
    lines.pop()
  return [_parse_line(path, number, line) for number, line in enumerate(lines, start=1)]


def _parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
  try:
    values = json.loads(line)
    if not isinstance(values["step"], int):
      raise ValueError("its step is no integer")
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise DataError(
      f"{path}: line {number} is damaged: remove it by hand, or choose another workdir"
    ) from error
  return values


class MetricLog:
  """Writes metric lines; after a resume each step stands there exactly once.

  A line is {"step", "epoch", "split", "<metric>/<member>": value, ...}; a training line
  ends with `TIMING`, and `WAITING` where images are streamed. Values that are not
  finite are null.

  Attributes:
    waiting: mean of `WAITING` over the training lines; None where nothing is streamed.
    seconds: of the last training line: since the run began, over all processes that
      continued it, without what was lost when one of them was killed.
  """

  def __init__(
    self,
    workdir: Path,
    step: int,
    *,
    evaluated: bool = True,
    started: float | None = None,
  ):
    """Opens the log and cuts it back to `step`, the step of the restored checkpoint.

    Where that step is still to be evaluated, lines of its evaluation go as well.

    What is made from the record is made anew: whatever a killed process left in the
    table, or in TensorBoard's queue, is complete again and stands there once.

    Args:
      workdir: of the run.
      step: of the last line that stays.
      evaluated: whether that step has been evaluated.
      started: `time.perf_counter()` when this process began with the run; None is now.
    """
    if started is None:
      started = time.perf_counter()
    self._jsonl = workdir / "metrics.jsonl"
    self._csv = workdir / "metrics.csv"
    lines = []
    for line in read_metrics(self._jsonl):
      past = line["step"] < step
      present = line["step"] == step and (
        evaluated or line.get("split") not in EVALUATED
      )
      if past or present:
        lines.append(line)
    temporary = workdir / "metrics.jsonl.tmp"
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(temporary, self._jsonl)
    self._file = open(self._jsonl, "a")
    self.seconds = _last_seconds(lines)
    self._waiting = _waiting_of(lines)
    # When the run would have begun without a break.
    self._started = started - self.seconds
    self._columns: list[str] = []
    self._board = _new_board(workdir / "tensorboard")
    try:
      if lines:
        self._rewrite_csv()
      for line in lines:
        self._write_board(line)
      self._board.flush()
    except OSError:
      self.close()
      raise

  def write(
    self,
    step: int,
    epoch: float,
    split: str,
    values: Mapping[str, float],
    *,
    images_per_second: float | None = None,
    waiting: float | None = None,
  ) -> None:
    """Appends one line to every file and flushes it.

    Args:
      step: the present one.
      epoch: the present one, with its fraction.
      split: that was measured.
      values: metric -> value.
      images_per_second: training speed, for a training line.
      waiting: fraction of the time, for a training line of streamed images.
    """
    line: dict[str, Any] = {"step": step, "epoch": round(epoch, 6), "split": split}
    for key, value in values.items():
      line[key] = value if math.isfinite(value) else None
    if images_per_second is not None:
      self.seconds = round(time.perf_counter() - self._started, 3)
      line["seconds"] = self.seconds
      line["images_per_second"] = round(images_per_second, 1)
    if waiting is not None:
      line[WAITING] = round(waiting, 4)
      self._waiting.append(line[WAITING])
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    if line.keys() <= set(self._columns):
      with open(self._csv, "a", newline="") as file:
        csv.DictWriter(file, self._columns).writerow(line)
    else:
      self._rewrite_csv()
    self._write_board(line)
    self._board.flush()

  @property
  def waiting(self) -> float | None:
    """See the class."""
    if not self._waiting:
      return None
    return round(sum(self._waiting) / len(self._waiting), 4)

  def _rewrite_csv(self) -> None:
    """Writes the table anew with one column for every key there is."""
    lines = read_metrics(self._jsonl)
    self._columns = list(dict.fromkeys(key for line in lines for key in line))
    with open(self._csv, "w", newline="") as file:
      writer = csv.DictWriter(file, self._columns)
      writer.writeheader()
      writer.writerows(lines)

  def _write_board(self, line: Mapping[str, Any]) -> None:
    """Sends one line to TensorBoard, without what is not finite."""
    for key, value in line.items():
      if key not in _POSITION and value is not None:
        summary = scalar(f"{line['split']}/{key}", value)
        self._board.write_event(
          _Event(wall_time=time.time(), step=line["step"], summary=summary)
        )

  def close(self) -> None:
    """Closes the files."""
    try:
      self._file.close()
    finally:
      self._board.close()


class NoLog:
  """The log of a process that writes none: another one does.

  Attributes:
    seconds: 0.
    waiting: None.
  """

  seconds = 0.0
  waiting = None

  def write(self, *line: Any, **measured: Any) -> None:
    """Does nothing; see `MetricLog.write`."""

  def close(self) -> None:
    """Does nothing."""


def _last_seconds(lines: list[dict[str, Any]]) -> float:
  """Returns the seconds of the last line that has them; 0 if none has."""
  for line in reversed(lines):
    seconds = line.get("seconds")
    if isinstance(seconds, (int, float)):
      return seconds
  return 0.0


def _waiting_of(lines: list[dict[str, Any]]) -> list[float]:
  """Returns what the lines say of waiting, of those that do."""
  found = []
  for line in lines:
    waiting = line.get(WAITING)
    if isinstance(waiting, (int, float)):
      found.append(waiting)
  return found


def _new_board(directory: Path) -> EventsWriter:
  """Returns a writer of a new event file, in the place of those that are there.

  It writes in this thread. That of `SummaryWriter` dies of a full disk without a word,
  and whoever fills its queue waits for ever.
  """
  directory.mkdir(parents=True, exist_ok=True)
  for old in directory.glob("events.out.tfevents.*"):
    old.unlink()
  return EventsWriter(str(directory / "events"))
