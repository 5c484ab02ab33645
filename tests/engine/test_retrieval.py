"""Members that are measured by what they find."""

import numpy as np
import pytest

from jaxdistill.data import JUNK, Ranking
from jaxdistill.engine import retrieval
from jaxdistill.engine.retrieval import RATES

# Two queries, then the gallery: the same by the same camera, junk, another person, the
# same by another camera; and the other person by another camera.
IDENTITY = np.array([1, 2, 1, JUNK, 2, 1, 2], np.int32)
CAMERA = np.array([1, 1, 1, 2, 2, 2, 3], np.int32)
IS_QUERY = np.arange(7) < 2
# On a circle. The first query finds: itself, junk, the other person, and itself by
# another camera. The second: the other person, then itself by either camera.
ANGLE = np.array([0.0, 2.0, 0.0, 0.1, 0.2, 0.3, -1.5])


def searched(features, distance="cosine"):
  ranking = Ranking(IDENTITY, CAMERA, IS_QUERY, distance)
  return retrieval.retrieval(ranking).reduce(features)


@pytest.fixture
def features():
  return np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=1).astype(np.float32)


@pytest.mark.parametrize("queries", [1, 128])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_hand_worked_case(features, distance, queries, monkeypatch):
  """The same, however many queries are searched at a time."""
  monkeypatch.setattr(retrieval, "_QUERIES", queries)
  found = searched(features, distance)
  assert list(found) == [rate.name for rate in RATES]
  # Neither has a right one first. Precisions: 1/2; and 1/2, 2/4.
  precision = [1 / 2, (1 / 2 + 2 / 4) / 2]
  expected = {"rank1": 0, "rank5": 1, "rank10": 1, "map": np.mean(precision)}
  assert found == pytest.approx(expected)


def test_only_the_euclidean_distance_minds_the_length(features):
  features[4] *= 50
  assert searched(features, "cosine")["rank5"] == 1
  far = searched(features, "euclidean")
  # What stood before it has moved up; it stands last for the second query.
  assert far["rank1"] == 0.5
  assert far["map"] == pytest.approx((1 + (1 / 3 + 2 / 4) / 2) / 2)


def test_of_a_member_that_is_not_finite_nothing_is_found(features):
  assert set(searched(np.full_like(features, np.nan)).values()) == {0.0}
