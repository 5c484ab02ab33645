"""Measures a run, or one member of it, in full.

python -m jaxdistill evaluate runs/digits --noise --ensemble=convnet.0,resnet8.0
"""

import argparse
from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from jaxdistill.errors import ConfigError, require, run_command
from jaxdistill.run.assignments import assignments
from jaxdistill.run.console import Console, heading_of, number, per_cent
from jaxdistill.run.evaluation import (
  SPLITS,
  WEIGHTS,
  evaluate_member,
  evaluate_run,
  is_run,
)
from jaxdistill.run.manifest import write_json
from jaxdistill.run.study import read_json_object
from jaxdistill.run.workdir import read_record

_USAGE = "python -m jaxdistill evaluate RUN|MEMBER [--data.KEY=VALUE ...]"

# More would not fit on a terminal; the file has them all.
_MOST_CLASSES = 3
_MOST_CONFUSED = 3
_SHOWN_DEVIATIONS = (0.0, 0.05, 0.1, 0.15)


class _Column(NamedTuple):
  """A column of the table.

  Attributes:
    measure: its name.
    heading: above it.
    percent: whether it is a fraction that people read in per cent.
  """

  measure: str
  heading: str
  percent: bool = True


_CLASSIFICATION = (
  _Column("top1", "top-1"),
  _Column("top5", "top-5"),
  _Column("nll", "NLL", percent=False),
  _Column("brier", "Brier", percent=False),
  _Column("ece", "ECE"),
  _Column("aurc", "AURC", percent=False),
  _Column("eaurc", "E-AURC", percent=False),
)

_RETRIEVAL = (
  _Column("rank1", "Rank-1"),
  _Column("rank5", "Rank-5"),
  _Column("rank10", "Rank-10"),
  _Column("map", "mAP"),
)


# Where the file goes.


def _place_of(flags: argparse.Namespace) -> Path | None:
  """Returns where the JSON is written, None for nowhere.

  Raises:
    ConfigError: if something else is there, or it cannot be written.
  """
  source = Path(flags.source)
  out = None
  if is_run(source):
    out = source / "evaluation.json"
  if flags.out:
    out = Path(flags.out)
  if out is None:
    return None
  folder = out.absolute().parent
  # Before hours of work, not behind them.
  require(
    os.path.isdir(folder), f"--out={out}: there is no folder {folder}: make it first"
  )
  require(
    os.access(folder, os.W_OK),
    f"--out={out}: {folder} cannot be written: name another place by --out",
  )
  require(not os.path.isdir(out), f"--out={out} is a folder: name a file in it")
  if not os.path.lexists(out) or flags.overwrite or _is_of_this_run(out, source):
    return out
  raise ConfigError(f"{out} exists: name another file by --out, or give --overwrite")


def _is_of_this_run(out: Path, run: Path) -> bool:
  """Tells whether a file is an earlier evaluation of a run, in its own place."""
  is_own_place = is_run(run) and os.path.abspath(out) == os.path.abspath(
    run / "evaluation.json"
  )
  if not is_own_place or not (run / "config.json").is_file():
    return False
  found = read_json_object(out)
  if found is None or "config_digest" not in found:
    return False
  return found["config_digest"] in read_record(run / "config.json")["digests"]


# What is shown.


def _show(result: Mapping[str, Any], source: str, console: Console) -> None:
  """Prints tables of an evaluation."""
  rows = {**result["members"], **result.get("predictions", {})}
  columns = _CLASSIFICATION
  if "predictions" not in result:
    columns = _RETRIEVAL
  title = (
    f"{source}: {result['weights']} weights, step {result['step']}, on "
    f"{result['count']:,} examples of {result['data']} {result['split']}"
  )
  table = Table("member", title=title, box=box.SIMPLE_HEAD)
  for column in columns:
    table.add_column(heading_of(column.heading, column.percent), justify="right")
  for name, row in rows.items():
    cells = [number(row[column.measure], column.percent) for column in columns]
    table.add_row(name, *cells)
  console.show(table)
  if "predictions" not in result:
    return
  _show_mistakes(result, rows, console)
  if result["noise"]:
    _show_noise(result["noise"], console)


def _show_mistakes(
  result: Mapping[str, Any], rows: Mapping[str, Any], console: Console
) -> None:
  """Prints the classes that are told worst, and what they are taken for."""
  names = result["class_names"]

  def name_of(label: int) -> str:
    return names[label] if names else str(label)

  table = Table(
    "member",
    "worst classes (accuracy %)",
    "most frequent mistakes",
    title="Mistakes",
    box=box.SIMPLE_HEAD,
  )
  for name in rows:
    worst = []
    for label, accuracy in _worst(result["per_class"][name]):
      worst.append(f"{name_of(label)} {per_cent(accuracy)}")
    mistakes = []
    for pair in result["confusions"][name][:_MOST_CONFUSED]:
      wrong = f"{name_of(pair['label'])} as {name_of(pair['predicted'])}"
      mistakes.append(f"{wrong} {pair['count']}x")
    table.add_row(name, ", ".join(worst) or "-", ", ".join(mistakes) or "-")
  console.show(table)


def _worst(per_class: Sequence[float | None]) -> list[tuple[int, float]]:
  """Returns (class, accuracy) of the classes that are told worst, the worst first."""
  known = []
  for label, accuracy in enumerate(per_class):
    if accuracy is not None:
      known.append((label, accuracy))
  known.sort(key=lambda entry: entry[1])
  return known[:_MOST_CLASSES]


def _show_noise(noise: Mapping[str, Any], console: Console) -> None:
  """Prints accuracy and loss at some deviations of the noise."""
  positions = [noise["std"].index(deviation) for deviation in _SHOWN_DEVIATIONS]
  # Side by side they would not fit a screen of 80 columns.
  for key, heading, percent in (("top1", "Top-1", True), ("nll", "NLL", False)):
    title = (
      f"{heading_of(heading, percent=percent)} under Gaussian noise of a standard "
      f"deviation, means of {noise['draws']} draws"
    )
    table = Table("member", title=title, box=box.SIMPLE_HEAD)
    for deviation in _SHOWN_DEVIATIONS:
      table.add_column(f"{deviation:g}", justify="right")
    for name, values in noise[key].items():
      cells = [number(values[k], percent=percent) for k in positions]
      table.add_row(name, *cells)
    console.show(table)


# The command.


def _run(flags: argparse.Namespace, rest: Sequence[str]) -> None:
  """Measures what the command line names."""
  changes = assignments(rest, _USAGE, prefix="--data.")
  source = Path(flags.source)
  out = _place_of(flags)
  common = {
    "noise": flags.noise,
    "data_changes": changes,
    "split": flags.split,
    "trust_code": flags.trust_code,
  }
  if is_run(source):
    ensembles = [tuple(text.split(",")) for text in flags.ensemble]
    result = evaluate_run(
      source, weights=flags.weights or WEIGHTS[0], ensembles=ensembles, **common
    )
  else:
    require(
      not flags.ensemble,
      f"--ensemble is of several members, and {source} is one: name its run",
    )
    require(
      not flags.weights,
      f"--weights is of a run, and {source} is a member: name its folder best or last",
    )
    result = evaluate_member(source, **common)

  console = Console()
  if out:
    write_json(out, result)
  _show(result, str(source), console)
  if out:
    console.say(f"all numbers are in {out}")
  else:
    console.say("nothing is written: --out=FILE keeps all numbers as JSON")


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill evaluate",
    usage=f"{_USAGE} [options]",
    description="Measure a trained run, or one member, on its own data or on others: "
    "accuracy, NLL, Brier score, calibration, selective risk, classes, confusions and "
    "agreement; of a searched set, Rank-k and mAP.",
    epilog="example: python -m jaxdistill evaluate runs/digits --noise "
    "--ensemble=convnet.0,resnet8.0. --data.KEY=VALUE changes a key of the run's data, "
    "as --data.dir=DIR; an exported file needs --data.name=NAME.",
    # What begins with --data. is the data's.
    allow_abbrev=False,
  )
  parser.add_argument(
    "source",
    metavar="RUN|MEMBER",
    help="workdir of a run, members/<member>/best or last in it, or an exported "
    "safetensors file",
  )
  parser.add_argument(
    "--weights",
    choices=WEIGHTS,
    help="of a run: its newest state, or the best weights of each member; default: "
    f"{WEIGHTS[0]}",
  )
  parser.add_argument(
    "--split", choices=SPLITS, default=SPLITS[0], help="default: %(default)s"
  )
  parser.add_argument(
    "--ensemble",
    action="append",
    default=[],
    metavar="A,B,...",
    help="measure the mean of these members' probabilities too; may be given again",
  )
  parser.add_argument(
    "--noise",
    action="store_true",
    help="measure under Gaussian noise too: 15 standard deviations in ten draws, so "
    "150 times as long",
  )
  parser.add_argument(
    "--out",
    metavar="FILE",
    help="where the JSON is written; default: RUN/evaluation.json, nowhere for MEMBER",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="replace what --out names"
  )
  parser.add_argument(
    "--trust-code",
    action="store_true",
    help="import modules of your own that the run names",
  )
  flags, rest = parser.parse_known_args(argv)
  return run_command(lambda: _run(flags, rest))
