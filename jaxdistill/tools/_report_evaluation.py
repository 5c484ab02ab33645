"""The parts of a report that evaluations of whole runs give.

Agreement, reliability, and accuracy under noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.tools import _report_figures as figures
from jaxdistill.tools._report_data import (
  EVALUATION,
  Results,
  Row,
  intact,
  read_evaluation,
)
from jaxdistill.tools._report_part import Part
from jaxdistill.tools._report_table import (
  Column,
  Table,
  decimals,
  is_missing,
  percent,
  whole,
)
from jaxdistill.tools._report_theme import Theme

Evaluation = Mapping[str, Any]


class Evaluated(NamedTuple):
  """The evaluations of a row's runs.

  Attributes:
    row: of them.
    evaluations: one for each run that has one.
  """

  row: Row
  evaluations: list[Evaluation]


def evaluation_parts(results: Results) -> list[Part]:
  """Returns what the runs that have been evaluated give; nothing if none has.

  Raises:
    DataError: if what an evaluation wrote is damaged.
  """
  rows = []
  for row in results.rows:
    found = []
    for cell in results.of(row):
      evaluation = read_evaluation(cell)
      if evaluation:
        with intact(cell.path / EVALUATION):
          _require_form(evaluation)
        found.append(evaluation)
    if found:
      rows.append(Evaluated(row, found))
  if not rows:
    return []
  parts = [_agreement(results, rows), _reliability(results, rows)]
  noise = _noise(results, rows)
  if noise:
    parts.append(noise)
  return parts


def _require_form(evaluation: Evaluation) -> None:
  """Raises an error for what is not there, or no number where there should be one."""
  count = len(evaluation["agreement"]["members"])
  for key in ("same_class", "kl"):
    values = np.asarray(evaluation["agreement"][key], float)
    if values.shape != (count, count):
      raise ValueError(f"agreement.{key} is no square of {count} members")
  for bins in evaluation["reliability"].values():
    for each in bins:
      if each["count"]:
        float(each["confidence"] + each["accuracy"] + each["count"])
  for rows in (evaluation["members"], evaluation["predictions"]):
    for name, row in rows.items():
      if name not in evaluation["reliability"]:
        raise ValueError(f"reliability of {name} is not there")
      np.asarray(list(row.values()), float)
  noise = evaluation["noise"]
  if noise:
    strengths = np.asarray(noise["std"], float)
    for name, values in noise["top1"].items():
      if np.asarray(values, float).shape != strengths.shape:
        raise ValueError(f"noise of {name} has not a value for each std")
    str(noise["draws"])
  str(evaluation["weights"] + evaluation["split"])


def _conditions(rows: Sequence[Evaluated]) -> str:
  """Returns which weights were evaluated on what."""
  found = []
  for row in rows:
    for each in row.evaluations:
      found.append(f"{each['weights']} weights, {each['split']} split")
  return " and ".join(dict.fromkeys(found))


def _title(results: Results, row: Evaluated) -> str:
  if not results.is_study:
    return ""
  return row.row.name


# Agreement.


def _agreement(results: Results, rows: Sequence[Evaluated]) -> Part:
  lines, panels = [], []
  for row in rows:
    names = row.evaluations[0]["agreement"]["members"]
    same = _mean_matrix(row, "same_class")
    kl = _mean_matrix(row, "kl")
    panels.append(figures.Matrix(_title(results, row), names, same.tolist()))
    for i, name in enumerate(names):
      for j, other in enumerate(names):
        if i != j:
          lines.append(
            [
              row.row.name,
              name,
              other,
              same[i, j].item(),
              kl[i, j].item(),
              len(row.evaluations),
            ]
          )

  def draw(theme: Theme) -> Any:
    return figures.matrices(theme, panels, bar="same class, fraction")

  return Part(
    slug="agreement",
    title="Agreement between members",
    sentence=(
      "Fraction of the examples on which two members name the same class, in per cent "
      "in the squares, and the mean KL divergence of the first one's probabilities "
      f"from the second one's, in nats ({_conditions(rows)}); mean over the n runs "
      "that have been evaluated."
    ),
    table=Table(
      (
        Column("row", "row"),
        Column("member", "member"),
        Column("other", "other"),
        Column("same_class", "same class, %", percent),
        Column("kl", "KL, nats", decimals),
        Column("n", "n", whole),
      ),
      lines,
    ),
    draw=draw,
  )


def _mean_matrix(row: Evaluated, key: str) -> np.ndarray:
  """Returns the mean of an agreement over the runs: f64[M, M]."""
  matrices = [each["agreement"][key] for each in row.evaluations]
  return np.mean(np.asarray(matrices, float), axis=0)


# Reliability.


def _reliability(results: Results, rows: Sequence[Evaluated]) -> Part:
  lines, data, panels = [], [], []
  for row in rows:
    first = row.evaluations[0]
    series = []
    for name in [*first["members"], *first["predictions"]]:
      bins = merged_bins([each["reliability"][name] for each in row.evaluations])
      confidences, accuracies = [], []
      for number, (confidence, accuracy, count) in enumerate(bins):
        data.append([row.row.name, name, number, confidence, accuracy, count])
        if count:
          confidences.append(confidence)
          accuracies.append(accuracy)
      series.append(figures.Series(name, confidences, accuracies))
      measures = [_mean_measure(row, name, key) for key in ("ece", "nll", "brier")]
      lines.append([row.row.name, name, *measures, len(row.evaluations)])
    panels.append(figures.Panel(_title(results, row), series))

  def draw(theme: Theme) -> Any:
    return figures.lines(
      theme, panels, x="mean confidence of a bin", y="accuracy", diagonal=True
    )

  return Part(
    slug="reliability",
    title="Reliability diagram",
    sentence=(
      "Accuracy against mean confidence, the largest probability, in ten bins of equal "
      "width: below the diagonal is overconfident. All examples of the n evaluated "
      f"runs together ({_conditions(rows)}); ECE in per cent, negative log-likelihood "
      "in nats and Brier score are means over runs."
    ),
    table=Table(
      (
        Column("row", "row"),
        Column("member", "member or prediction"),
        Column("ece", "ECE, %", percent),
        Column("nll", "NLL, nats", decimals),
        Column("brier", "Brier score", decimals),
        Column("n", "n", whole),
      ),
      lines,
    ),
    draw=draw,
    data=Table(
      (
        Column("row", "row"),
        Column("member", "member"),
        Column("bin", "bin"),
        Column("confidence", "confidence"),
        Column("accuracy", "accuracy"),
        Column("count", "count"),
      ),
      data,
    ),
  )


def merged_bins(
  runs: Sequence[Sequence[Mapping[str, Any]]],
) -> list[tuple[float | None, float | None, int]]:
  """Returns (mean confidence, accuracy, count) of the bins of several runs together.

  Args:
    runs: the bins of each: means, which are None for a bin without examples.
  """
  merged = []
  for bins in zip(*runs, strict=True):
    count = sum(each["count"] for each in bins)
    confidence = accuracy = 0.0
    for each in bins:
      if each["count"]:
        confidence += each["confidence"] * each["count"] / count
        accuracy += each["accuracy"] * each["count"] / count
    if count:
      merged.append((confidence, accuracy, count))
    else:
      merged.append((None, None, 0))
  return merged


def _mean_measure(row: Evaluated, name: str, key: str) -> float | None:
  """Returns the mean over the runs; None if one of them lacks it."""
  values = []
  for each in row.evaluations:
    found = each["members"].get(name) or each["predictions"].get(name, {})
    if is_missing(found.get(key)):
      return None
    values.append(found[key])
  return sum(values) / len(values)


# Noise.


def _noise(results: Results, rows: Sequence[Evaluated]) -> Part | None:
  lines, data = [], []
  panels: dict[str, list[figures.Series]] = {}
  std: list[float] = []
  draws = 0
  for row in rows:
    noisy = []
    for each in row.evaluations:
      noise = each["noise"]
      # Runs are averaged where they saw the same noise.
      if noise and std in ([], noise["std"]):
        std, draws = noise["std"], noise["draws"]
        noisy.append(each)
    if not noisy:
      continue
    curves = {}
    for name in noisy[0]["members"]:
      runs = [each["noise"]["top1"][name] for each in noisy]
      curves[name] = np.mean(np.asarray(runs, float), axis=0)
      for strength, value in zip(std, curves[name], strict=True):
        data.append([row.row.name, name, strength, value.item(), len(noisy)])
    if results.is_study:
      curves = {row.row.name: np.mean(list(curves.values()), axis=0)}
    for label, values in curves.items():
      lines.append([label, *_ends(values), len(noisy)])
      series = figures.Series(label, std, (100 * values).tolist())
      panels.setdefault(row.row.cohort, []).append(series)
  if not lines:
    return None

  def draw(theme: Theme) -> Any:
    drawn = [figures.Panel(home, series) for home, series in panels.items()]
    return figures.lines(
      theme,
      drawn,
      x="standard deviation of the noise, pixels in 0 to 1",
      y="accuracy, %",
      columns=2,
    )

  what = "Top-1 accuracy"
  heading = "member"
  if results.is_study:
    what += ", mean over a row's members,"
    heading = "row"
  return Part(
    slug="noise",
    title="Accuracy under noise",
    sentence=(
      f"{what} in per cent on images with Gaussian noise whose standard deviation is "
      f"in units of pixels in 0 to 1, mean of {draws} draws and of the n runs that "
      f"have been evaluated ({_conditions(rows)})."
    ),
    table=Table(
      (
        Column("label", heading),
        Column("clean", f"at {std[0]:g}, %", percent),
        Column("middle", f"at {std[len(std) // 2]:g}, %", percent),
        Column("noisiest", f"at {std[-1]:g}, %", percent),
        Column("n", "n", whole),
      ),
      lines,
    ),
    draw=draw,
    data=Table(
      (
        Column("row", "row"),
        Column("member", "member"),
        Column("std", "std"),
        Column("top1", "top1"),
        Column("n", "n"),
      ),
      data,
    ),
  )


def _ends(values: np.ndarray) -> list[float]:
  """Returns the first value, the one in the middle and the last one."""
  return [values[0].item(), values[len(values) // 2].item(), values[-1].item()]
