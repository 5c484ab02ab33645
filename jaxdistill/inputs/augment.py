"""Classic augmentation and normalisation, on the device, for every member's images."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import errors
from jaxdistill.core.types import Augment

# More than the side of any image that is trained on.
_MOST_PIXELS = 4096

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


def pad_crop_flip(
  *,
  padding: int = 4,
  flip: bool = True,
  mode: str = "constant",
  cutout: int = 0,
  fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Augment:
  """Returns the standard augmentation of small images, with one draw per image.

  It pads, crops at random to the old size, flips half of the images and may blot out a
  square.

  Args:
    padding: pixels added on each side.
    flip: whether half the images are flipped left to right.
    mode: "constant" pads with black, "reflect" with the mirrored image.
    cutout: side in pixels of a square that is blotted out, around a position drawn from
      the whole image; what lies outside the image does not count. 0 blots out nothing.
    fill: colour of the square in [0, 1], usually the mean of the data set.

  Returns:
    augment(key, image uint8 or f32 [B, H, W, 3]) -> f32[B, H, W, 3] in [0, 1].

  Raises:
    ConfigError: for a negative or fractional padding or square, or an unknown mode.

  Reference:
    K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition. CVPR
      2016, section 4.2.
    T. DeVries, G. W. Taylor: Improved Regularization of Convolutional Neural Networks
      with Cutout. arXiv:1708.04552, 2017, for the square.
  """
  errors.require(
    isinstance(padding, int) and 0 <= padding <= _MOST_PIXELS,
    f"augment.padding must be an integer of at least 0 and at most {_MOST_PIXELS}, "
    f"got {padding}",
  )
  errors.require(
    isinstance(cutout, int) and 0 <= cutout <= _MOST_PIXELS,
    f"augment.cutout must be an integer of at least 0 and at most {_MOST_PIXELS}, "
    f"got {cutout}",
  )
  errors.require_choice(**{"augment.mode": (mode, ("constant", "reflect"))})

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    rows, columns = _draw_window(key, image.shape, padding, flip)
    borders = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, borders, mode=mode)
    # Cropped in bytes, where images come in bytes: a quarter of the memory to move.
    cropped = to_float(jax.vmap(_select)(padded, rows, columns))
    if not cutout:
      return cropped
    square = _draw_square(key, image.shape, cutout)
    colour = jnp.reshape(jnp.asarray(fill), (1, 1, 1, 3))
    return jnp.where(square[..., None], colour, cropped)

  return augment


def _draw_window(
  key: jax.Array, shape: Sequence[int], padding: int, flip: bool
) -> tuple[jax.Array, jax.Array]:
  """Draws which rows and columns of its padded image every image becomes.

  Args:
    key: what is drawn from.
    shape: (B, H, W, 3) of the images.
    padding: pixels on each side of the padded image.
    flip: whether the columns of half the images run backwards.

  Returns:
    i32[B, H] and i32[B, W].
  """
  row_key, column_key, flip_key = jax.random.split(key, 3)
  batch, height, width, _ = shape
  top = jax.random.randint(row_key, (batch, 1), 0, 2 * padding + 1)
  left = jax.random.randint(column_key, (batch, 1), 0, 2 * padding + 1)
  rows = jnp.arange(height)[None]
  columns = jnp.arange(width)[None]
  if flip:
    flipped = jax.random.bernoulli(flip_key, 0.5, (batch, 1))
    columns = jnp.where(flipped, columns[:, ::-1], columns)
  return rows + top, columns + left


def _select(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Returns the given rows and columns of an image [H, W, 3]."""
  # Whole rows first, then columns, flipped by their index: quicker on a CPU than a
  # `dynamic_slice` followed by a flip.
  return image[rows][:, columns]


def _draw_square(key: jax.Array, shape: Sequence[int], side: int) -> jax.Array:
  """Draws a square in every image of shape (B, H, W, 3): bool[B, H, W], true inside."""
  batch, height, width, _ = shape
  rows = _draw_interval(jax.random.fold_in(key, 0), batch, height, side)
  columns = _draw_interval(jax.random.fold_in(key, 1), batch, width, side)
  return rows[:, :, None] & columns[:, None, :]


def _draw_interval(key: jax.Array, batch: int, size: int, length: int) -> jax.Array:
  """Draws an interval around a position of every axis: bool[B, size], true inside."""
  centre = jax.random.randint(key, (batch, 1), 0, size)
  start = centre - length // 2
  position = jnp.arange(size)[None]
  return (position >= start) & (position < start + length)
