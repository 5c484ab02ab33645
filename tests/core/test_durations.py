"""Durations in steps, epochs and per cent."""

import pytest

from jaxdistill.core.durations import Clock
from jaxdistill.errors import ConfigError

CLOCK = Clock(steps_per_epoch=40, total_steps=1000)


@pytest.mark.parametrize(
  "text, steps",
  [
    ("500 steps", 500),
    ("1 step", 1),
    (7, 7),
    ("2 epochs", 80),
    ("0.1 epochs", 4),
    ("30%", 300),
    ("0 steps", 0),
    ("0.001%", 1),
  ],
)
def test_durations(text, steps):
  assert CLOCK.steps("eval_every", text) == steps


@pytest.mark.parametrize("text", ["soon", "-3 steps", "2 weeks", "epochs", ""])
def test_unreadable_durations_are_refused(text):
  message = "eval_every is .*: write '500 steps', '2 epochs' or '30%'"
  with pytest.raises(ConfigError, match=message):
    CLOCK.steps("eval_every", text)


@pytest.mark.parametrize("total, epochs", [(80, 2), (81, 3), (1, 1)])
def test_an_epoch_that_has_begun_counts(total, epochs):
  assert Clock(steps_per_epoch=40, total_steps=total).epochs == epochs
