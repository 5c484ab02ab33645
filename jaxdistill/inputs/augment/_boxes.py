"""Random boxes in images, as random crops and random erasing draw them."""

from collections.abc import Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

# As torchvision and timm do.
_ATTEMPTS = 10


class Sides(NamedTuple):
  """The sides of one box in each image.

  Attributes:
    sides: i32[B, 2] height and width.
    found: bool[B] whether any attempt gave a box that fits; its sides are meaningless
      otherwise.
  """

  sides: jax.Array
  found: jax.Array


def draw_sides(
  key: jax.Array,
  shape: Sequence[int],
  *,
  area: tuple[float, float],
  ratio: tuple[float, float],
  smaller: bool = False,
) -> Sides:
  """Draws the sides of a box for every image: the first of ten attempts that fits.

  Args:
    key: what is drawn from.
    shape: (B, H, W, 3) of the images.
    area: range of the box's fraction of the area, drawn uniformly.
    ratio: range of its width divided by its height, drawn log-uniformly.
    smaller: whether both sides must be smaller than the image's, not only no larger.
  """
  batch, height, width, _ = shape
  area_key, ratio_key = jax.random.split(key)
  attempts = (batch, _ATTEMPTS)
  fraction = jax.random.uniform(area_key, attempts, minval=area[0], maxval=area[1])
  log_ratio = jax.random.uniform(
    ratio_key, attempts, minval=math.log(ratio[0]), maxval=math.log(ratio[1])
  )

  # One side is longer by the root of the ratio, the other one shorter.
  side = jnp.sqrt(fraction * (height * width))
  stretch = jnp.exp(log_ratio / 2)
  sides = jnp.stack([side / stretch, side * stretch], axis=-1)
  sides = jnp.round(sides).astype(jnp.int32)

  largest = jnp.array([[[height, width]]]) - int(smaller)
  fits = ((sides > 0) & (sides <= largest)).all(axis=-1)
  first = jnp.argmax(fits, axis=1)
  chosen = jnp.take_along_axis(sides, first[:, None, None], axis=1)[:, 0]
  return Sides(sides=chosen, found=fits.any(axis=1))


def draw_start(key: jax.Array, free: jax.Array) -> jax.Array:
  """Draws where boxes begin.

  Args:
    key: what is drawn from.
    free: i32[B, 2] rows and columns that are left beside each box.

  Returns:
    i32[B, 2] first row and column, each from 0 to what is left.
  """
  return jax.random.randint(key, free.shape, 0, free + 1)


def inside(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
  """Marks an interval of an axis: bool[B, size], true inside.

  Args:
    start: i32[B] first position.
    length: i32[B], or one number for all.
    size: length of the axis.
  """
  first = start[:, None]
  end = (start + length)[:, None]
  position = jnp.arange(size)[None]
  return (position >= first) & (position < end)
