"""What a run remembers of its measurements."""

import json

import numpy as np
import pytest

from jaxdistill.core.types import Mean
from jaxdistill.run.history import History, Window

MEMBERS = ("a.0", "a.1")
PARAMETERS = {"a.0": 10, "a.1": 10}
MODELS = {"a.0": "small.convnet", "a.1": "small.convnet"}


def mean(values, count=1.0):
  values = np.asarray(values, np.float32)
  return Mean(values * count, np.full_like(values, count))


def row(top1):
  return {"top1": top1, "nll": 1.0}


def test_a_window_merges_dispatches_by_their_counts():
  window = Window()
  window.add({"ce": mean([1.0, 2.0]), "scale": mean(3.0)})
  window.add({"ce": mean([4.0, 8.0], count=2.0), "scale": mean(5.0)})
  values = window.values(MEMBERS)
  assert values == pytest.approx({"ce/a.0": 3.0, "ce/a.1": 6.0, "scale": 4.0})


@pytest.mark.parametrize("metric", ["learning_rate", "gradient_norm", "any_other"])
def test_every_metric_of_the_members_gets_a_column_for_each(metric):
  window = Window()
  window.add({metric: mean([0.5, 0.25])})
  assert window.values(MEMBERS) == {f"{metric}/a.0": 0.5, f"{metric}/a.1": 0.25}


@pytest.mark.parametrize(
  "losses, average",
  [([1.0, 2.0], 1.5), ([1.0, np.nan], 1.0), ([np.inf, np.nan], None)],
)
def test_the_average_is_over_the_members_where_it_is_finite(losses, average):
  window = Window()
  assert window.average("loss") is None
  window.add({"loss": mean(losses)})
  assert window.average("loss") == average


def test_best_and_last_are_kept_apart_and_ties_keep_the_first():
  history = History(MEMBERS, ())
  improved = []
  for step, top1 in ((2, 0.5), (4, 0.7), (6, 0.7), (8, 0.6)):
    history.step = step
    improved.append(history.add_evaluation({"a.0": row(top1), "a.1": row(0.1 * step)}))
  assert improved == [["a.0", "a.1"], ["a.0", "a.1"], ["a.1"], ["a.1"]]
  summary = history.summary(PARAMETERS, MODELS)["members"]["a.0"]
  assert summary["best"] == {"step": 4, "top1": 0.7, "nll": 1.0}
  assert summary["last"] == {"step": 8, "top1": 0.6, "nll": 1.0}


def test_another_measure_may_choose_the_best():
  history = History(MEMBERS, (), selecting="map")
  for step, rank1, precision in ((2, 0.9, 0.1), (4, 0.2, 0.8)):
    history.step = step
    rows = {name: {"rank1": rank1, "map": precision} for name in MEMBERS}
    history.add_evaluation(rows)
  assert history.best["a.0"]["step"] == 4


def test_what_is_best_on_the_held_out_split_is_shown_with_its_test_values():
  history = History(MEMBERS, (), select_on="holdout")
  for step, test, holdout in ((2, 0.5, 0.6), (4, 0.4, 0.9), (6, 0.9, 0.8)):
    history.step = step
    rows = {name: row(test) for name in MEMBERS}
    history.add_evaluation(rows, {name: row(holdout) for name in MEMBERS})
  saved = json.loads(json.dumps(history.to_dict()))
  resumed = History(MEMBERS, (), saved, select_on="holdout")
  assert resumed.evaluated == 6
  summary = resumed.summary(PARAMETERS, MODELS)
  assert summary["select_on"] == "holdout"
  best = summary["members"]["a.0"]["best"]
  assert best == {"step": 4, "top1": 0.4, "nll": 1.0, "holdout": row(0.9)}
  # What was chosen elsewhere does not compete.
  assert History(MEMBERS, (), saved, select_on="test").best == {}


def test_columns_are_means_over_the_run_and_survive_a_checkpoint():
  history = History(MEMBERS, ("wins",))
  window = Window()
  window.add({"wins": mean([1.0, 0.0], count=3.0)})
  history.add_training(window)
  saved = json.loads(json.dumps(history.to_dict()))
  resumed = History(MEMBERS, ("wins",), saved)
  window = Window()
  window.add({"wins": mean([0.0, 1.0])})
  resumed.add_training(window)
  resumed.add_evaluation({name: row(0.5) for name in MEMBERS})
  members = resumed.summary(PARAMETERS, MODELS)["members"]
  assert members["a.0"]["wins"] == pytest.approx(0.75)
  assert members["a.1"]["wins"] == pytest.approx(0.25)


def test_predictions_are_what_is_no_member_and_json_holds_what_is_not_finite():
  history = History(MEMBERS, ())
  rows = {name: row(0.5) for name in MEMBERS}
  history.add_evaluation({**rows, "ensemble": {"top1": 0.6, "nll": float("inf")}})
  summary = history.summary(PARAMETERS, MODELS)
  assert summary["predictions"] == ["ensemble"]
  assert summary["ensemble"]["last"] == {"step": 0, "top1": 0.6, "nll": None}
