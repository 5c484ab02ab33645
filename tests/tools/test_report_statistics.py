"""The statistics of a report, against numbers worked out by hand and by scipy."""

import math

import numpy as np
import pytest
import scipy.stats

from jaxdistill.tools import _report_statistics as statistics


def seeded(*values):
  return dict(enumerate(values))


def test_mean_and_sample_deviation():
  found = statistics.spread([1.0, 2.0, 6.0])
  # Deviations -2, -1 and 3: their squares add up to 14, and 14 / 2 = 7.
  assert found == (3.0, pytest.approx(math.sqrt(7)), 3)
  single = statistics.spread([0.5])
  assert single.mean == 0.5 and math.isnan(single.sd) and single.n == 1
  assert math.isnan(statistics.spread([]).mean)


def test_differences_are_paired_by_seed_and_only_common_seeds_count():
  ours = {0: 0.5, 1: 0.8, 2: 0.7, 9: 0.0}
  theirs = {2: 0.4, 1: 0.6, 0: 0.4, 7: 1.0}
  found = statistics.paired_difference(ours, theirs)
  # 0.1, 0.2 and 0.3.
  assert found.mean == pytest.approx(0.2)
  assert (found.n, found.ahead) == (3, 3)
  # Of the 27 resamples of three, each extreme is one: more than 2.5 per cent.
  assert found.low == pytest.approx(0.1)
  assert found.high == pytest.approx(0.3)
  # Three pairs are too few.
  assert found.verdict == statistics.UNDECIDED


def test_an_interval_agrees_with_the_normal_one_for_many_seeds():
  values = np.random.default_rng(1).normal(0.3, 1.0, 400)
  low, high = statistics.interval(values)
  normal = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
  assert (low, high) == pytest.approx(normal, abs=0.01)
  assert (low, high) == statistics.interval(values)


@pytest.mark.parametrize(
  "differences, verdict",
  [
    ((0.1, 0.2, 0.3, 0.2, 0.1), statistics.BETTER),
    ((-0.1, -0.2, -0.3, -0.2, -0.1), statistics.WORSE),
    ((-0.1, 0.2, 0.3, -0.2, 0.1), statistics.UNDECIDED),
    # Four seeds are too few, whatever they say.
    ((0.1, 0.2, 0.3, 0.2), statistics.UNDECIDED),
    ((0.1,), statistics.UNDECIDED),
    ((), statistics.UNDECIDED),
    # No difference at all.
    ((0.0, 0.0, 0.0, 0.0, 0.0), statistics.UNDECIDED),
    # The same one under every seed, which has no spread.
    ((0.1, 0.1, 0.1, 0.1, 0.1), statistics.BETTER),
  ],
)
def test_a_verdict_takes_an_interval_without_zero_and_five_seeds(differences, verdict):
  found = statistics.paired_difference(
    seeded(*differences), seeded(*[0.0] * len(differences))
  )
  assert found.verdict == verdict


def test_rows_without_a_common_seed_have_no_difference():
  found = statistics.paired_difference({0: 0.5}, {1: 0.5})
  assert found.n == 0 and math.isnan(found.mean) and math.isnan(found.low)
