"""What a run says: a progress bar and tables on a terminal, plain lines elsewhere, nothing when quiet."""

from collections.abc import Iterator
import contextlib
import time

from rich import box
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def per_cent(fraction: float | None) -> str:
  """Formats a fraction as per cent with two digits."""
  return "-" if fraction is None or fraction != fraction else f"{100 * fraction:.2f}"


def _count(number: int) -> str:
  return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}"


class Console:
  """Speaks to the person who started the run."""

  def __init__(self, quiet: bool = False):
    self._rich = RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
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

  @contextlib.contextmanager
  def progress(self, done: int, total: int) -> Iterator[None]:
    """Shows a progress bar in steps while the block runs, if this is a terminal."""
    if not self._rich.is_terminal:
      yield
      return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TextColumn("{task.fields[rate]}"),
               TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=self._rich, transient=True) as self._progress:
      self._progress.add_task("train", total=total, completed=done, rate="")
      yield
    self._progress = None

  def advance(self, step: int, images_per_second: float) -> None:
    """Moves the progress bar."""
    if self._progress:
      self._progress.update(self._progress.task_ids[0], completed=step, rate=f"{images_per_second:,.0f} images/s")

  def evaluation(self, step: int, total: int, epoch: float, rate: float, accuracies: dict[str, float]) -> None:
    """Prints the line of one evaluation: top-1 of every member and prediction."""
    shown = "  ".join(f"{name} {per_cent(value)}" for name, value in accuracies.items())
    speed = f"  ({rate:,.0f} images/s)" if rate else ""
    self.say(f"step {step}/{total} epoch {epoch:.4g}  test top-1 %  {shown}{speed}")

  def closing_table(self, summary: dict, workdir: str, seconds: float) -> None:
    """Prints members with parameters, accuracies and wins, and where things were written."""
    columns = ("parameters", "last %", "best %", "at step", "NLL", "wins %")
    table = Table("member", *columns, title=f"{summary['method']}, {summary['steps']} steps: top-1 on the test split",
                  box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
      column.justify = "right"
    rows = [*summary["members"].items(), *((name, summary[name]) for name in summary["predictions"])]
    for name, row in rows:
      last, best = row["last"], row["best"]
      parameters = _count(row["parameters"]) if "parameters" in row else "-"
      table.add_row(name, parameters, per_cent(last["top1"]), per_cent(best["top1"]), str(best["step"]),
                    f"{last['nll']:.4f}", per_cent(row.get("wins")))
    self._rich.print(table)
    self.say(f"took {seconds:.0f} s; results, checkpoints and the best weights of every member are in {workdir}")
