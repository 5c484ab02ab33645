"""What a run has measured so far: last and best values, means, the summary."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from jaxdistill.core.types import Mean
from jaxdistill.engine.evaluate import Row
from jaxdistill.engine.measures import SELECTING


class Window:
  """Training metrics of the steps since the last line."""

  def __init__(self):
    self._means: dict[str, Mean] = {}

  def add(self, means: Mapping[str, Mean]) -> None:
    """Merges the metrics of a dispatch, on the host."""
    for name, mean in means.items():
      self._means[name] = self._means[name] + mean if name in self._means else mean

  @property
  def means(self) -> dict[str, Mean]:
    """Metric -> mean of shape [] or [M]."""
    return self._means

  def average(self, metric: str) -> float | None:
    """Returns a metric's mean over the members where it is finite; None if nowhere."""
    if metric not in self._means:
      return None
    values = np.asarray(self._means[metric].value())
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None

  def values(self, members: Sequence[str]) -> dict[str, float]:
    """Returns `<metric>/<member>` -> value, `<metric>` where it is no member's."""
    values = {}
    for metric, mean in self._means.items():
      value = np.asarray(mean.value())
      if value.ndim == 0:
        values[metric] = float(value)
        continue
      for member, number in zip(members, value.tolist(), strict=True):
        values[f"{metric}/{member}"] = float(number)
    return values


class History:
  """The records that go with a state: a checkpoint keeps them beside it."""

  def __init__(
    self,
    members: Sequence[str],
    columns: Sequence[str],
    saved: Mapping[str, Any] | None = None,
    *,
    select_on: str = "test",
    selecting: str = SELECTING.name,
  ):
    """Starts empty, or from what a checkpoint kept.

    Args:
      members: names of all members.
      columns: metrics of the method whose mean over the run the summary shows.
      saved: from `to_dict`.
      select_on: split on which best values are chosen, "test" or "holdout".
      selecting: measure by which they are chosen.
    """
    saved = saved or {"step": 0, "last": {}, "best": {}, "columns": {}}
    self.members = tuple(members)
    self.select_on = select_on
    self._selecting = selecting
    self.step: int = saved["step"]
    self.evaluated: int = saved.get("evaluated", self.step)
    """The step of the last evaluation."""
    self.last: dict[str, dict[str, Any]] = dict(saved["last"])
    """Name -> values on the test split, and under "holdout" on that split."""
    self.best: dict[str, dict[str, Any]] = {}
    """The same at the step that was chosen, with that step."""
    if saved.get("select_on", "test") == select_on:
      self.best = dict(saved["best"])
    self.quarantined: dict[str, int] = dict(saved.get("quarantined", {}))
    """Member -> step from which on it takes no part."""
    self.intact: dict[str, int] = dict(saved.get("intact", {}))
    """Member -> step of the state that it would be restarted from, if not the first."""
    self.origin: dict[str, Any] | None = saved.get("origin")
    """The state of another run that this one began with: path, step, config_digest."""
    self._columns: dict[str, dict[str, list[float]]] = {}
    for column in columns:
      fresh = {"total": [0.0] * len(self.members), "count": [0.0] * len(self.members)}
      self._columns[column] = saved["columns"].get(column, fresh)

  def to_dict(self) -> dict[str, Any]:
    """Returns plain values for a checkpoint's manifest."""
    return {
      "step": self.step,
      "last": self.last,
      "best": self.best,
      "columns": self._columns,
      "evaluated": self.evaluated,
      "select_on": self.select_on,
      "quarantined": self.quarantined,
      "intact": self.intact,
      "origin": self.origin,
    }

  def start_from(self, origin: dict[str, Any]) -> None:
    """Makes this the history of a run that begins with the state of another one."""
    self.origin = origin
    self.step = self.evaluated = origin["step"]

  @property
  def active(self) -> tuple[str, ...]:
    """Names of the members that are not quarantined."""
    return tuple(name for name in self.members if name not in self.quarantined)

  @property
  def start(self) -> int:
    """The step that the run began with."""
    return self.origin["step"] if self.origin else 0

  def add_training(self, window: Window) -> None:
    """Adds the training metrics of a window to the means over the run."""
    for column, sums in self._columns.items():
      if column not in window.means:
        continue
      mean = window.means[column]
      sums["total"] = [
        a + float(b) for a, b in zip(sums["total"], mean.total, strict=True)
      ]
      sums["count"] = [
        a + float(b) for a, b in zip(sums["count"], mean.count, strict=True)
      ]

  def add_evaluation(
    self, rows: Mapping[str, Row], holdout: Mapping[str, Row] | None = None
  ) -> list[str]:
    """Adds an evaluation of the present step; returns whose best it is.

    Args:
      rows: name -> values on the test split.
      holdout: on the held-out split, if best values are chosen there.
    """
    self.evaluated = self.step
    self.last = {name: dict(row) for name, row in rows.items()}
    for name, row in (holdout or {}).items():
      self.last[name]["holdout"] = row
    improved = []
    for name, row in self.last.items():
      if name not in self.best or self._score(row) > self._score(self.best[name]):
        self.best[name] = {"step": self.step, **row}
        improved.append(name)
    return improved

  def _score(self, row: Mapping[str, Any]) -> float:
    """Returns what best values are chosen by."""
    selected = row["holdout"] if self.select_on == "holdout" else row
    return selected[self._selecting]

  @property
  def predictions(self) -> tuple[str, ...]:
    """Names of the method's own predictions that were evaluated."""
    return tuple(name for name in self.last if name not in self.members)

  def summary(
    self, parameters: Mapping[str, int], models: Mapping[str, str]
  ) -> dict[str, Any]:
    """Returns last and best values of every member and prediction.

    Args:
      parameters: member -> number of its parameters.
      models: member -> registry name of its network.

    Returns:
      {"members": {name: {"last", "best", "parameters", "model", <column>: mean,
      "quarantined": step, if it was}}, <prediction>: {"last", "best"}, "predictions":
      names, "steps": int, "select_on": split}, numbers that are not finite as None.
    """
    members = {}
    for position, name in enumerate(self.members):
      members[name] = {
        **self._record(name),
        "parameters": parameters[name],
        "model": models[name],
      }
      for column, sums in self._columns.items():
        if sums["count"][position]:
          members[name][column] = sums["total"][position] / sums["count"][position]
      if name in self.quarantined:
        members[name]["quarantined"] = self.quarantined[name]
    summary = {"members": members}
    for name in self.predictions:
      summary[name] = self._record(name)
    summary |= {
      "predictions": list(self.predictions),
      "steps": self.step,
      "select_on": self.select_on,
    }
    if self.origin:
      summary["forked_from"] = self.origin
    return _finite(summary)

  def _record(self, name: str) -> dict[str, Any]:
    return {"last": {"step": self.step, **self.last[name]}, "best": self.best[name]}


def _finite(value: Any) -> Any:
  """Replaces numbers that JSON cannot hold by None, anywhere in nested dicts."""
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
