"""Writes a report of a study, or of a run: a page, and each part of it as files.

python -m jaxdistill report runs/study-digits --out=digits.html
"""

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdistill.errors import (
  ConfigError,
  JaxdistillError,
  readable,
  require,
  run_command,
)
from jaxdistill.run.console import counted
from jaxdistill.run.evaluation import evaluate_run
from jaxdistill.run.manifest import write_json

if TYPE_CHECKING:
  from jaxdistill.tools._report_data import Results
  from jaxdistill.tools._report_part import Part

_EXTRA = "pip install 'jaxdistill[report]'"
_ENDINGS = (".png", ".md", ".csv")


def write_report(
  directory: Path,
  out: Path | None = None,
  *,
  against: Sequence[str] = (),
  evaluating: bool | None = None,
  noise: bool = False,
  overwrite: bool = False,
) -> Path:
  """Writes a report: FILE.html, and a folder FILE with each part as PNG, Markdown, CSV.

  The same results give the same bytes.

  Args:
    directory: of a study, or of a run.
    out: the page; None is `report.html` in that folder.
    against: rows that all others are compared with, besides the study's references.
    evaluating: whether runs are evaluated that have not been: of a study the first one
      of every row; None evaluates a single run, and nothing of a study.
    noise: whether they are evaluated under noise too.
    overwrite: whether to replace what is not a report.

  Returns:
    The page.

  Raises:
    ConfigError: for a folder that is neither, or a file that may not be replaced.
    DataError: if nothing in it is finished, or a file is damaged.
  """
  _require_matplotlib()
  from jaxdistill.tools import _report_page
  from jaxdistill.tools._report_comparisons import with_references
  from jaxdistill.tools._report_data import read_results

  out = out or directory / "report.html"
  with readable("report"):
    results = with_references(read_results(directory), against)
    _require_replaceable(out, overwrite)
  if evaluating is None:
    evaluating = not results.is_study
  if evaluating:
    _evaluate(results, noise)
  with readable("report"):
    parts = _parts(results)
  text = _report_page.page(results, lead(results), parts)
  out.parent.mkdir(parents=True, exist_ok=True)
  temporary = out.with_name(out.name + ".tmp")
  temporary.write_text(text)
  os.replace(temporary, out)
  _write_files(parts, _folder(out))
  return out


def _require_matplotlib() -> None:
  try:
    import matplotlib
  except ImportError as error:
    raise ConfigError(f"report: matplotlib draws the figures: {_EXTRA}") from error
  del matplotlib


def _folder(out: Path) -> Path:
  """Returns the folder of the parts of a page."""
  return out.with_suffix("")


def _require_replaceable(out: Path, overwrite: bool) -> None:
  """Raises ConfigError for a page, or its folder, that no report has written."""
  from jaxdistill.tools._report_page import MARK

  require(out.suffix == ".html", f"--out must end in .html, got {out}")
  if overwrite:
    return
  is_ours = False
  if os.path.lexists(out):
    require(out.is_file(), f"{out} is no file: give another --out")
    with open(out, errors="replace") as file:
      is_ours = MARK in file.read(1000)
    require(
      is_ours,
      f"{out} exists and is no report: give another --out, or --overwrite",
    )
  folder = _folder(out)
  require(
    is_ours or not os.path.lexists(folder),
    f"{folder}, the folder for the parts of the report, exists already: give another "
    "--out, or --overwrite to write into it",
  )


def _evaluate(results: "Results", noise: bool) -> None:
  """Evaluates the first run of every row, unless there is an evaluation of one."""
  from jaxdistill.tools._report_data import EVALUATION

  for row in results.rows:
    paths = [cell.path for cell in results.of(row)]
    if any((path / EVALUATION).exists() for path in paths):
      continue
    path = paths[0]
    print(f"evaluating {path}")
    try:
      evaluation = evaluate_run(path, noise=noise, quiet=True)
    except JaxdistillError as error:
      # The report is worth having without: the data may be somewhere else.
      print(f"{path} is not evaluated: {error}")
      continue
    write_json(path / EVALUATION, evaluation)


def _parts(results: "Results") -> "list[Part]":
  """Returns all parts: the question first, then accuracies, figures and cost."""
  from jaxdistill.tools._report_comparisons import (
    accuracy_part,
    cost_part,
    verdict_parts,
  )
  from jaxdistill.tools._report_evaluation import evaluation_parts
  from jaxdistill.tools._report_training import training_parts

  parts = [*verdict_parts(results), accuracy_part(results)]
  parts += training_parts(results)
  parts += evaluation_parts(results)
  cost = cost_part(results)
  if cost:
    parts.append(cost)
  return parts


def lead(results: "Results") -> list[str]:
  """Returns the lines below the title."""
  from jaxdistill.tools._report_comparisons import conclusion

  lines = []
  steps = sorted({cell.steps for cell in results.cells if cell.steps is not None})
  lengths = " or ".join(f"{length:,}" for length in steps)
  if not results.is_study:
    members = ", ".join(results.cells[0].members)
    return [
      f"{lengths} steps, {counted(len(results.cells[0].members), 'member')}: {members}"
    ]
  found = conclusion(results)
  if found:
    lines.append(found)
  rows, seeds = len(results.rows), len(results.seeds)
  missing = rows * seeds - len(results.cells)
  size = (
    f"{counted(rows, 'row')} and {counted(seeds, 'seed')}: "
    f"{counted(len(results.cells), 'finished run')} of {lengths} steps"
  )
  if missing:
    size += f", {missing} missing"
  lines.append(f"{size}.")
  cohorts = dict.fromkeys(row.cohort for row in results.rows if row.cohort)
  for cohort in cohorts:
    lines.append(f"Networks and data: {cohort}.")
  return lines


def _write_files(parts: "Sequence[Part]", folder: Path) -> None:
  """Writes each part, and removes those of an earlier report that are no more."""
  from jaxdistill.tools._report_theme import LIGHT, to_png

  folder.mkdir(parents=True, exist_ok=True)
  written = set()
  for part in parts:
    (folder / f"{part.slug}.md").write_text(part.to_markdown())
    (folder / f"{part.slug}.csv").write_text(part.to_csv())
    written |= {f"{part.slug}.md", f"{part.slug}.csv"}
    if part.draw:
      (folder / f"{part.slug}.png").write_bytes(to_png(part.draw, LIGHT))
      written.add(f"{part.slug}.png")
  for slug in SLUGS:
    for ending in _ENDINGS:
      if slug + ending not in written:
        (folder / (slug + ending)).unlink(missing_ok=True)


SLUGS = (
  "verdict",
  "verdict_ensemble",
  "accuracy",
  "convergence",
  "cross_entropy",
  "teaching",
  "agreement",
  "reliability",
  "noise",
  "cost",
)
"""Names of all parts that there may be."""


def _report(flags: argparse.Namespace) -> None:
  """Does what the command line says."""
  out = None
  if flags.out:
    out = Path(flags.out)
  path = write_report(
    Path(flags.directory),
    out,
    against=flags.against,
    evaluating=flags.evaluate,
    noise=flags.noise,
    overwrite=flags.overwrite,
  )
  print(f"wrote {path}, and its parts as PNG, Markdown and CSV in {_folder(path)}")


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill report",
    description="Write a report of a study, or of a run: one HTML file that needs no "
    "network, and beside it each part as PNG, Markdown and CSV. Of a study, "
    "results.json is enough for verdicts, accuracies and cost; curves are drawn where "
    "the folders of the runs are at hand.",
    epilog="example: python -m jaxdistill report runs/study-digits --out=digits.html",
    allow_abbrev=False,
  )
  parser.add_argument("directory", metavar="DIR", help="folder of a study, or of a run")
  parser.add_argument(
    "--out", default="", metavar="FILE", help="page to write; default: DIR/report.html"
  )
  parser.add_argument(
    "--against",
    action="append",
    default=[],
    metavar="ROW",
    help="compare all rows with this one as well; may be given again",
  )
  parser.add_argument(
    "--evaluate",
    action=argparse.BooleanOptionalAction,
    help="evaluate runs that have not been, for agreement and reliability; default: a "
    "single run, but of a study the first run of every row only where this is given",
  )
  parser.add_argument(
    "--noise",
    action="store_true",
    help="evaluate them under noise too, which takes 150 times as long",
  )
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace files that are there; an earlier report is replaced anyway",
  )
  flags = parser.parse_args(argv)
  return run_command(lambda: _report(flags))
