"""Checks of strengths that are ranges."""

from collections.abc import Sequence
import math

from jaxdistill import errors


def require_range(name: str, value: Sequence[float], largest: float = math.inf) -> None:
  """Checks that a strength is a range of finite numbers above zero.

  Args:
    name: of the strength.
    value: (low, high).
    largest: what high may be at most.

  Raises:
    ConfigError: if it is not.
  """
  bound = ""
  if largest < math.inf:
    bound = f" up to {largest}"
  errors.require(
    _is_range(value, largest),
    f"{name} must be (low, high) with 0 < low <= high{bound}, got {value}",
  )


def _is_range(value: Sequence[float], largest: float) -> bool:
  if len(value) != 2:
    return False
  low, high = value
  return 0 < low <= high <= largest and high < math.inf
