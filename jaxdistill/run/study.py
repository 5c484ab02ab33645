"""A grid of runs under one recipe: rows, each a method, times seeds.

A study is a file with a `get_study()`, or a `get_study(argument)`, that returns a
`Study`. Every cell of the grid is a run of its own, in a workdir of its own. A row that
is compared with training alone is compared with the row that differs from it in
nothing but the method: perturbing images helps by itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
import json
from pathlib import Path
import re
import statistics
from typing import Any, NamedTuple

from jaxdistill.core import registry
from jaxdistill.engine.measures import MEASURES
from jaxdistill.engine.retrieval import RATES
from jaxdistill.errors import ConfigError, require
from jaxdistill.run.config import (
  ConfigDict,
  apply_overrides,
  call_in_file,
  check_config,
  config_differences,
  config_digest,
  network_keys,
)
from jaxdistill.run.config_files import STUDIES, find_config
from jaxdistill.run.logs import read_metrics
from jaxdistill.run.manifest import write_json
from jaxdistill.run.workdir import read_record, versions

_NAME = r"[A-Za-z0-9][\w.+-]*"

# What a method may change besides its own keys, and still be compared with a row of
# another one: it may hold examples out, and show every member views of its own.
_OF_THE_METHOD = ("method", "holdout", "views", "select_on", "update_order")


class Row(NamedTuple):
  """A method under the study's recipe.

  Attributes:
    name: of the row, and of the folder of its cells.
    config: of its runs, but for the seed.
    published: what the paper reports: member, group or prediction -> the fraction that
      best weights are chosen by, top-1 or, of a retrieval, Rank-1. "METRIC/NAME", as
      logs have it, is the value of another metric.
    control: name of the row that it is compared with; "" finds the one of independent
      members that have the same perturbations, networks and data.
  """

  name: str
  config: ConfigDict
  published: Mapping[str, float] = {}
  control: str = ""


class Study(NamedTuple):
  """A grid of runs.

  Attributes:
    title: a line for the report.
    rows: the methods.
    seeds: of the runs of every row. The same seed has the same data, split, order and
      initial weights in all of them.
    about: what was asked, and under which conditions: text for the report.
    references: names of rows that the report compares all others with, besides their
      controls: those of an established method. Of rows of one method, a row is compared
      with the one that has its control.
  """

  title: str
  rows: tuple[Row, ...]
  seeds: tuple[int, ...]
  about: str = ""
  references: tuple[str, ...] = ()


def rows_of(method: str, rows: Iterable[Row]) -> tuple[str, ...]:
  """Returns the names of the rows of a method, such as a study's references.

  Args:
    method: registry name.
    rows: of the study.
  """
  return tuple(row.name for row in rows if row.config.method.name == method)


class Cell(NamedTuple):
  """A run of a study.

  Attributes:
    row: name of its row.
    seed: of the run.
    config: with that seed.
    path: its workdir.
  """

  row: str
  seed: int
  config: ConfigDict
  path: Path

  @property
  def name(self) -> str:
    """Name of the cell, which is that of its folder as well."""
    return f"{self.row}/seed{self.seed}"

  @property
  def summary(self) -> dict[str, Any] | None:
    """What the finished run says of itself; None if it has not come to its end."""
    found = read_json_object(self.path / "summary.json")
    if found is None or found.get("config_digest") != config_digest(self.config):
      return None
    return found


def from_per_cent(values: Mapping[str, float]) -> dict[str, float]:
  """Returns the per cent of a paper's table as the fractions that `Row` wants.

  Args:
    values: name -> per cent.
  """
  return {name: round(value / 100, 6) for name, value in values.items()}


def read_json_object(path: Path) -> dict[str, Any] | None:
  """Returns the table in a JSON file; None if there is none that can be read."""
  try:
    value = json.loads(path.read_text())
  except (OSError, ValueError):
    return None
  return value if isinstance(value, dict) else None


# Reading.


def load_study(path: str, assignments: Sequence[str] = ()) -> Study:
  """Reads a study, applies overrides to the config of every row and checks it.

  Args:
    path: of the file, or the name of one that comes with the package; "file:argument"
      passes `get_study` an argument.
    assignments: `key.of.a.section=value`.

  Raises:
    ConfigError: for a file, row, key or value that is not there or not allowed.
  """
  where, study = call_in_file(find_config(path, STUDIES), "get_study")
  require(
    isinstance(study, Study),
    f"{where}: get_study returned {type(study).__name__}, not a Study",
  )
  for row in study.rows:
    apply_overrides(row.config, assignments)
    try:
      check_config(row.config)
    except ConfigError as error:
      raise ConfigError(f"{where}: row {row.name}: {error}") from error
  _check(where, study)
  return study


def _check(where: str, study: Study) -> None:
  """Raises ConfigError for names or seeds that clash, or a row without its control."""
  require(bool(study.rows), f"{where}: the study has no rows")
  require(bool(study.seeds), f"{where}: the study has no seeds")
  require(
    len(set(study.seeds)) == len(study.seeds), f"{where}: the study has a seed twice"
  )
  seen = set()
  for row in study.rows:
    require(
      re.fullmatch(_NAME, row.name) is not None,
      f"{where}: {row.name!r} cannot name a row: take letters, digits and _ . + -",
    )
    require(row.name not in seen, f"{where}: there are two rows {row.name!r}")
    seen.add(row.name)
    _check_published(where, row)
  known = ", ".join(row.name for row in study.rows)
  for name in study.references:
    require(
      name in seen,
      f"{where}: the study's reference {name!r} is no row: it has {known}",
    )
  for row in study.rows:
    control_of(row, study)


def _check_published(where: str, row: Row) -> None:
  """Raises ConfigError for a metric that there is not, and for per cent."""
  known = {measure.name: measure for measure in (*MEASURES, *RATES)}
  for key, value in row.published.items():
    metric, named, _ = key.rpartition("/")
    require(
      not named or metric in known,
      f"{where}: row {row.name}: {key!r} is published of no metric that there is: "
      f"take one of {', '.join(known)}",
    )
    is_fraction = not named or known[metric].percent
    require(
      not is_fraction or 0 <= value <= 1,
      f"{where}: row {row.name}: {value} is published of {key}, which is a fraction: "
      "divide by 100, or see from_per_cent",
    )


def control_of(row: Row, study: Study) -> Row:
  """Returns the row of independent members that a row is compared with.

  Args:
    row: of the study; one of independent members is its own control.
    study: all rows.

  Raises:
    ConfigError: if there is none.
  """
  if _is_control(row):
    return row
  for other in study.rows:
    if row.control and other.name == row.control:
      return other
  require(
    not row.control,
    f"study {study.title!r}: row {row.name} names the control {row.control!r}, which "
    "is no row",
  )
  for other in study.rows:
    # Comparing whole recipes takes long, and most have other networks.
    alike = set(other.config.cohort) == set(row.config.cohort)
    if alike and _is_control(other) and not _recipe_differences(row, other):
      return other
  raise ConfigError(
    f"study {study.title!r}: row {row.name} has no control: add a row of independent "
    "members with the same networks, data and perturbations, or name one"
  )


def _is_control(row: Row) -> bool:
  """Tells whether the members of a row learn from the labels alone."""
  keywords = row.config.method.to_dict()
  name = keywords.pop("name")
  return registry.resolve("methods", name, **keywords).is_control


def _recipe_differences(row: Row, other: Row) -> list[str]:
  """Returns the keys in which two rows differ, but for those of the method."""
  found = []
  for difference in config_differences(row.config, other.config):
    key = difference.partition(":")[0]
    if key.partition(".")[0] not in _OF_THE_METHOD:
      found.append(difference)
  return found


# Cells.


def cells_of(study: Study, out: Path) -> list[Cell]:
  """Returns all runs of a study, in their order: one seed of everything first.

  Args:
    study: the grid.
    out: folder of the study.
  """
  cells = []
  for seed in study.seeds:
    for row in study.rows:
      path = out / "cells" / row.name / f"seed{seed}"
      cells.append(Cell(row.name, seed, with_seed(row.config, seed), path))
  return cells


def with_seed(config: ConfigDict, seed: int) -> ConfigDict:
  """Returns a copy of a config whose run, and split of the data, have a seed.

  Args:
    config: of a row.
    seed: also of the data set, if it has one.
  """
  seeded = config.copy_and_resolve_references()
  seeded.seed = seed
  if "seed" in seeded.data:
    seeded.data.seed = seed
  return seeded


def require_same_configs(cells: Sequence[Cell]) -> None:
  """Refuses cells that have been begun with another config.

  Raises:
    ConfigError: naming them, and what differs in the first.
  """
  changed = []
  differences = []
  for cell in cells:
    record = cell.path / "config.json"
    if not record.exists():
      continue
    found = config_differences(read_record(record)["config"], cell.config)
    if found:
      changed.append(cell.name)
      differences = differences or found
  if changed:
    names = ", ".join(changed[:3])
    if len(changed) > 3:
      names += f" and {len(changed) - 3} more"
    raise ConfigError(
      f"the study has changed under cells that were begun ({names}): "
      f"{'; '.join(differences)}: choose another --out, or delete those cells"
    )


# Results.


class Results:
  """The file `results.json` of a study: what its finished cells have measured."""

  def __init__(self, study: Study, cells: Sequence[Cell], out: Path):
    """Reads nothing yet.

    Args:
      study: the grid.
      cells: its runs.
      out: folder of the study.
    """
    self._study = study
    self._cells = cells
    self._path = out / "results.json"
    # What a finished run says does not change: it is read once.
    self._records: dict[str, dict[str, Any]] = {}

  def write(self) -> Path:
    """Writes the file, with the cells that have been finished by now; returns it."""
    for cell in self._cells:
      if cell.name in self._records:
        continue
      summary = cell.summary
      if summary:
        self._records[cell.name] = _record(cell, summary)
    found = []
    for cell in self._cells:
      if cell.name in self._records:
        found.append(self._records[cell.name])
    write_json(
      self._path,
      {
        "title": self._study.title,
        "about": self._study.about,
        "rows": [_describe(row, self._study) for row in self._study.rows],
        "cells": found,
        "versions": versions(),
      },
    )
    return self._path


def _describe(row: Row, study: Study) -> dict[str, Any]:
  """Returns what a report has to know of a row."""
  cohort = {}
  for name, group in row.config.cohort.items():
    cohort[name] = {**network_keys(group), "members": group.members}
  return {
    "name": row.name,
    "method": row.config.method.name,
    "control": control_of(row, study).name,
    "reference": row.name in study.references,
    "perturbed": bool(row.config.perturb.ops),
    "cohort": cohort,
    "data": row.config.data.name,
    "published": dict(row.published),
  }


def _record(cell: Cell, summary: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what is kept of a finished run."""
  members = {}
  for name, row in summary["members"].items():
    members[name] = {"last": row["last"], "best": row["best"], "model": row["model"]}
  predictions = {}
  for name in summary["predictions"]:
    predictions[name] = summary[name]
  return {
    "name": cell.name,
    "row": cell.row,
    "method": summary["method"],
    "seed": cell.seed,
    "members": members,
    "ensemble": predictions.pop("ensemble", None),
    "predictions": predictions,
    "steps": summary["steps"],
    "seconds": summary["seconds"],
    "seconds_per_step": seconds_per_step(
      read_metrics(cell.path / "metrics.jsonl"), cell.config.batch_size
    ),
    "digest": summary["config_digest"],
  }


def seconds_per_step(
  lines: Sequence[Mapping[str, Any]], batch_size: int
) -> float | None:
  """Returns the time of a training step, the median of a run's training lines.

  Args:
    lines: of its metrics.
    batch_size: images of a step.

  Returns:
    Seconds by the clock of the machine that trained, without compilation and
    evaluation; None if no line tells a speed.
  """
  found = []
  for line in lines:
    speed = line.get("images_per_second")
    if isinstance(speed, (int, float)) and speed > 0:
      found.append(batch_size / speed)
  if not found:
    return None
  return statistics.median(found)


def select(cells: Sequence[Cell], patterns: Sequence[str]) -> Iterator[Cell]:
  """Yields the cells whose row or name is among some patterns; all if there are none.

  Args:
    cells: of a study.
    patterns: as the shell has them: "dml*", "*/seed3".

  Raises:
    ConfigError: for a pattern that fits no cell.
  """
  for pattern in patterns:
    known = {cell.row for cell in cells} | {cell.name for cell in cells}
    fits = any(fnmatchcase(name, pattern) for name in known)
    rows = ", ".join(dict.fromkeys(cell.row for cell in cells))
    require(fits, f"--only={pattern} fits no cell: the rows are {rows}")
  for cell in cells:
    names = (cell.row, cell.name)
    if not patterns or any(
      fnmatchcase(name, pattern) for name in names for pattern in patterns
    ):
      yield cell
