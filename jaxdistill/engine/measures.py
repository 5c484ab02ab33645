"""What an evaluation measures: one table, read by evaluation, logs, console and tests.

To add a metric of classification, add a row. Retrieval has a table of its own.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import metrics

Row = dict[str, float]
"""Measure -> value."""


class Shown(Protocol):
  """A number of an evaluation, as files and tables show it."""

  @property
  def name(self) -> str:
    """In files, as `<name>/<member>`."""
    ...

  @property
  def heading(self) -> str:
    """Of its column in the closing table; "" leaves it out."""
    ...

  @property
  def percent(self) -> bool:
    """Whether it is a fraction that people read in per cent."""
    ...


class Task(NamedTuple):
  """What members are measured by.

  Attributes:
    measures: its numbers, in the order of files and tables.
    selecting: the one by which the best weights of a member are kept: larger is better.
    per_batch: (values f32[B, n] of a member, labels i32[B]) -> what is kept of them for
      the whole split, arrays [B, ...]; on the device.
    reduce: that of a whole split, [N, ...] -> measure -> value; on the host.
    feature: which feature of the members is measured; "": their logits, and the
      method's predictions beside them.
  """

  measures: tuple[Shown, ...]
  selecting: Shown
  per_batch: Callable[[jax.Array, jax.Array], Any]
  reduce: Callable[[Any], Row]
  feature: str = ""


class Measure(NamedTuple):
  """One number of an evaluation of classification.

  Attributes:
    name: in files, as `<name>/<member>`.
    per_example: (logits f32[B, C], labels i32[B]) -> f32[B], or f32[B, n] where an
      example has several values.
    reduce: their values over a whole split, [N] or [N, n], -> the number.
    heading: of its column in the closing table; "" leaves it out.
    percent: whether it is a fraction that people read in per cent.
  """

  name: str
  per_example: Callable[[jax.Array, jax.Array], jax.Array]
  reduce: Callable[[np.ndarray], float]
  heading: str = ""
  percent: bool = False


def _mean(values: np.ndarray) -> float:
  return float(values.mean(dtype=np.float64))


def _confidence(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the largest probability, and whether it is the label's: f32[B, 2]."""
  confidence = jax.nn.softmax(logits).max(axis=-1)
  return jnp.stack([confidence, metrics.top_k(logits, labels, 1)], axis=-1)


def _brier(logits: jax.Array, labels: jax.Array) -> jax.Array:
  return metrics.brier(jax.nn.softmax(logits), labels)


def _of_confidence(function: Callable, values: np.ndarray) -> float:
  """Applies a function of (confidence, correct).

  Returns NaN for a member that is not finite, whose bins and ranks mean nothing.
  """
  if not np.isfinite(values).all():
    return float("nan")
  return float(function(values[:, 0], values[:, 1]))


MEASURES = (
  Measure(
    name="top1",
    per_example=functools.partial(metrics.top_k, k=1),
    reduce=_mean,
    heading="top-1",
    percent=True,
  ),
  Measure(
    name="top5",
    per_example=functools.partial(metrics.top_k, k=5),
    reduce=_mean,
    percent=True,
  ),
  Measure(
    name="nll", per_example=metrics.negative_log_likelihood, reduce=_mean, heading="NLL"
  ),
  Measure(
    name="ece",
    per_example=_confidence,
    reduce=functools.partial(_of_confidence, metrics.calibration_error),
    percent=True,
  ),
  Measure(
    name="aurc",
    per_example=_confidence,
    reduce=functools.partial(_of_confidence, metrics.risk_coverage_area),
  ),
)

SELECTING = MEASURES[0]
"""The one by which the best weights of a classifier are kept."""

BRIER = Measure(name="brier", per_example=_brier, reduce=_mean, heading="Brier")

EXCESS_RISK = Measure(
  name="eaurc",
  per_example=_confidence,
  reduce=functools.partial(_of_confidence, metrics.excess_risk_coverage_area),
  percent=True,
)

ALL_MEASURES = (*MEASURES, BRIER, EXCESS_RISK)
"""Those of a trained network; what only the end tells is not logged while it trains."""


def classification(measures: tuple[Measure, ...]) -> Task:
  """Returns the task in which a class is said of every example.

  Args:
    measures: its numbers; the first one selects.
  """

  def per_example(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    return {measure.name: measure.per_example(logits, labels) for measure in measures}

  def reduce(values: Mapping[str, np.ndarray]) -> Row:
    return {measure.name: measure.reduce(values[measure.name]) for measure in measures}

  return Task(
    measures=measures, selecting=measures[0], per_batch=per_example, reduce=reduce
  )


CLASSIFICATION = classification(MEASURES)
"""What members, and predictions of the method, are measured by while they train."""
