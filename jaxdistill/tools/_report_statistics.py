"""The statistics of a report: a mean over seeds, and a difference between two rows."""

from collections.abc import Mapping, Sequence
import math
import statistics
from typing import NamedTuple

import numpy as np
import scipy.stats

LEVEL = 0.95
"""Confidence level of every interval."""

RESAMPLES = 10_000
"""Samples that an interval is made from."""

MIN_SEEDS = 5
"""Pairs below which nothing is said to be better or worse."""

BETTER = "better"
WORSE = "worse"
UNDECIDED = "not told apart"

# The same study has the same intervals.
_SEED = 0


class Spread(NamedTuple):
  """Values of several seeds in short.

  Attributes:
    mean: of them; NaN if there are none.
    sd: their sample standard deviation; NaN for fewer than two.
    n: how many there are.
  """

  mean: float
  sd: float
  n: int


class Difference(NamedTuple):
  """How a row differs from another one, seed by seed.

  Attributes:
    mean: of the differences; NaN if no seed is in both.
    low: lower end of the interval; NaN for fewer than two pairs.
    high: upper end.
    n: seeds that both have.
    ahead: how many of them have a difference above zero.
    verdict: `BETTER`, `WORSE` or `UNDECIDED`.
  """

  mean: float
  low: float
  high: float
  n: int
  ahead: int
  verdict: str


def spread(values: Sequence[float]) -> Spread:
  """Returns mean and sample standard deviation of the values of several seeds."""
  mean, sd = math.nan, math.nan
  if values:
    mean = statistics.fmean(values)
  if len(values) > 1:
    # Unlike that of the standard library it is NaN where a value is.
    sd = float(np.std(values, ddof=1))
  return Spread(mean=mean, sd=sd, n=len(values))


def paired_difference(
  ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Difference:
  """Returns how a row differs from another one under the seeds that both have.

  The interval is that of the percentile bootstrap over seeds. Unlike BCa it is defined
  where all differences are equal, and never leaves their range; for few seeds it is
  narrower than its level says.

  Args:
    ours: seed -> value, of which more is better.
    theirs: the same of the row that is compared with.
  """
  differences = []
  for seed in sorted(ours.keys() & theirs.keys()):
    differences.append(ours[seed] - theirs[seed])
  low, high = interval(differences)
  return Difference(
    mean=spread(differences).mean,
    low=low,
    high=high,
    n=len(differences),
    ahead=sum(difference > 0 for difference in differences),
    verdict=_verdict(low, high, len(differences)),
  )


def interval(values: Sequence[float]) -> tuple[float, float]:
  """Returns the percentile bootstrap interval of a mean; NaN for fewer than two."""
  if len(values) < 2:
    return math.nan, math.nan
  found = scipy.stats.bootstrap(
    (np.asarray(values, np.float64),),
    np.mean,
    n_resamples=RESAMPLES,
    confidence_level=LEVEL,
    method="percentile",
    rng=np.random.default_rng(_SEED),
  )
  low, high = found.confidence_interval
  return float(low), float(high)


def _verdict(low: float, high: float, n: int) -> str:
  """Returns what an interval says; NaN excludes nothing."""
  if n < MIN_SEEDS:
    return UNDECIDED
  if low > 0:
    return BETTER
  if high < 0:
    return WORSE
  return UNDECIDED
