"""Calibration and ranking metrics against the released code of PS-KD, NumPy in float64, and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import metrics


def test_metrics_match_ps_kd(golden):
  g = golden("12_pskd")
  probs, labels = g["conf"], g["conf_labels"]
  np.testing.assert_allclose(100 * metrics.expected_calibration_error(probs, labels), g["ece"], rtol=2e-5)
  np.testing.assert_allclose(1000 * metrics.aurc(probs, labels), g["aurc"], rtol=2e-5)
  np.testing.assert_allclose(1000 * metrics.eaurc(probs, labels), g["eaurc"], rtol=2e-5)


def test_brier_by_hand():
  probs = jnp.array([[[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]]], jnp.bfloat16)
  value = metrics.brier(probs, jnp.array([[0, 1]]))
  assert value.shape == (1, 2) and value.dtype == jnp.float32
  np.testing.assert_allclose(value, [[0.14, 2.0]], atol=5e-3)


def test_calibration_error_by_hand():
  # Two bins: (0, 0.5] holds 0.5 and 0.3 with accuracy 0.5, (0.5, 1] holds the others with accuracy 1.
  value = metrics.calibration_error(np.array([0.5, 0.3, 0.6, 1.0]), np.array([1, 0, 1, 1]), bins=2)
  np.testing.assert_allclose(value, 0.5 * 0.1 + 0.5 * 0.2, rtol=1e-6)


def test_calibration_bins_hold_their_upper_edge():
  # Were 0.5 in the upper bin, its gap of -0.5 would cancel against the 0.9 of the other.
  value = metrics.calibration_error(np.array([0.5, 0.9]), np.array([1, 0]), bins=2)
  np.testing.assert_allclose(value, 0.5 * 0.5 + 0.5 * 0.9, rtol=1e-6)


@pytest.mark.parametrize("confidence, correct, area, excess", [
    ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4, (1 / 2) / 4),
    ([0.6, 0.9, 0.7], [0, 1, 1], (1 / 3) / 3, 0),
    ([0.6, 0.9, 0.7], [1, 0, 1], (1 + 1 / 2 + 1 / 3) / 3, (1 + 1 / 2) / 3),
    ([0.5, 0.5], [0, 1], (1 + 1 / 2) / 2, 1 / 2), ([0.5, 0.5], [1, 0], (1 / 2) / 2, 0),
    ([0.5, 0.6], [0, 0], 1, 0), ([0.5, 0.6], [1, 1], 0, 0)])
def test_risk_coverage_by_hand(confidence, correct, area, excess):
  confidence, correct = np.array(confidence), np.array(correct)
  np.testing.assert_allclose(metrics.risk_coverage_area(confidence, correct), area, rtol=1e-6)
  np.testing.assert_allclose(metrics.excess_risk_coverage_area(confidence, correct), excess, rtol=1e-6, atol=1e-7)


def test_metrics_of_many_examples_keep_their_digits(rng):
  size = 50_000
  confidence = np.append(rng.uniform(0.05, 1, size - 2), [0.3, 0.3]).astype(np.float32)
  correct = (rng.uniform(size=size) < confidence).astype(np.float32)
  wrong = 1 - correct[np.argsort(-confidence, kind="stable")].astype(np.float64)
  area = np.mean(np.cumsum(wrong) / np.arange(1, size + 1))
  least = np.mean(np.cumsum(np.sort(wrong)) / np.arange(1, size + 1))
  edges = np.linspace(0, 1, 11, dtype=np.float32)
  inside = (confidence > edges[:-1, None]) & (confidence <= edges[1:, None])
  ece = np.abs(np.sum((confidence.astype(np.float64) - correct) * inside, axis=1)).sum() / size
  np.testing.assert_allclose(metrics.risk_coverage_area(confidence, correct), area, rtol=2e-6)
  np.testing.assert_allclose(metrics.excess_risk_coverage_area(confidence, correct), area - least, rtol=5e-6)
  np.testing.assert_allclose(metrics.calibration_error(confidence, correct), ece, rtol=2e-5)
