"""Who wins, and who learns from whom: by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import targets


@pytest.mark.parametrize(
  "loss, expected",
  [
    ([3.0, 1.0, 2.0], 1),
    ([1.0, 1.0, 2.0], 0),
    ([np.nan, 5.0, 6.0], 1),
    ([np.inf, np.nan, 6.0], 2),
    ([-np.inf, 2.0, 3.0], 1),
    ([np.nan, np.inf, np.nan], -1),
  ],
)
def test_winner(loss, expected):
  assert targets.winner(jnp.array(loss)) == expected


@pytest.mark.parametrize(
  "rule, tie, loss, expected",
  [
    ("winner_only", "strict", [3.0, 1.0, 2.0], [[0, 1, 0], [0, 0, 0], [0, 1, 0]]),
    ("all_better", "strict", [3.0, 1.0, 2.0], [[0, 0.5, 0.5], [0, 0, 0], [0, 1, 0]]),
    ("winner_only", "strict", [1.0, 1.0, 2.0], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
    ("winner_only", "first_only", [1.0, 1.0, 2.0], [[0, 0, 0], [1, 0, 0], [1, 0, 0]]),
    ("all_better", "strict", [1.0, 1.0, 2.0], [[0, 0, 0], [0, 0, 0], [0.5, 0.5, 0]]),
    ("winner_only", "strict", [np.nan, 1.0, 2.0], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
    ("all_better", "strict", [np.inf, 1.0, 2.0], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
    ("winner_only", "first_only", [np.nan] * 3, np.zeros((3, 3))),
  ],
)
def test_teaching_weights(rule, tie, loss, expected):
  weights = targets.teaching_weights(jnp.array(loss), rule, tie)
  np.testing.assert_allclose(weights, np.array(expected, np.float32))


@pytest.mark.parametrize("unknown", [{"rule": "loser"}, {"tie": "coin"}])
def test_teaching_weights_refuse_unknown_rules(unknown):
  (name, value), *_ = unknown.items()
  with pytest.raises(ValueError, match=f"{name} must be .* got '{value}'"):
    targets.teaching_weights(jnp.ones(3), **unknown)


def test_two_members_all_better_is_winner_only(rng):
  for loss in rng.normal(size=(20, 2)).astype(np.float32):
    better = targets.teaching_weights(loss, "all_better")
    winners = targets.teaching_weights(loss)
    np.testing.assert_array_equal(better, winners)
