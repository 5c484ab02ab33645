"""Which examples are held out, where a data set has no test split of its own."""

import numpy as np

from jaxdistill.errors import require

_MAX_SEED = 2**32 - 1


def draw_test_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Draws the fraction of every class.

  Args:
    labels: i32[N].
    fraction: of each class, rounded, but at least one example is drawn and one is left.
    seed: of the draw; the same seed gives the same split everywhere.

  Returns:
    bool[N], True for what is drawn.

  Raises:
    ConfigError: for a fraction or a seed out of range.
  """
  require(0 < fraction < 1, f"test_fraction must lie between 0 and 1, got {fraction}")
  require(0 <= seed <= _MAX_SEED, f"seed must lie in 0..{_MAX_SEED}, got {seed}")
  # numpy keeps the stream of RandomState frozen for ever; that of a Generator may
  # change between versions.
  random = np.random.RandomState(seed)
  drawn = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    rows = random.permutation(np.flatnonzero(labels == label))
    # At least one example of each class in either split.
    count = np.clip(round(len(rows) * fraction), 1, len(rows) - 1)
    drawn[rows[:count]] = True
  return drawn
