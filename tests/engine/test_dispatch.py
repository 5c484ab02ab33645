"""How many steps a dispatch may run."""

import pytest

from jaxdistill.engine.dispatch import common_period


@pytest.mark.parametrize(
  "periods, limit, expected",
  [
    ((390, 39, 78000), 100, 39),
    ((390, 390, 780), 100, 78),
    ((7, 5), 100, 1),
    ((390, 390, 0), 1, 1),
    ((30, 60, 0), 20, 15),
  ],
)
def test_common_period(periods, limit, expected):
  assert common_period(periods, limit) == expected
