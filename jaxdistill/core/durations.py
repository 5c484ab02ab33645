"""Durations in steps, epochs or per cent of a run, all through one function."""

import re
from typing import NamedTuple

from jaxdistill.errors import ConfigError

# As many as the counter of steps can count.
MOST_STEPS = 2**31 - 1

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|%)\s*")


class Clock(NamedTuple):
  """The length of an epoch and of the whole run.

  Attributes:
    steps_per_epoch: steps of one epoch.
    total_steps: steps of the run.
  """

  steps_per_epoch: int
  total_steps: int

  @property
  def epochs(self) -> int:
    """Epochs begun in the run."""
    return -(-self.total_steps // self.steps_per_epoch)

  def steps(self, name: str, value: int | str) -> int:
    """Converts a duration to steps.

    Args:
      name: config key, for the error.
      value: "500 steps", "2 epochs", "30%" of the run, or a bare number of steps.

    Returns:
      Number of steps, rounded, at least 1 unless the duration is 0.

    Raises:
      ConfigError: if it cannot be read.
    """
    text = f"{value} steps" if isinstance(value, int) else str(value)
    match = _DURATION.fullmatch(text)
    if not match:
      raise ConfigError(f"{name} is {value!r}: write '500 steps', '2 epochs' or '30%'")
    number = float(match[1])
    if not number:
      return 0
    if match[2] == "%":
      steps = number * self.total_steps / 100
    elif match[2].startswith("epoch"):
      steps = number * self.steps_per_epoch
    else:
      steps = number
    if steps > MOST_STEPS:
      raise ConfigError(f"{name} is {value!r}: the most are {MOST_STEPS} steps")
    return max(1, round(steps))
