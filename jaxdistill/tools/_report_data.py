"""What a report is made from: the results of a study, or a single run as one of them.

`results.json` is enough for all that it holds. What happened during training is read
from the runs' folders, where they are at hand.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import math
from pathlib import Path
import statistics
from typing import Any, NamedTuple

from jaxdistill.core.foreign import read_json
from jaxdistill.engine.measures import CLASSIFICATION, Shown
from jaxdistill.engine.retrieval import RATES
from jaxdistill.errors import (
  ConfigError,
  DataError,
  JaxdistillError,
  describe,
  reason,
  require,
)
from jaxdistill.run.logs import read_metrics
from jaxdistill.run.study import seconds_per_step
from jaxdistill.run.workdir import read_record

RESULTS = "results.json"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"

# A study of a thousand cells writes some ten megabytes.
_MAX_BYTES = 2**28

_WRITE_ANEW = "write it anew with the command that wrote it"
_NONE_FINISHED = "no cell of this study is finished: run it, or wait for one"


class Row(NamedTuple):
  """A row of a study.

  Attributes:
    name: of the row.
    method: its name.
    control: name of the row that differs in nothing but the method; its own for a row
      of members that learn alone.
    reference: whether others are compared with it, besides their controls.
    perturbed: whether members see perturbed images.
    cohort: networks and data, for people; "" where they are not known.
    home: text that is equal for rows that may be compared: whose controls have the same
      networks and data.
    published: member, group or prediction -> the paper's value, a fraction.
  """

  name: str
  method: str
  control: str
  reference: bool = False
  perturbed: bool = False
  cohort: str = ""
  home: str = ""
  published: Mapping[str, float] = {}

  @property
  def is_control(self) -> bool:
    """Whether its members learn from the labels alone."""
    return self.control == self.name


class Cell(NamedTuple):
  """A finished run.

  Attributes:
    row: name of its row.
    seed: of the run.
    members: name -> {"last": measures, "best": measures}.
    predictions: the same of what the method predicts besides.
    steps: that it was trained for; None if that is not known.
    seconds_per_step: of training; None if that is not known.
    path: its workdir, which need not be there any more.
  """

  row: str
  seed: int
  members: Mapping[str, Mapping[str, Any]]
  predictions: Mapping[str, Mapping[str, Any]]
  steps: int | None
  seconds_per_step: float | None
  path: Path

  def value(self, name: str, which: str, measure: str) -> float | None:
    """Returns a measure of a member or prediction.

    Args:
      name: of the member or prediction.
      which: "last" or "best".
      measure: such as "top1".

    Returns:
      None if it was not measured, or was not finite.
    """
    record = self.members.get(name) or self.predictions.get(name)
    if record is None:
      return None
    return record[which].get(measure)

  def mean(self, which: str, measure: str) -> float | None:
    """Returns the mean of a measure over the members; None if one of them lacks it."""
    values = []
    for name in self.members:
      value = self.value(name, which, measure)
      if value is None:
        return None
      values.append(value)
    return statistics.fmean(values)


class Results(NamedTuple):
  """Everything that was measured.

  Attributes:
    title: of the study, or of the run.
    about: what was asked; "" for a run.
    is_study: whether rows are compared.
    rows: those that have a finished run.
    cells: the finished runs.
    measure: by which members are judged.
    versions: package -> version.
  """

  title: str
  about: str
  is_study: bool
  rows: tuple[Row, ...]
  cells: tuple[Cell, ...]
  measure: Shown
  versions: Mapping[str, str]

  def row(self, name: str) -> Row | None:
    """Returns the row of a name; None if there is none with a finished run."""
    for row in self.rows:
      if row.name == name:
        return row
    return None

  def of(self, row: Row) -> list[Cell]:
    """Returns the runs of a row, sorted by their seeds."""
    found = []
    for cell in self.cells:
      if cell.row == row.name:
        found.append(cell)
    return sorted(found, key=_seed_of)

  @property
  def seeds(self) -> list[int]:
    """All seeds, sorted."""
    return sorted({cell.seed for cell in self.cells})


def _seed_of(cell: Cell) -> int:
  return cell.seed


# Reading.


def read_results(directory: Path) -> Results:
  """Reads a study's folder, or a run's.

  Raises:
    ConfigError: if it is neither.
    DataError: if nothing in it is finished, or a file is damaged.
  """
  if (directory / RESULTS).exists():
    return _read_study(directory)
  if (directory / SUMMARY).exists():
    return _read_run(directory)
  require(directory.is_dir(), f"{directory} is no folder: name that of a study or run")
  if (directory / METRICS).exists():
    raise DataError(
      f"{directory}: this run has no {SUMMARY}: it is not finished, run it to its end"
    )
  if (directory / "cells").is_dir():
    raise DataError(f"{directory}: {_NONE_FINISHED}")
  raise ConfigError(
    f"{directory} is no folder of a study or run: it has no {RESULTS} and no {SUMMARY}"
  )


def _read_study(directory: Path) -> Results:
  path = directory / RESULTS
  found = _read_table(path)
  with intact(path):
    rows = _at_home([_row(record) for record in found["rows"]])
    cells = [_cell(record, directory) for record in found["cells"]]
    results = Results(
      title=str(found.get("title", "Study")),
      about=str(found.get("about", "")),
      is_study=True,
      rows=tuple(rows),
      cells=tuple(cells),
      measure=_measure_of(cells),
      versions=_texts(found.get("versions", {})),
    )
    _require_rows(results)
  if not cells:
    raise DataError(f"{path}: {_NONE_FINISHED}")
  begun = {cell.row for cell in cells}
  finished = []
  for row in rows:
    if row.name in begun:
      finished.append(row)
  return results._replace(rows=tuple(finished))


def _read_run(directory: Path) -> Results:
  path = directory / SUMMARY
  found = _read_table(path)
  batch_size = None
  versions = {}
  if (directory / "config.json").exists():
    record = read_record(directory / "config.json")
    batch_size = record["config"].get("batch_size")
    versions = record.get("versions", {})
  with intact(path):
    predictions = {}
    for name in found["predictions"]:
      predictions[name] = found[name]
    row = Row(name=str(found["method"]), method=str(found["method"]), control="")
    seconds = None
    if batch_size:
      seconds = seconds_per_step(read_metrics(directory / METRICS), batch_size)
    cell = Cell(
      row=row.name,
      seed=int(found["seed"]),
      members=_records(found["members"]),
      predictions=_records(predictions),
      steps=int(found["steps"]),
      seconds_per_step=seconds,
      path=directory,
    )
    return Results(
      title=f"{found['method']} on {found['data']}, seed {found['seed']}",
      about="",
      is_study=False,
      rows=(row,),
      cells=(cell,),
      measure=_measure_of([cell]),
      versions=_texts(versions),
    )


@contextlib.contextmanager
def intact(path: Path) -> Iterator[None]:
  """Tells in one line of a table that is not of the form that it should be.

  Args:
    path: of the file that it was read from.

  Raises:
    DataError: in place of the errors that reading it leads to.
  """
  try:
    yield
  except JaxdistillError:
    raise
  except (LookupError, TypeError, ValueError, AttributeError) as error:
    raise DataError(f"{path} is damaged ({describe(error)}): {_WRITE_ANEW}") from error


def _read_table(path: Path) -> dict[str, Any]:
  """Returns the table in a JSON file.

  Raises:
    DataError: if it cannot be read, or holds something else.
  """
  try:
    found = read_json(path, _MAX_BYTES)
  except (OSError, ValueError) as error:
    raise DataError(
      f"{path} is damaged or cannot be read ({reason(error)}): {_WRITE_ANEW}"
    ) from error
  if not isinstance(found, dict):
    raise DataError(f"{path} is damaged: it holds no table")
  return found


def _row(record: Mapping[str, Any]) -> Row:
  networks = record.get("cohort", {})
  data = record.get("data", "")
  published = {}
  for name, value in record.get("published", {}).items():
    published[str(name)] = float(value)
  return Row(
    name=_plain_name(record["name"]),
    method=str(record["method"]),
    control=str(record["control"]),
    reference=bool(record.get("reference", False)),
    perturbed=bool(record.get("perturbed", False)),
    cohort=_label(networks, data),
    home=json.dumps([networks, data], sort_keys=True),
    published=published,
  )


def _at_home(rows: Sequence[Row]) -> list[Row]:
  """Returns rows whose home is that of their controls.

  A method may need a member more than the control has.
  """
  homes = {row.name: row.home for row in rows}
  return [row._replace(home=homes[row.control]) for row in rows]


def _plain_name(name: Any) -> str:
  """Returns a row's name, which is that of a folder as well."""
  if not isinstance(name, str) or "/" in name or name.startswith("."):
    raise ValueError(f"{name!r} names no row")
  return name


def _label(networks: Mapping[str, Any], data: str) -> str:
  """Returns a cohort for people: "2 small.convnet + resnet_cifar.resnet8, digits"."""
  parts = []
  for network in networks.values():
    text = str(network["model"])
    if network["members"] > 1:
      text = f"{network['members']} {text}"
    parts.append(text)
  label = " + ".join(parts)
  if label and data:
    label += f", {data}"
  return label


def _cell(record: Mapping[str, Any], directory: Path) -> Cell:
  row, _, _ = record["name"].rpartition("/")
  row = _plain_name(row)
  seed = int(record["seed"])
  predictions = dict(record.get("predictions", {}))
  if record["ensemble"]:
    predictions["ensemble"] = record["ensemble"]
  seconds = record.get("seconds_per_step")
  if seconds is not None:
    seconds = float(seconds)
  steps = record.get("steps")
  if steps is not None:
    steps = int(steps)
  return Cell(
    row=row,
    seed=seed,
    members=_records(record["members"]),
    predictions=_records(predictions),
    steps=steps,
    seconds_per_step=seconds,
    path=directory / "cells" / row / f"seed{seed}",
  )


def _records(found: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
  """Returns name -> {"last", "best"} -> measure -> value, whatever else is there."""
  records = {}
  for name, record in found.items():
    records[str(name)] = {
      "last": _numbers(record["last"]),
      "best": _numbers(record["best"]),
    }
  return records


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
  """Returns the entries of a table that are finite numbers."""
  found = {}
  for name, value in record.items():
    if isinstance(value, (int, float)) and math.isfinite(value):
      found[name] = float(value)
  return found


def _texts(table: Mapping[str, Any]) -> dict[str, str]:
  return {str(key): str(value) for key, value in table.items()}


def _measure_of(cells: Sequence[Cell]) -> Shown:
  """Returns the measure by which the members of some runs are judged."""
  for cell in cells:
    for record in cell.members.values():
      if RATES[0].name in record["last"]:
        return RATES[0]
  return CLASSIFICATION.selecting


def _require_rows(results: Results) -> None:
  """Raises ValueError for runs of no row, and for two of one row and seed."""
  names = {row.name for row in results.rows}
  seen = set()
  for cell in results.cells:
    if cell.row not in names:
      raise ValueError(f"cell of a row {cell.row!r} that is not there")
    if (cell.row, cell.seed) in seen:
      raise ValueError(f"two cells of row {cell.row!r} and seed {cell.seed}")
    seen.add((cell.row, cell.seed))


# What happened during training.


class Training(NamedTuple):
  """The metrics of a run.

  Attributes:
    windows: its training lines.
    evaluations: its lines of the test split.
  """

  windows: list[dict[str, Any]]
  evaluations: list[dict[str, Any]]


def read_training(cell: Cell) -> Training | None:
  """Reads the metrics of a run; None if its folder is not at hand.

  Raises:
    DataError: for a damaged line.
  """
  lines = read_metrics(cell.path / METRICS)
  if not lines:
    return None
  training = Training(windows=[], evaluations=[])
  for line in lines:
    if line.get("split") == "train":
      training.windows.append(line)
    elif line.get("split") == "test":
      training.evaluations.append(line)
  return training


def read_evaluation(cell: Cell) -> dict[str, Any] | None:
  """Reads what an evaluation of a run wrote; None if there is nothing of classifiers.

  Raises:
    DataError: if the file is damaged.
  """
  path = cell.path / EVALUATION
  if not path.exists():
    return None
  found = _read_table(path)
  if "agreement" not in found:
    return None
  return found
