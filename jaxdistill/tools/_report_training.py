"""The parts of a report about training: convergence, cross-entropy, who taught whom."""

from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.tools import _report_figures as figures
from jaxdistill.tools._report_data import (
  Cell,
  Results,
  Row,
  Training,
  read_training,
)
from jaxdistill.tools._report_part import Part
from jaxdistill.tools._report_statistics import spread
from jaxdistill.tools._report_table import (
  Column,
  Table,
  decimals,
  percent,
  whole,
)
from jaxdistill.tools._report_theme import Theme

# Metrics of training lines, as `<metric>/<member>`.
CROSS_ENTROPY = "ce"
TAUGHT = "wins"
ACCURACY = "top1"

# Points of a line, or areas side by side, that can still be told apart.
_MOST_POINTS = 48
_MOST_AREAS = 36


class Curve(NamedTuple):
  """Values over a run.

  Attributes:
    steps: where a value is.
    values: of it; NaN where it was not finite.
  """

  steps: list[int]
  values: list[float]


def training_parts(results: Results) -> list[Part]:
  """Returns the parts for which the folders of runs are at hand."""
  trainings = {}
  for cell in results.cells:
    training = read_training(cell)
    if training:
      trainings[cell.row, cell.seed] = training
  parts = []
  for make in (_convergence, _cross_entropy, _teaching):
    part = make(results, trainings)
    if part:
      parts.append(part)
  return parts


Trainings = Mapping[tuple[str, int], Training]


def _first_runs(
  results: Results, trainings: Trainings
) -> list[tuple[Row, Cell, Training]]:
  """Returns of every row the run of the first seed whose metrics are at hand."""
  found = []
  for row in results.rows:
    for cell in results.of(row):
      training = trainings.get((cell.row, cell.seed))
      if training:
        found.append((row, cell, training))
        break
  return found


def _number(line: Mapping[str, Any], key: str) -> float:
  """Returns a value of a line; NaN if it is not there, or was not finite."""
  value = line.get(key)
  if isinstance(value, (int, float)):
    return float(value)
  return math.nan


def curve(lines: Sequence[Mapping[str, Any]], metric: str, name: str) -> Curve:
  """Returns a metric of a member or prediction over the lines of a run."""
  steps = [line["step"] for line in lines]
  values = [_number(line, f"{metric}/{name}") for line in lines]
  return Curve(steps, values)


def mean_curve(curves: Sequence[Curve]) -> Curve:
  """Returns the mean of curves over the same lines."""
  values = [math.fsum(column) / len(column) for column in _columns(curves)]
  return Curve(curves[0].steps, values)


def _columns(curves: Sequence[Curve]) -> list[tuple[float, ...]]:
  return list(zip(*[each.values for each in curves], strict=True))


# Convergence.


class Band(NamedTuple):
  """Values of several seeds over their runs.

  Attributes:
    steps: those that all runs have.
    mean: over seeds.
    sd: over seeds; NaN for one.
    n: seeds.
  """

  steps: list[int]
  mean: list[float]
  sd: list[float]
  n: int


def band(curves: Sequence[Curve]) -> Band:
  """Returns mean and standard deviation of curves at the steps that all have."""
  tables = [dict(zip(each.steps, each.values, strict=True)) for each in curves]
  common = set(tables[0]).intersection(*tables)
  steps, means, deviations = sorted(common), [], []
  for step in steps:
    found = spread([table[step] for table in tables])
    means.append(found.mean)
    deviations.append(found.sd)
  return Band(steps, means, deviations, len(curves))


def _convergence(results: Results, trainings: Trainings) -> Part | None:
  """Returns accuracy over the steps of training: of rows, or of a run's members."""
  measure = results.measure.name
  evaluated = any(len(each.evaluations) > 1 for each in trainings.values())
  if evaluated:
    what = f"{results.measure.heading} accuracy on the test split"
  else:
    measure = ACCURACY
    what = (
      "top-1 accuracy on the training images as each member saw them, perturbed ones "
      "included, as there is only one evaluation; a window of training each"
    )
  bands = _bands(results, trainings, measure, evaluated=evaluated)
  if not bands or max(len(each.steps) for _, _, each in bands) < 2:
    return None

  columns = [Column("label", "row"), Column("n", "n", whole)]
  if not results.is_study:
    columns = [Column("label", "member or prediction")]
  for fraction in _FRACTIONS:
    columns.append(
      Column(f"at_{fraction}", f"at {fraction} % of the steps, %", percent)
    )
  shown, data = [], []
  panels: dict[str, list[figures.Series]] = {}
  for home, label, each in bands:
    line: list[Any] = [label, each.n]
    if not results.is_study:
      line = [label]
    shown.append(line + _at_fractions(each))
    for step, mean, sd in zip(each.steps, each.mean, each.sd, strict=True):
      data.append([label, step, mean, sd, each.n])
    panels.setdefault(home, []).append(_as_series(label, each))

  def draw(theme: Theme) -> Any:
    drawn = [figures.Panel(home, series) for home, series in panels.items()]
    return figures.lines(theme, drawn, x="step", y="accuracy, %", columns=2)

  sentence = f"{what}, in per cent, over the steps of training."
  if results.is_study:
    sentence = (
      f"{what}, mean over a row's members, in per cent: mean over seeds and a band of "
      "one standard deviation."
    )
  return Part(
    slug="convergence",
    title="Convergence",
    sentence=_capital(sentence),
    table=Table(columns, shown),
    draw=draw,
    data=Table(
      (
        Column("label", "label"),
        Column("step", "step"),
        Column("mean", "mean"),
        Column("sd", "sd"),
        Column("n", "n"),
      ),
      data,
    ),
  )


_FRACTIONS = (25, 50, 75, 100)


def _capital(sentence: str) -> str:
  return sentence[0].upper() + sentence[1:]


def _bands(
  results: Results, trainings: Trainings, measure: str, *, evaluated: bool
) -> list[tuple[str, str, Band]]:
  """Returns (networks and data, row or member, its values) of all that is drawn."""
  found = []
  for row in results.rows:
    curves = []
    for cell in results.of(row):
      training = trainings.get((cell.row, cell.seed))
      if training is None:
        continue
      lines, names = training.windows, list(cell.members)
      if evaluated:
        lines = training.evaluations
      if not lines:
        continue
      if results.is_study:
        of_members = [curve(lines, measure, name) for name in names]
        curves.append(mean_curve(of_members))
        continue
      if evaluated:
        names += cell.predictions
      for name in names:
        found.append(("", name, band([curve(lines, measure, name)])))
    if not curves:
      continue
    each = band(curves)
    # Runs that were evaluated at other steps have none in common.
    if each.steps:
      found.append((row.cohort, row.name, each))
  return found


def _at_fractions(each: Band) -> list[float | None]:
  """Returns the last value until some fractions of the last step."""
  values = []
  for fraction in _FRACTIONS:
    limit = each.steps[-1] * fraction / 100
    value = None
    for step, mean in zip(each.steps, each.mean, strict=True):
      if step <= limit:
        value = mean
    values.append(value)
  return values


def _as_series(label: str, each: Band) -> figures.Series:
  """Returns a line in per cent, of so many points as can be told apart."""
  count = min(len(each.steps), _MOST_POINTS)
  places = np.unique(np.linspace(0, len(each.steps) - 1, count).round().astype(int))
  mean = 100 * np.asarray(each.mean)[places]
  sd = 100 * np.asarray(each.sd)[places]
  low: Any = ()
  high: Any = ()
  if each.n > 1:
    low, high = mean - sd, mean + sd
  return figures.Series(
    label=label,
    x=np.asarray(each.steps)[places].tolist(),
    y=mean.tolist(),
    low=low,
    high=high,
    # A line that is full of markers cannot be followed.
    marked=range(0, len(places), max(1, len(places) // 8)),
  )


# Cross-entropy, with the teacher marked.


def _cross_entropy(results: Results, trainings: Trainings) -> Part | None:
  """Returns every member's training cross-entropy, and who taught."""
  runs = []
  for row, cell, training in _first_runs(results, trainings):
    if len(training.windows) > 1:
      runs.append((row, cell, training))
  if not runs:
    return None

  shown, data, panels = [], [], []
  any_taught = False
  for row, cell, training in runs:
    names = list(cell.members)
    losses = [curve(training.windows, CROSS_ENTROPY, name) for name in names]
    taught = taught_by(training, names)
    any_taught = any_taught or bool(taught)
    panels.append(
      figures.Panel(_title(results, row, cell), _marked(names, losses, taught))
    )
    weights = window_lengths(losses[0].steps)
    for place, name in enumerate(names):
      fractions: list[Any] = [None] * len(weights)
      overall = None
      if taught:
        fractions = taught[place].values
        overall = float(np.average(np.nan_to_num(fractions), weights=weights))
      values = losses[place].values
      shown.append([row.name, cell.seed, name, values[0], values[-1], overall])
      rows = zip(losses[place].steps, values, fractions, strict=True)
      for step, value, fraction in rows:
        data.append([row.name, cell.seed, name, step, value, fraction])

  sentence = (
    "Every member's cross-entropy with its labels, in nats, on the training images as "
    "it saw them: the mean over a window of training, logarithmic."
  )
  if results.is_study:
    sentence += " The first seed of every row."
  if any_taught:
    sentence += (
      " A marker says that this member taught in most steps of the window; panels "
      "without markers have no contest."
    )

  def draw(theme: Theme) -> Any:
    return figures.lines(theme, panels, x="step", y="cross-entropy, nats", log=True)

  return Part(
    slug="cross_entropy",
    title="Cross-entropy of every member, and who teaches",
    sentence=sentence,
    table=Table(
      (
        Column("row", "row"),
        Column("seed", "seed", str),
        Column("member", "member"),
        Column("first", "first window, nats", decimals),
        Column("last", "last window, nats", decimals),
        Column("taught", "taught in % of all steps", percent),
      ),
      shown,
    ),
    draw=draw,
    data=Table(
      (
        Column("row", "row"),
        Column("seed", "seed"),
        Column("member", "member"),
        Column("step", "step"),
        Column("cross_entropy", "cross-entropy"),
        Column("taught", "taught"),
      ),
      data,
    ),
  )


def _title(results: Results, row: Row, cell: Cell) -> str:
  if not results.is_study:
    return ""
  return f"{row.name}, seed {cell.seed}"


def taught_by(training: Training, names: Sequence[str]) -> list[Curve]:
  """Returns for each member the fraction of steps in which it taught.

  Args:
    training: of the run.
    names: of its members.

  Returns:
    A curve for each of them; none for a method without a contest.
  """
  first = training.windows[0]
  if f"{TAUGHT}/{names[0]}" not in first:
    return []
  return [curve(training.windows, TAUGHT, name) for name in names]


def window_lengths(steps: Sequence[int]) -> list[int]:
  """Returns the steps of each window, whose last steps are given."""
  return np.diff(steps, prepend=0).tolist()


def binned(each: Curve, count: int) -> Curve:
  """Returns a curve of at most `count` windows: means of windows in a row.

  Windows count as much as they have steps. Values that are not finite are left out.
  """
  steps = np.asarray(each.steps)
  values = np.asarray(each.values, float)
  lengths = np.asarray(window_lengths(each.steps), float)
  found = Curve([], [])
  for places in np.array_split(np.arange(len(steps)), min(count, len(steps))):
    finite = places[np.isfinite(values[places])]
    mean = math.nan
    if len(finite) and lengths[finite].sum():
      mean = float(np.average(values[finite], weights=lengths[finite]))
    found.steps.append(int(steps[places[-1]]))
    found.values.append(mean)
  return found


def _marked(
  names: Sequence[str], losses: Sequence[Curve], taught: Sequence[Curve]
) -> list[figures.Series]:
  """Returns the lines of a run, marked where their member taught most."""
  fractions = [binned(each, _MOST_POINTS).values for each in taught]
  winners = most(fractions)
  series = []
  for place, name in enumerate(names):
    shown = binned(losses[place], _MOST_POINTS)
    marked = []
    for position, winner in enumerate(winners):
      if winner == place:
        marked.append(position)
    series.append(figures.Series(name, shown.steps, shown.values, marked=marked))
  return series


def most(fractions: Sequence[Sequence[float]]) -> list[int | None]:
  """Returns for each window whose fraction is the largest; None if nobody has one."""
  winners: list[int | None] = []
  for column in zip(*fractions, strict=True):
    values = np.nan_to_num(column)
    winner = None
    if values.max() > 0:
      winner = int(np.argmax(values))
    winners.append(winner)
  return winners


# Who taught whom.


def _teaching(results: Results, trainings: Trainings) -> Part | None:
  """Returns the fractions of the steps in which members taught; None if none did."""
  shown, data, panels, labels = [], [], [], []
  for row, cell, training in _first_runs(results, trainings):
    if not training.windows:
      continue
    names = list(cell.members)
    taught = taught_by(training, names)
    if not taught:
      continue
    labels += names
    winners = most([each.values for each in taught])
    weights = window_lengths(taught[0].steps)
    series = []
    for place, name in enumerate(names):
      each = taught[place]
      values = np.nan_to_num(each.values)
      quarter = max(1, len(values) // 4)
      shown.append(
        [
          row.name,
          cell.seed,
          name,
          float(np.average(values[:quarter], weights=weights[:quarter])),
          float(np.average(values[-quarter:], weights=weights[-quarter:])),
          float(np.average(values, weights=weights)),
          winners.count(place),
          len(winners),
        ]
      )
      for step, value in zip(each.steps, each.values, strict=True):
        data.append([row.name, cell.seed, name, step, value])
      series.append(_as_area(name, binned(each, _MOST_AREAS)))
    panels.append(figures.Panel(_title(results, row, cell), series))
  if not panels:
    return None
  names = list(dict.fromkeys(labels))

  def draw(theme: Theme) -> Any:
    return figures.areas(
      theme, panels, x="step", y="fraction of the steps", names=names
    )

  sentence = (
    "Fraction of the steps of a window in which each member had won the contest, hence "
    "taught the others; the parts add up to 1."
  )
  if results.is_study:
    sentence += " The first seed of every row whose method has a contest."
  return Part(
    slug="teaching",
    title="Who taught whom, over time",
    sentence=sentence,
    table=Table(
      (
        Column("row", "row"),
        Column("seed", "seed", str),
        Column("member", "member"),
        Column("first_quarter", "first quarter, % of steps", percent),
        Column("last_quarter", "last quarter, % of steps", percent),
        Column("all", "whole run, % of steps", percent),
        Column("windows_led", "windows in which it taught most", whole),
        Column("windows", "of", whole),
      ),
      shown,
    ),
    draw=draw,
    data=Table(
      (
        Column("row", "row"),
        Column("seed", "seed"),
        Column("member", "member"),
        Column("step", "step"),
        Column("taught", "taught"),
      ),
      data,
    ),
  )


def _as_area(name: str, each: Curve) -> figures.Series:
  """Returns windows as steps: each value holds from the end of the one before."""
  values = np.nan_to_num(each.values).tolist()
  return figures.Series(name, [0, *each.steps], [values[0], *values])
