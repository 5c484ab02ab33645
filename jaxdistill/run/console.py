"""What a run prints: a progress bar and tables on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import re
import time
from typing import Any

from rich import box
from rich.console import Console as RichConsole
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)
from rich.table import Table

from jaxdistill.engine.measures import CLASSIFICATION, Task


def per_cent(fraction: float | None) -> str:
  """Formats a fraction as per cent with two digits."""
  if fraction is None or fraction != fraction:
    return "-"
  return f"{100 * fraction:.2f}"


def counted(number: int, noun: str) -> str:
  """Returns "1 step", "2 steps"."""
  if number != 1:
    noun += "s"
  return f"{number} {noun}"


def number(value: float | None, percent: bool) -> str:
  """Formats a number of an evaluation: as per cent, or with four digits."""
  if percent:
    return per_cent(value)
  return "-" if value is None else f"{value:.4f}"


def _parameters(number: int) -> str:
  return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}"


def with_model(name: str, model: str) -> str:
  """Returns the name of a group or member, and its network if that is another.

  Args:
    name: of a group, or of one of its members.
    model: registry name of its network.
  """
  group = name.partition(".")[0]
  if group in re.split(r"[.:]", model):
    return name
  return f"{name} ({model})"


class _Terminal(RichConsole):
  """What Rich prints to."""

  def on_broken_pipe(self) -> None:
    """Lets the command's end be that of every command whose reader went away."""
    self.quiet = True
    raise BrokenPipeError


class Console:
  """Speaks to the person who started the run."""

  def __init__(self, quiet: bool = False):
    """Opens the terminal; a quiet console says nothing."""
    self._rich = _Terminal(quiet=quiet, highlight=False, soft_wrap=True)
    self._progress: Progress | None = None

  def say(self, text: str) -> None:
    """Prints one line."""
    self._rich.print(text, markup=False)

  @contextlib.contextmanager
  def timed(self, what: str) -> Iterator[None]:
    """Says that something slow begins, and how long it took."""
    self.say(f"{what} ...")
    start = time.perf_counter()
    yield
    self.say(f"{what} took {time.perf_counter() - start:.1f} s")

  def show(self, table: Table) -> None:
    """Prints a table."""
    self._rich.print(table)

  @contextlib.contextmanager
  def counted(self, total: int, what: str) -> Iterator[Callable[[], None]]:
    """Shows a progress bar while the block runs, if this is a terminal.

    Args:
      total: how many there are.
      what: they are.

    Yields:
      What moves the bar by one.
    """
    columns = (
      BarColumn(bar_width=20),
      MofNCompleteColumn(),
      TextColumn("{task.description}"),
      TimeRemainingColumn(),
      TextColumn("left"),
    )
    disabled = not self._rich.is_terminal
    bar = Progress(*columns, console=self._rich, transient=True, disable=disabled)
    with bar:
      task = bar.add_task(what, total=total)
      yield lambda: bar.advance(task)

  @contextlib.contextmanager
  def progress(self, done: int, total: int) -> Iterator[None]:
    """Shows a progress bar in steps while the block runs, if this is a terminal."""
    if not self._rich.is_terminal:
      yield
      return
    columns = (
      # So narrow that a line fits into 80 characters.
      BarColumn(bar_width=20),
      MofNCompleteColumn(),
      TextColumn("steps"),
      TextColumn("{task.fields[loss]}"),
      TextColumn("{task.fields[rate]}"),
      TimeRemainingColumn(),
      TextColumn("left"),
    )
    with Progress(*columns, console=self._rich, transient=True) as self._progress:
      self._progress.add_task("train", total=total, completed=done, loss="", rate="")
      yield
    self._progress = None

  def advance(self, step: int, images_per_second: float, loss: float | None) -> None:
    """Moves the progress bar.

    Args:
      step: the present one.
      images_per_second: training speed.
      loss: mean over the members as of the last line; None if there is none.
    """
    if not self._progress:
      return
    self._progress.update(
      self._progress.task_ids[0],
      completed=step,
      loss=_loss(loss),
      rate=_rate(images_per_second),
    )

  def evaluation(
    self,
    step: int,
    total: int,
    epoch: float,
    images_per_second: float,
    loss: float | None,
    rows: Mapping[str, Mapping[str, float]],
    task: Task = CLASSIFICATION,
  ) -> None:
    """Prints one evaluation: the selecting measure of every member and prediction.

    Args:
      step: the present one.
      total: steps of the run.
      epoch: the present one, with its fraction.
      images_per_second: training speed.
      loss: of training, mean over the members as of the last line.
      rows: member or prediction -> measures.
      task: what was measured.
    """
    selecting = task.selecting
    shown = []
    for name, row in rows.items():
      shown.append(f"{name} {number(row[selecting.name], selecting.percent)}")
    heading = heading_of(selecting.heading, selecting.percent)
    self.say(
      f"step {step}/{total} epoch {epoch:.2f}  test {heading}  {'  '.join(shown)}"
      f"  ({_loss(loss)}, {_rate(images_per_second)})"
    )

  def closing_table(
    self,
    summary: Mapping[str, Any],
    columns: Sequence[str],
    workdir: str,
    seconds: float,
    task: Task = CLASSIFICATION,
  ) -> None:
    """Prints what a run came to, and where it was written.

    Args:
      summary: what `summary.json` holds.
      columns: the method's own metrics, each a fraction for every member, that get a
        column.
      workdir: of the run.
      seconds: that the run took.
      task: what was measured.
    """
    run = f"{summary['method']}, {summary['steps']} steps"
    title = f"{run}: {task.selecting.heading} on the test split"
    if summary["select_on"] == "holdout":
      title += ", best as chosen on the held-out split"
    table = Table("member", title=title, box=box.SIMPLE_HEAD)
    headings = ["parameters"]
    for measure in task.measures:
      if not measure.heading:
        continue
      # The title names the one that has two columns.
      if measure is task.selecting:
        headings += [heading_of(which, measure.percent) for which in ("last", "best")]
        headings.append("at step")
      else:
        headings.append(heading_of(measure.heading, measure.percent))
    headings += [heading_of(column, percent=True) for column in columns]
    for heading in headings:
      table.add_column(heading, justify="right")

    for name, row in summary["members"].items():
      mark = " *" if "quarantined" in row else ""
      label = with_model(name, row["model"]) + mark
      table.add_row(label, *_cells(row, columns, task))
    for name in summary["predictions"]:
      table.add_row(name, *_cells(summary[name], columns, task))
    self._rich.print(table)
    for name, row in summary["members"].items():
      if "quarantined" in row:
        self.say(f"* {name} diverged and was quarantined at step {row['quarantined']}")
    self.say(
      f"took {seconds:.0f} s; results, checkpoints and the best weights of every "
      f"member are in {workdir}"
    )


def _loss(loss: float | None) -> str:
  return f"loss {number(loss, percent=False)}"


def _rate(images_per_second: float) -> str:
  return f"{images_per_second:,.0f} images/s"


def heading_of(name: str, percent: bool) -> str:
  """Returns the heading of a column, with its unit."""
  return f"{name} %" if percent else name


def _cells(row: Mapping[str, Any], columns: Sequence[str], task: Task) -> list[str]:
  """Returns the cells of one member, or of a prediction, which has fewer of them."""
  cells = [_parameters(row["parameters"]) if "parameters" in row else "-"]
  last, best = row["last"], row["best"]
  for measure in task.measures:
    if not measure.heading:
      continue
    cells.append(number(last[measure.name], measure.percent))
    if measure is task.selecting:
      cells += [number(best[measure.name], measure.percent), str(best["step"])]
  cells += [per_cent(row.get(column)) for column in columns]
  return cells
