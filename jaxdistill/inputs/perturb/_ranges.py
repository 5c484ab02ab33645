"""Checks of strengths that are ranges."""

import math

from jaxdistill import errors


def require_range(name: str, value, largest: float = math.inf) -> None:
  bound = f" up to {largest}" if largest < math.inf else ""
  errors.require(
    len(value) == 2 and 0 < value[0] <= value[1] <= largest and value[1] < math.inf,
    f"{name} must be (low, high) with 0 < low <= high{bound}, got {value}",
  )
