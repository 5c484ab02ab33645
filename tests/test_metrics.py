"""Metrics against the released code of PS-KD, NumPy in float64, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import metrics

# In one piece it compiles sooner.
rank_gallery = jax.jit(metrics.rank_gallery)


def test_top_k_is_numpys_ranking(rng):
  logits = rng.normal(size=(50, 7)).astype(np.float32)
  labels = rng.integers(0, 7, 50)
  ranking = np.argsort(-logits, axis=1, kind="stable")
  for k in (1, 3, 5, 9):
    expected = (ranking[:, :k] == labels[:, None]).any(axis=1)
    np.testing.assert_array_equal(metrics.top_k(logits, labels, k), expected)


def test_top_k_breaks_ties_by_index_and_counts_nan_as_wrong():
  logits = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, jnp.nan, 0.0]])
  found = metrics.top_k(logits, jnp.array([0, 1, 0]), 1)
  np.testing.assert_array_equal(found, [1, 0, 0])


def test_metrics_match_ps_kd(golden):
  g = golden("12_pskd")
  probs = g["conf"]
  labels = g["conf_labels"]
  ece = metrics.expected_calibration_error(probs, labels)
  np.testing.assert_allclose(100 * ece, g["ece"], rtol=2e-5)
  aurc = metrics.aurc(probs, labels)
  np.testing.assert_allclose(1000 * aurc, g["aurc"], rtol=2e-5)
  eaurc = metrics.eaurc(probs, labels)
  np.testing.assert_allclose(1000 * eaurc, g["eaurc"], rtol=2e-5)


def test_brier_by_hand():
  probs = jnp.array([[[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]]], jnp.bfloat16)
  value = metrics.brier(probs, jnp.array([[0, 1]]))
  assert value.shape == (1, 2)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, [[0.14, 2.0]], atol=5e-3)


def test_calibration_error_by_hand():
  # Two bins: (0, 0.5] holds 0.5 and 0.3 with accuracy 0.5, (0.5, 1] holds the others
  # with accuracy 1.
  confidence = np.array([0.5, 0.3, 0.6, 1.0])
  correct = np.array([1, 0, 1, 1])
  value = metrics.calibration_error(confidence, correct, bins=2)
  np.testing.assert_allclose(value, 0.5 * 0.1 + 0.5 * 0.2, rtol=1e-6)


def test_calibration_bins_hold_their_upper_edge():
  # Were 0.5 in the upper bin, its gap of -0.5 would cancel against the 0.9 of the
  # other.
  value = metrics.calibration_error(np.array([0.5, 0.9]), np.array([1, 0]), bins=2)
  np.testing.assert_allclose(value, 0.5 * 0.5 + 0.5 * 0.9, rtol=1e-6)


@pytest.mark.parametrize(
  "confidence, correct, area, excess",
  [
    ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4, (1 / 2) / 4),
    ([0.6, 0.9, 0.7], [0, 1, 1], (1 / 3) / 3, 0),
    ([0.6, 0.9, 0.7], [1, 0, 1], (1 + 1 / 2 + 1 / 3) / 3, (1 + 1 / 2) / 3),
    ([0.5, 0.5], [0, 1], (1 + 1 / 2) / 2, 1 / 2),
    ([0.5, 0.5], [1, 0], (1 / 2) / 2, 0),
    ([0.5, 0.6], [0, 0], 1, 0),
    ([0.5, 0.6], [1, 1], 0, 0),
  ],
)
def test_risk_coverage_by_hand(confidence, correct, area, excess):
  confidence = np.array(confidence)
  correct = np.array(correct)
  found_area = metrics.risk_coverage_area(confidence, correct)
  np.testing.assert_allclose(found_area, area, rtol=1e-6)
  found_excess = metrics.excess_risk_coverage_area(confidence, correct)
  np.testing.assert_allclose(found_excess, excess, rtol=1e-6, atol=1e-7)


SIZE = 50_000


@pytest.fixture
def many(rng):
  """Confidences, two of them equal, and whether the guess is correct: f32[N] each."""
  confidence = np.append(rng.uniform(0.05, 1, SIZE - 2), [0.3, 0.3]).astype(np.float32)
  correct = (rng.uniform(size=SIZE) < confidence).astype(np.float32)
  return confidence, correct


def test_risk_coverage_of_many_examples_keeps_its_digits(many):
  confidence, correct = many
  wrong = 1 - correct[np.argsort(-confidence, kind="stable")].astype(np.float64)
  counts = np.arange(1, SIZE + 1)
  area = np.mean(np.cumsum(wrong) / counts)
  least = np.mean(np.cumsum(np.sort(wrong)) / counts)
  found_area = metrics.risk_coverage_area(confidence, correct)
  np.testing.assert_allclose(found_area, area, rtol=2e-6)
  found_excess = metrics.excess_risk_coverage_area(confidence, correct)
  np.testing.assert_allclose(found_excess, area - least, rtol=5e-6)


def test_calibration_error_of_many_examples_keeps_its_digits(many):
  confidence, correct = many
  edges = np.linspace(0, 1, 11, dtype=np.float32)
  inside = (confidence > edges[:-1, None]) & (confidence <= edges[1:, None])
  gaps = (confidence.astype(np.float64) - correct) * inside
  expected = np.abs(gaps.sum(axis=1)).sum() / SIZE
  found = metrics.calibration_error(confidence, correct)
  np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_a_gallery_that_is_ranked_by_hand():
  # Sorted by distance: wrong, right, ignored, right, wrong; the ignored one takes no
  # place. Then a query that finds nothing, one that nothing is right for, and one that
  # cannot find what has no distance.
  distance = np.array(
    [
      [0.5, 0.2, 0.1, 0.4, 0.3],
      [0.1, 0.2, 0.3, 0.4, 0.5],
      [0.1, 0.2, 0.3, 0.4, 0.5],
      [0.1, np.nan, 0.3, 0.4, 0.5],
    ]
  )
  right = np.zeros((4, 5), bool)
  right[0, [1, 3, 4]] = True
  right[1, 4] = True
  right[3, [1, 2]] = True
  ignored = np.zeros((4, 5), bool)
  ignored[0, 4] = True
  ignored[2, 0] = True
  found = rank_gallery(distance, right, ignored)
  np.testing.assert_array_equal(found.first, [1, 4, 2**31 - 1, 1])
  np.testing.assert_array_equal(found.answerable, [True, True, False, True])
  precision = [(1 / 2 + 2 / 3) / 2, 1 / 5, 0, (1 / 2) / 2]
  np.testing.assert_allclose(found.average_precision, precision, rtol=1e-6)
  # Those for which nothing is right do not count.
  for k, expected in ((1, 0), (2, 2 / 3), (5, 1)):
    np.testing.assert_allclose(metrics.rank_k(found, k), expected, rtol=1e-6)
  expected = (precision[0] + precision[1] + precision[3]) / 3
  np.testing.assert_allclose(metrics.mean_average_precision(found), expected, rtol=1e-6)


def test_of_equal_distances_the_earlier_image_ranks_first():
  right = np.eye(3, dtype=bool)
  found = rank_gallery(np.zeros((3, 3)), right)
  np.testing.assert_array_equal(found.first, [0, 1, 2])


def test_average_precision_is_scikit_learns(rng):
  from sklearn.metrics import average_precision_score

  distance = rng.normal(size=(8, 40))
  right = rng.uniform(size=(8, 40)) < 0.2
  right[:, 0] = True
  ignored = rng.uniform(size=(8, 40)) < 0.2
  ignored[:, 0] = False
  found = rank_gallery(distance, right, ignored)
  for query in range(8):
    counts = ~ignored[query]
    expected = average_precision_score(right[query][counts], -distance[query][counts])
    np.testing.assert_allclose(found.average_precision[query], expected, rtol=1e-5)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_gallery_is_ordered_as_by_the_distance_itself(rng, distance):
  query = rng.normal(size=(5, 6)).astype(np.float32)
  gallery = rng.normal(size=(30, 6)).astype(np.float32) * rng.uniform(1, 9, (30, 1))
  found = metrics.feature_distance(query, gallery, distance)
  if distance == "cosine":
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
  expected = np.linalg.norm(query[:, None] - gallery[None], axis=-1)
  np.testing.assert_array_equal(np.argsort(found), np.argsort(expected))
