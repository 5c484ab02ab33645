"""A network of ours and its reference."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn


class Case(NamedTuple):
  """A network and its reference, with the same parameters under the same names.

  Attributes:
    ours: () -> a network of this package.
    reference: () -> a torch module.
    side: of the square images, in pixels.
  """

  ours: Callable[[], nn.Module]
  reference: Callable[[], Any]
  side: int
