"""From bytes to the numbers that a network sees, on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Channels = Sequence[float] | np.ndarray | jax.Array
"""A statistic of each channel, in [0, 1].

Three numbers, or f32[M, 1, 1, 1, 3] where members differ.
"""


class Normalization(NamedTuple):
  """What a network's images are normalised with.

  Attributes:
    mean: of each of the three channels, in [0, 1].
    std: standard deviation of each, in [0, 1].
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]


def to_float(image: jax.Array) -> jax.Array:
  """Scales uint8 images to float32 in [0, 1]; float32 images stay as they are.

  Args:
    image: uint8 or f32 [..., H, W, 3].

  Returns:
    f32[..., H, W, 3].
  """
  if image.dtype == jnp.uint8:
    return image.astype(jnp.float32) / 255
  return image


def normalize(image: jax.Array, mean: Channels, std: Channels) -> jax.Array:
  """Subtracts the mean of each channel and divides by its standard deviation.

  Args:
    image: f32[..., 3] in [0, 1]; f32[M or 1, B, H, W, 3] where members differ.
    mean: of each of the three channels, in [0, 1].
    std: standard deviation of each, in [0, 1].

  Returns:
    f32[..., 3]; f32[M, B, H, W, 3] where members differ.
  """
  centred = image - _along_channels(mean, image.ndim)
  return centred / _along_channels(std, image.ndim)


def _along_channels(statistic: Channels, ndim: int) -> jax.Array:
  """Returns a statistic with as many axes as the images have."""
  array = jnp.asarray(statistic)
  if array.ndim > 1:
    return array
  return jnp.reshape(array, (1,) * (ndim - 1) + (3,))
