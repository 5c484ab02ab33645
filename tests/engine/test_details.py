"""What is told of classifiers in full, and under noise."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import metrics
from jaxdistill.core.types import Outputs
from jaxdistill.engine import details, sharding
from jaxdistill.engine.evaluate import Scored, collect
from jaxdistill.engine.resident import put_resident
from tests.helpers import toy

NAN = float("nan")


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(1)


def kept_of(scores, label):
  """What is kept of the logits of some members, on the host."""
  mesh = sharding.make_mesh(1)
  logits = jnp.stack(list(scores.values()))
  alive = jnp.isfinite(logits).all(axis=(1, 2))
  outputs = Outputs(jnp.where(alive[:, None, None], logits, 0), alive, {})

  def score(*_):
    return Scored(outputs, scores)

  image = np.zeros((len(label), 1, 1, 3), np.uint8)
  split = put_resident(mesh, image, np.asarray(label, np.int32))
  step = details.make_detail_step(score, mesh)
  return jax.device_get(step({}, {}, split, np.arange(len(label), dtype=np.int32)))


def test_classes_and_pairs_are_counted_by_hand():
  predicted = np.array([0, 1, 1, 1, 2, 2, 0])
  label = np.array([0, 0, 0, 1, 1, 1, 1])
  batch = kept_of({"net": 4 * jax.nn.one_hot(predicted, 4)}, label)
  found = details.describe(batch.kept["net"], batch.label, 4)
  assert found.per_class == [pytest.approx(1 / 3), 0.25, None, None]
  assert found.confusions == [
    {"label": 0, "predicted": 1, "count": 2},
    {"label": 1, "predicted": 2, "count": 2},
    {"label": 1, "predicted": 0, "count": 1},
  ]
  sure = np.exp(4) / (np.exp(4) + 3)
  by_hand = [(1 - sure) ** 2 + 3 * ((1 - sure) / 3) ** 2] * 2
  others = (1 - sure) / 3
  by_hand += [sure**2 + (1 - others) ** 2 + 2 * others**2] * 5
  assert found.row["brier"] == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_bins_tell_the_calibration_error(rng):
  logits = jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
  label = rng.integers(0, 3, 50)
  batch = kept_of({"net": logits}, label)
  found = details.describe(batch.kept["net"], batch.label, 3)
  assert sum(row["count"] for row in found.reliability) == 50
  gaps = 0.0
  for row in found.reliability:
    if row["count"]:
      gaps += row["count"] / 50 * abs(row["confidence"] - row["accuracy"])
    else:
      assert row["confidence"] is row["accuracy"] is None
  assert found.row["ece"] == pytest.approx(gaps, rel=1e-5)
  expected = metrics.eaurc(jax.nn.softmax(logits), jnp.asarray(label))
  assert found.row["eaurc"] == pytest.approx(float(expected), rel=1e-5)


def test_nothing_is_told_of_classes_where_scores_are_not_finite():
  batch = kept_of({"net": jnp.full((3, 2), NAN)}, np.array([0, 1, 1]))
  found = details.describe(batch.kept["net"], batch.label, 2)
  assert found.per_class == [None, None]
  assert found.confusions == []
  assert [row["count"] for row in found.reliability] == [0] * details.BINS
  assert np.isnan(found.row["eaurc"])


def test_members_agree_as_far_as_their_classes_and_distributions_do():
  p = np.array([[0.5, 0.5], [0.9, 0.1]])
  q = np.array([[0.25, 0.75], [0.9, 0.1]])
  logits = jnp.asarray(np.log([p, q, np.full((2, 2), 0.5)]), jnp.float32)
  scores = {"a": logits[0], "b": logits[1], "c": logits[2] + NAN}
  batch = kept_of(scores, np.zeros(2))
  found = details.agreement(batch, ["a", "b", "c"])
  np.testing.assert_array_equal(
    found.same_class, [[1, 0.5, NAN], [0.5, 1, NAN], [NAN, NAN, NAN]]
  )
  kl = (p * np.log(p / q)).sum(axis=1).mean()
  reverse = (q * np.log(q / p)).sum(axis=1).mean()
  expected = [[0, kl, NAN], [reverse, 0, NAN], [NAN, NAN, NAN]]
  np.testing.assert_allclose(found.kl, expected, rtol=1e-5, atol=1e-7)


def test_an_ensemble_is_the_mean_of_its_members_probabilities(case):
  logits, _, _ = case
  specs = toy.cohort("same")
  outputs = Outputs(logits, jnp.array([True, True, False]), {})

  def score(*_):
    return Scored(outputs, {})

  names = [name for spec in specs for name in spec.members]
  ensembles = {"both": names[:2], "one lives": names[1:]}
  scores = details.with_ensembles(score, specs, ensembles)().scores
  probabilities = jax.nn.softmax(logits)
  np.testing.assert_allclose(
    np.exp(scores["both"]), probabilities[:2].mean(axis=0), rtol=1e-5
  )
  np.testing.assert_allclose(np.exp(scores["one lives"]), probabilities[1], rtol=1e-5)


# Noise.


@pytest.fixture
def noisy(rng, mesh):
  """(draw, deviation, batch size) -> the logits that noise gives, of every example."""
  image = rng.integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
  split = put_resident(mesh, image, rng.integers(0, 3, 10).astype(np.int32))

  def score(cohort, method_state, image):
    return Scored(None, {"net": image.mean(axis=(1, 2))})

  step = details.make_noise_step(score, mesh)
  # No member: the image is scored.
  state = types.SimpleNamespace(cohort={}, method={})

  def run(draw, deviation, batch_size):
    def measure(*arguments):
      return step(*arguments, np.float32(deviation), np.int32(draw))

    values, _ = collect(measure, state, split.parts(batch_size), mesh)
    return values["net"]["nll"]

  return run


def test_noise_does_not_depend_on_the_batches(noisy):
  np.testing.assert_array_equal(noisy(0, 0.1, 10), noisy(0, 0.1, 3))


def test_noise_differs_between_draws_and_vanishes_with_its_deviation(noisy):
  clean = noisy(0, 0.0, 5)
  np.testing.assert_array_equal(clean, noisy(7, 0.0, 5))
  first = noisy(0, 0.1, 5) - clean
  second = noisy(1, 0.1, 5) - clean
  assert np.unique(np.concatenate([first, second])).size == 20


def test_noise_has_the_deviation_that_was_asked_for(mesh):
  seen = []

  def score(cohort, method_state, image):
    seen.append(np.asarray(image))
    return Scored(None, {"net": image.mean(axis=(1, 2))})

  image = np.full((20, 16, 16, 3), 51, np.uint8)
  split = put_resident(mesh, image, np.zeros(20, np.int32))
  step = details.make_noise_step(score, mesh).__wrapped__
  rows = jnp.arange(20, dtype=jnp.int32)
  step({}, {}, split, rows, np.float32(0.1), np.int32(3))
  noise = seen[0] - 0.2
  assert abs(noise.mean()) < 0.003
  assert noise.std() == pytest.approx(0.1, rel=0.02)
  # Examples, pixels and channels have noise of their own.
  assert np.unique(noise.round(6)).size > 0.9 * noise.size
