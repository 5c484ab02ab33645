"""Runs a study: every method of a grid, under every seed, each cell a run of its own.

python -m jaxdistill study --config=digits --out=studies/digits
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

import jax
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)

from jaxdistill.core.processors import processors
from jaxdistill.engine.measures import SELECTING
from jaxdistill.engine.retrieval import RATES
from jaxdistill.errors import (
  BusyError,
  DivergedError,
  JaxdistillError,
  Preempted,
  StorageError,
  require,
  run_command,
)
from jaxdistill.run.assignments import assignments
from jaxdistill.run.config_files import STUDIES, packaged_configs
from jaxdistill.run.console import counted, per_cent
from jaxdistill.run.signals import stop_on_signals
from jaxdistill.run.study import (
  Cell,
  Results,
  cells_of,
  load_study,
  require_same_configs,
  select,
)
from jaxdistill.run.trainer import train

_USAGE = "python -m jaxdistill study --config=FILE --out=DIR [--config.KEY=VALUE ...]"

DONE = "done"
BEGUN = "begun"
OPEN = "open"


def _state(cell: Cell, summary: Mapping[str, Any] | None) -> str:
  """Returns how far a cell has come."""
  if summary:
    return DONE
  if (cell.path / "config.json").exists():
    return BEGUN
  return OPEN


def _table(cells: Sequence[Cell]) -> str:
  """Returns a line for each cell: its state, and its members' last accuracy."""
  width = max(len(cell.name) for cell in cells)
  lines = []
  for cell in cells:
    summary = cell.summary
    line = f"{cell.name:<{width}}  {_state(cell, summary)}"
    if summary:
      line += f"   {_accuracies(summary)}"
    lines.append(line)
  return "\n".join(lines)


def _accuracies(summary: Mapping[str, Any]) -> str:
  """Returns the last accuracy of every member, or its Rank-1, in per cent."""
  shown = []
  for name, row in summary["members"].items():
    last = row["last"]
    accuracy = last.get(SELECTING.name, last.get(RATES[0].name))
    shown.append(f"{name} {per_cent(accuracy)}")
  return ", ".join(shown)


class _Run:
  """Runs the cells of a study that are not done, one after the other.

  Attributes:
    failed: name of a cell -> why it came to no end.
    busy: names of the cells that other processes were at.
  """

  def __init__(
    self, cells: Sequence[Cell], done: int, results: Results, stop: Callable[[], bool]
  ):
    """Prepares; nothing is run yet.

    Args:
      cells: those to run.
      done: number of those that had been run before.
      results: is written after every cell.
      stop: whether to stop, see `train`.
    """
    self._cells = cells
    self._done = done
    self._results = results
    self._stop = stop
    self.failed: dict[str, str] = {}
    self.busy: list[str] = []

  def run(self) -> None:
    """Runs them.

    Raises:
      Preempted: if a signal says so; the cell that was running goes on next time.
    """
    columns = (
      BarColumn(bar_width=20),
      MofNCompleteColumn(),
      TextColumn("cells, {task.description}"),
      TimeRemainingColumn(),
      TextColumn("left"),
    )
    total = self._done + len(self._cells)
    with Progress(*columns, transient=True) as progress:
      task = progress.add_task("", total=total, completed=self._done)
      for cell in self._cells:
        progress.update(task, description=cell.name)
        # Another process may have done it by now.
        if not cell.summary:
          self._run_cell(cell, progress.console.print)
        progress.advance(task)

  def _run_cell(self, cell: Cell, say: Callable[[str], None]) -> None:
    """Runs one cell; what it lacks is kept in `failed` or `busy`."""
    start = time.perf_counter()
    try:
      summary = train(cell.config, cell.path, stop=self._stop, quiet=True)
    except BusyError:
      self.busy.append(cell.name)
      return
    except (Preempted, StorageError):
      # The next cell would fare no better.
      raise
    except JaxdistillError as error:
      self.failed[cell.name] = str(error)
      say(f"{cell.name}: failed: {error}")
      return
    finally:
      # What XLA compiles on a CPU holds memory maps, of which a process may have only
      # so many; the next cell finds its program in the cache on the disk.
      jax.clear_caches()
    seconds = time.perf_counter() - start
    say(f"{cell.name}: {_accuracies(summary)} ({seconds:.0f} s)")
    self._results.write()


def _spawn(jobs: int, argv: Sequence[str]) -> int:
  """Runs the same command in several processes, each on processors of its own.

  They share the folder: a cell that one of them is at is left alone by the others.

  Returns:
    The first exit code that is not 0.
  """
  available = processors()
  processes = []
  for job in range(jobs):
    own = set(available[job::jobs]) or set(available)
    command = [sys.executable, "-m", "jaxdistill", "study", *argv, "--jobs=1"]
    process = subprocess.Popen(command)
    if hasattr(os, "sched_setaffinity"):
      os.sched_setaffinity(process.pid, own)
    processes.append(process)
  codes = [process.wait() for process in processes]
  return next((code for code in codes if code), 0)


def _study(flags: argparse.Namespace, changes: Sequence[str]) -> None:
  """Does what the command line says."""
  study = load_study(flags.config, changes)
  out = Path(flags.out)
  cells = list(select(cells_of(study, out), flags.only))
  if flags.list:
    print(_table(cells))
    return
  require_same_configs(cells)
  waiting = [cell for cell in cells if not cell.summary]
  done = len(cells) - len(waiting)
  print(
    f"{study.title}: {counted(len(study.rows), 'row')}, "
    f"{counted(len(study.seeds), 'seed')}; {done} of {counted(len(cells), 'cell')} done"
  )
  if flags.dry_run:
    for cell in waiting:
      print(f"would run {cell.name} in {cell.path}")
    return
  results = Results(study, cells_of(study, out), out)
  run = _Run(waiting, done, results, stop_on_signals())
  run.run()
  out.mkdir(parents=True, exist_ok=True)
  print(f"wrote {results.write()}")
  if run.busy:
    busy = counted(len(run.busy), "cell")
    print(f"{busy} left to other processes: {', '.join(run.busy[:5])}")
  if run.failed:
    name, why = next(iter(run.failed.items()))
    failed = counted(len(run.failed), "cell")
    raise DivergedError(f"{failed} failed, the first is {name}: {why}")


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill study",
    description="Run a grid of methods and seeds; every cell is a run of its own. The "
    "same command goes on where it was stopped; several processes may share --out.",
    epilog=f"with the package come: {', '.join(packaged_configs(STUDIES))}; example: "
    "python -m jaxdistill study --config=digits --out=runs/digits --jobs=2",
    allow_abbrev=False,
  )
  parser.add_argument("--config", required=True, help="study file, or name[:argument]")
  parser.add_argument("--out", required=True, help="folder of the study")
  parser.add_argument(
    "--only",
    action="append",
    default=[],
    metavar="PATTERN",
    help="rows or cells to run, such as 'dml*' or '*/seed0'; may be given again",
  )
  parser.add_argument(
    "--jobs", type=int, default=1, help="processes; default: %(default)s"
  )
  parser.add_argument("--list", action="store_true", help="show every cell's state")
  parser.add_argument(
    "--dry-run", action="store_true", help="check all, and say what would be run"
  )

  def run() -> int | None:
    flags, rest = parser.parse_known_args(argv)
    changes = assignments(rest, _USAGE)
    require(flags.jobs >= 1, f"--jobs must be at least 1, got {flags.jobs}")
    if flags.jobs > 1 and not flags.list and not flags.dry_run:
      kept = [word for word in argv if not word.startswith("--jobs")]
      return _spawn(flags.jobs, kept)
    return _study(flags, changes)

  return run_command(run)
