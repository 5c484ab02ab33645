"""The table of what an evaluation measures."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.engine.measures import MEASURES, SELECTING


def measured(logits, labels):
  values = {}
  for measure in MEASURES:
    per_example = np.asarray(measure.per_example(jnp.asarray(logits), labels))
    assert len(per_example) == len(labels)
    values[measure.name] = measure.reduce(per_example)
  return values


def test_names_are_unique_and_the_best_weights_are_kept_by_accuracy():
  names = [measure.name for measure in MEASURES]
  assert len(set(names)) == len(names)
  assert SELECTING.name == "top1"
  assert SELECTING.heading


def test_a_hand_worked_case():
  # Right and sure, wrong and unsure: with 6 classes, the second label ranks last.
  logits = np.zeros((2, 6), np.float32)
  logits[0, 0] = 2.0
  logits[1, 5] = -1.0
  found = measured(logits, np.array([0, 5]))
  assert found["top1"] == 0.5
  assert found["top5"] == 0.5
  sure = np.exp(2) / (np.exp(2) + 5)
  unsure = 1 / (5 + np.exp(-1))
  last = np.exp(-1) / (5 + np.exp(-1))
  assert found["nll"] == pytest.approx(-np.log([sure, last]).mean(), rel=1e-5)
  # Confidences of 0.60 and 0.19 fall into bins of their own.
  assert found["ece"] == pytest.approx(((1 - sure) + unsure) / 2, rel=1e-5)
  assert found["aurc"] == pytest.approx((0 + 1 / 2) / 2)


def test_a_diverged_member_is_wrong_and_has_no_calibration():
  found = measured(np.full((3, 4), np.nan, np.float32), np.zeros(3, np.int32))
  assert found["top1"] == 0
  assert np.isnan(found["nll"])
  assert np.isnan(found["ece"])
  assert np.isnan(found["aurc"])
