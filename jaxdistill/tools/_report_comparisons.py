"""The parts of a report that compare rows: verdicts, accuracies, cost."""

from collections.abc import Mapping, Sequence
import statistics
from typing import Any, NamedTuple

from jaxdistill.errors import require
from jaxdistill.run.console import counted
from jaxdistill.tools import _report_figures as figures
from jaxdistill.tools._report_data import Results, Row
from jaxdistill.tools._report_part import Part
from jaxdistill.tools._report_statistics import (
  BETTER,
  LEVEL,
  MIN_SEEDS,
  RESAMPLES,
  UNDECIDED,
  WORSE,
  Difference,
  Spread,
  paired_difference,
  spread,
)
from jaxdistill.tools._report_table import (
  NOTHING,
  Column,
  Table,
  is_missing,
  percent,
  points,
  ratio,
  significant,
  whole,
)
from jaxdistill.tools._report_theme import Theme

FAIR = "its fair control"
ALONE = "learning alone"
ENSEMBLE = "ensemble"


class Comparison(NamedTuple):
  """Two rows that are compared.

  Attributes:
    row: the one that is judged.
    other: what it is compared with.
    roles: why: `FAIR`, `ALONE`, or the method of a reference.
  """

  row: Row
  other: Row
  roles: tuple[str, ...]


def with_references(results: Results, names: Sequence[str]) -> Results:
  """Returns results in which further rows are references.

  Raises:
    ConfigError: for a name that no finished row has.
  """
  known = [row.name for row in results.rows]
  for name in names:
    require(
      name in known,
      f"--against={name}: there is no finished row of this name: {', '.join(known)}",
    )
  rows = []
  for row in results.rows:
    rows.append(row._replace(reference=row.reference or row.name in names))
  return results._replace(rows=tuple(rows))


def comparisons(results: Results) -> list[Comparison]:
  """Returns all pairs of rows that are compared: with their fair controls first.

  A row is compared only with rows of its home. One that learns alone is compared with
  the unperturbed one; a reference with no row of its method.
  """
  roles: dict[tuple[str, str], list[str]] = {}

  def add(row: Row, other: Row | None, role: str) -> None:
    if other is not None and other.name != row.name:
      roles.setdefault((row.name, other.name), []).append(role)

  for row in results.rows:
    add(row, results.row(row.control), FAIR)
  for row in results.rows:
    add(row, alone(results, row), ALONE)
  for method in _reference_methods(results):
    for row in results.rows:
      add(row, _reference(results, row, method), method)

  found = []
  for (name, other), reasons in roles.items():
    row, against = results.row(name), results.row(other)
    assert row and against, "both are rows of the results"
    found.append(Comparison(row=row, other=against, roles=tuple(reasons)))
  return found


def alone(results: Results, row: Row) -> Row | None:
  """Returns the row of unperturbed members that learn alone, in the home of a row."""
  for other in results.rows:
    if other.is_control and not other.perturbed and other.home == row.home:
      return other
  return None


def _reference_methods(results: Results) -> list[str]:
  """Returns the methods of all references, each once."""
  methods = []
  for row in results.rows:
    if row.reference:
      methods.append(row.method)
  return list(dict.fromkeys(methods))


def _reference(results: Results, row: Row, method: str) -> Row | None:
  """Returns the row of a method that a row is compared with; None if it is not.

  Of several it is the one with the same control, hence with the same perturbations.
  """
  if row.is_control or (row.reference and row.method == method):
    return None
  found = None
  for other in results.rows:
    if not other.reference or other.method != method or other.home != row.home:
      continue
    if other.control == row.control:
      return other
    found = found or other
  return found


# Verdicts.


def member_means(results: Results, row: Row, which: str = "last") -> dict[int, float]:
  """Returns seed -> mean over the members of the last, or of the best, values."""
  means = {}
  for cell in results.of(row):
    mean = cell.mean(which, results.measure.name)
    if mean is not None:
      means[cell.seed] = mean
  return means


def ensemble_values(results: Results, row: Row) -> dict[int, float]:
  """Returns seed -> last value of the ensemble."""
  values = {}
  for cell in results.of(row):
    value = cell.value(ENSEMBLE, "last", results.measure.name)
    if value is not None:
      values[cell.seed] = value
  return values


def verdict_parts(results: Results) -> list[Part]:
  """Returns whether rows beat what they are compared with: members, then ensembles."""
  pairs = comparisons(results)
  if not pairs:
    return []
  heading = results.measure.heading
  of_members: dict[str, dict[int, float]] = {}
  of_ensembles: dict[str, dict[int, float]] = {}
  for row in results.rows:
    of_members[row.name] = member_means(results, row)
    of_ensembles[row.name] = ensemble_values(results, row)

  parts = [
    _verdict_part(
      "verdict",
      "Does the method beat its fair control?",
      f"{_capital(heading)} accuracy at the last evaluation, mean over a row's "
      f"members, {_HOW}",
      pairs,
      of_members,
    )
  ]
  if any(of_ensembles.values()):
    parts.append(
      _verdict_part(
        "verdict_ensemble",
        "Does its ensemble?",
        f"The same as above, of the {heading} accuracy of the ensemble.",
        pairs,
        of_ensembles,
      )
    )
  return parts


_HOW = (
  "minus that of the other row under the same seed; mean over the n seeds that both "
  f"rows have, in percentage points, with a {100 * LEVEL:.0f} % interval (percentile "
  f"bootstrap over seeds, {RESAMPLES:,} resamples). “{BETTER}” and “{WORSE}” take an "
  f"interval without zero and at least {MIN_SEEDS} seeds. Such intervals are narrow "
  "for few seeds: of normal differences they cover the true mean in 75, 83, 90 and 93 "
  "of 100 cases for 3, 5, 10 and 20 seeds, and nothing is corrected for the number of "
  "comparisons."
)


def _verdict_part(
  slug: str,
  title: str,
  sentence: str,
  pairs: Sequence[Comparison],
  values: Mapping[str, Mapping[int, float]],
) -> Part:
  differences = []
  for pair in pairs:
    ours, theirs = values[pair.row.name], values[pair.other.name]
    differences.append(paired_difference(ours, theirs))

  lines: list[list[Any]] = []
  panels: dict[str, list[tuple[str, Difference]]] = {}
  for pair, difference in zip(pairs, differences, strict=True):
    lines.append(
      [
        pair.row.name,
        pair.other.name,
        ", ".join(pair.roles),
        difference.verdict,
        difference.mean,
        difference,
        difference.n,
        difference.ahead,
      ]
    )
    for role in pair.roles:
      panels.setdefault(f"minus {role}", []).append((pair.row.name, difference))

  columns = (
    Column("row", "row"),
    Column("against", "compared with"),
    Column("as", "which is"),
    Column("verdict", "verdict", _with_sign, is_text=True),
    Column("difference", "difference, points", points),
    Column("ci", f"{100 * LEVEL:.0f} % interval", _interval, ("low", "high")),
    Column("n", "n", whole),
    Column("ahead", "seeds ahead", whole),
  )

  def draw(theme: Theme) -> Any:
    return figures.forest(theme, panels, x="percentage points")

  return Part(
    slug=slug,
    title=title,
    sentence=sentence,
    table=Table(columns, lines),
    draw=draw,
  )


# As the figure has them.
_SIGNS = {BETTER: f"▲ {BETTER}", WORSE: f"▼ {WORSE}", UNDECIDED: f"○ {UNDECIDED}"}


def _with_sign(verdict: str) -> str:
  return _SIGNS[verdict]


def _interval(difference: Difference) -> str:
  if is_missing(difference.low):
    return NOTHING
  return f"{points(difference.low)} to {points(difference.high)}"


def _capital(text: str) -> str:
  return text[0].upper() + text[1:]


def conclusion(results: Results) -> str:
  """Returns in a line how many rows beat their fair controls; "" if none has one."""
  counts = {BETTER: 0, WORSE: 0, UNDECIDED: 0}
  for pair in comparisons(results):
    if FAIR in pair.roles:
      ours = member_means(results, pair.row)
      theirs = member_means(results, pair.other)
      counts[paired_difference(ours, theirs).verdict] += 1
  total = sum(counts.values())
  if not total:
    return ""
  return (
    f"{counted(total, 'row')} with a fair control: {counts[BETTER]} {BETTER} than it, "
    f"{counts[WORSE]} {WORSE}, {counts[UNDECIDED]} {UNDECIDED}."
  )


# Accuracies.


def accuracy_part(results: Results) -> Part:
  """Returns the accuracies of every member and prediction, beside the paper's."""
  heading = results.measure.heading
  lines: list[list[Any]] = []
  dots, published = [], []
  for row in results.rows:
    for name in _names(results, row):
      last = _spread_of(results, row, name, "last")
      best = _spread_of(results, row, name, "best")
      paper = _published(row, name)
      ahead = None
      if paper is not None:
        ahead = last.mean - paper
        published.append(figures.Dot(row.name, name, Spread(paper, 0.0, 1)))
      lines.append([row.name, name, last, best, last.n, paper, ahead])
      dots.append(figures.Dot(row.name, name, last))
    last = spread(list(member_means(results, row).values()))
    best = spread(list(member_means(results, row, "best").values()))
    lines.append([row.name, "mean of the members", last, best, last.n, None, None])

  spread_fields = ("mean", "sd")
  columns = [
    Column("row", "row"),
    Column("member", "member or prediction"),
    Column("last", f"last {heading}, %", _mean_and_sd, spread_fields),
    Column("best", f"best {heading}, %", _mean_and_sd, spread_fields),
    Column("n", "n", whole),
  ]
  if published:
    columns += [
      Column("published", "the paper's, %", percent),
      Column("minus_published", "last − paper's, points", points),
    ]
  else:
    lines = [line[: len(columns)] for line in lines]

  def draw(theme: Theme) -> Any:
    return figures.dots(theme, dots, published, x=f"last {heading} accuracy, %")

  return Part(
    slug="accuracy",
    title="Accuracy",
    sentence=(
      f"{_capital(heading)} accuracy on the test split in per cent, at the last "
      "evaluation and at the best one of each member, mean ± sample standard deviation "
      "over n seeds. The best is chosen on the split that the run names, by default "
      "the test split itself: it is optimistic. A paper's value of a group is that of "
      "each member."
    ),
    table=Table(columns, lines),
    draw=draw,
  )


def _names(results: Results, row: Row) -> list[str]:
  """Returns the members of a row, then its predictions."""
  members, predictions = [], []
  for cell in results.of(row):
    members += cell.members
    predictions += cell.predictions
  return list(dict.fromkeys(members + predictions))


def _spread_of(results: Results, row: Row, name: str, which: str) -> Spread:
  """Returns the values of a member or prediction over the seeds that have one."""
  values = []
  for cell in results.of(row):
    value = cell.value(name, which, results.measure.name)
    if value is not None:
      values.append(value)
  return spread(values)


def _published(row: Row, name: str) -> float | None:
  """Returns the paper's value of a member, or of its group, or of a prediction."""
  group, _, _ = name.rpartition(".")
  return row.published.get(name, row.published.get(group))


def _mean_and_sd(value: Spread) -> str:
  if is_missing(value.mean):
    return NOTHING
  text = percent(value.mean)
  if not is_missing(value.sd):
    text += f" ± {percent(value.sd)}"
  return text


# Cost.


def cost_part(results: Results) -> Part | None:
  """Returns what a step costs; None if no run tells."""
  lines: list[list[Any]] = []
  drawn: dict[str, list[float]] = {}
  for row in results.rows:
    seconds = _seconds(results, row)
    if not seconds:
      continue
    base = alone(results, row)
    relative: list[float] = []
    base_name = None
    if base is not None:
      base_name = base.name
      relative = _ratios(seconds, _seconds(results, base))
    median_ratio = None
    if relative:
      drawn[row.name] = relative
      median_ratio = statistics.median(relative)
    median = statistics.median(seconds.values())
    lines.append(
      [row.name, median, len(seconds), base_name, median_ratio, len(relative)]
    )
  if not lines:
    return None

  columns = [
    Column("row", "row"),
    Column("seconds_per_step", "seconds a step", significant),
    Column("n", "n", whole),
  ]
  draw = None
  sentence = (
    "Seconds of a training step by the clock of whatever machine trained, without "
    "compilation and evaluation: the median over a run's training lines, then over the "
    "n seeds."
  )
  if drawn:
    columns += [
      Column("against", "relative to"),
      Column("ratio", "times its step", ratio),
      Column("ratio_n", "n of both", whole),
    ]
    sentence += (
      " The ratio is to unperturbed members that learn alone, under the same seed, "
      "median over seeds. It means something where all ran on one machine, with as "
      "much beside them."
    )

    def draw_ratios(theme: Theme) -> Any:
      return figures.ratios(
        theme,
        drawn,
        x="time of a step, relative to members that learn alone",
        one=ALONE,
      )

    draw = draw_ratios
  else:
    lines = [line[: len(columns)] for line in lines]
  return Part(
    slug="cost",
    title="Cost",
    sentence=sentence,
    table=Table(columns, lines),
    draw=draw,
  )


def _seconds(results: Results, row: Row) -> dict[int, float]:
  """Returns seed -> seconds of a step, of the runs that tell."""
  seconds = {}
  for cell in results.of(row):
    if cell.seconds_per_step:
      seconds[cell.seed] = cell.seconds_per_step
  return seconds


def _ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
  """Returns the ratios of the seeds that both have."""
  return [ours[seed] / theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
