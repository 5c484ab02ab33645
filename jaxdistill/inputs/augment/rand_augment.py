"""RandAugment: operations drawn for every image, of one strength.

Pixels are integers from 0 to 255 in here, as in Pillow, whose operations these are. A
layer runs three families of operations on the whole batch, and every image keeps the
result of the operation that it has drawn: one warp, one blend and one table serve all
fifteen.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxdistill import errors
from jaxdistill.core.types import Augment
from jaxdistill.inputs.normalize import to_float

OPERATIONS = (
  # What moves pixels.
  "rotate",
  "shear_x",
  "shear_y",
  "translate_x",
  "translate_y",
  # What blends the image with another one.
  "brightness",
  "contrast",
  "color",
  "sharpness",
  # What changes each number by itself.
  "auto_contrast",
  "equalize",
  "invert",
  "posterize",
  "solarize",
  "solarize_add",
)
"""Those of timm's list "increasing", by family."""

_NOTHING = -1

# The largest magnitude, and what the operations do there.
_LARGEST = 10.0
_DEGREES = 30.0
_SHEAR = 0.3
_TRANSLATION = 0.45
_ENHANCEMENT = 0.9
_POSTERIZED_BITS = 4
_SOLARIZED = 256
_ADDED = 110

# Below it, solarize_add makes numbers larger.
_DARK = 128


class Drawn(NamedTuple):
  """What was drawn for every image.

  Attributes:
    op: i32[B] position in `OPERATIONS`, -1 for none.
    strength: f32[B] magnitude as a fraction of the largest.
    sign: f32[B] 1 or -1, for operations that go either way.
  """

  op: jax.Array
  strength: jax.Array
  sign: jax.Array

  def has(self, *names: str) -> jax.Array:
    """Returns which images drew one of these: bool[B, 1, 1, 1]."""
    found = jnp.zeros(self.op.shape, bool)
    for name in names:
      found |= self.op == OPERATIONS.index(name)
    return found[:, None, None, None]


def rand_augment(
  *,
  mean: tuple[float, float, float],
  magnitude: float = 9.0,
  magnitude_std: float = 0.5,
  layers: int = 2,
  probability: float = 0.5,
) -> Augment:
  """Returns RandAugment as DeiT has it: timm's "rand-m9-mstd0.5-inc1".

  Every image draws an operation for each layer, with replacement, and its own
  magnitude.

  Args:
    mean: of the data set; what is moved into the image has this colour.
    magnitude: mean of the magnitude, in 0 to 10.
    magnitude_std: its standard deviation, before it is cut to 0 to 10.
    layers: operations that each image draws.
    probability: that an operation is applied.

  Raises:
    ConfigError: for values out of range.

  Reference:
    E. D. Cubuk, B. Zoph, J. Shlens, Q. V. Le: RandAugment. NeurIPS 2020.
    H. Touvron et al.: Training data-efficient image transformers. ICML 2021, table 9.
  Differs from DeiT's code: what moves pixels interpolates linearly, not cubically, and
    `posterize` keeps at least one bit, where magnitude 10 made an image black.
  """
  errors.require(
    0 <= magnitude <= _LARGEST, f"magnitude must lie in 0..10, got {magnitude}"
  )
  errors.require_not_negative(magnitude_std=magnitude_std)
  errors.require(
    isinstance(layers, int) and layers > 0,
    f"layers must be an integer above 0, got {layers}",
  )
  errors.require_probability(probability=probability)

  def draw(key: jax.Array, batch: int) -> Drawn:
    op_key, applied_key, strength_key, sign_key = jax.random.split(key, 4)
    op = jax.random.randint(op_key, (batch,), 0, len(OPERATIONS))
    applied = jax.random.bernoulli(applied_key, probability, (batch,))
    noise = magnitude_std * jax.random.normal(strength_key, (batch,))
    strength = jnp.clip(magnitude + noise, 0, _LARGEST) / _LARGEST
    sign = jax.random.rademacher(sign_key, (batch,), jnp.float32)
    return Drawn(op=jnp.where(applied, op, _NOTHING), strength=strength, sign=sign)

  def layer(levels: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
    return apply(draw(key, len(levels)), levels, mean), None

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    levels = jnp.round(255 * to_float(image))
    levels, _ = jax.lax.scan(layer, levels, jax.random.split(key, layers))
    return levels / 255

  return augment


def apply(
  drawn: Drawn, levels: jax.Array, mean: tuple[float, float, float]
) -> jax.Array:
  """Applies to every image the operation that it has drawn.

  Args:
    drawn: the operations.
    levels: f32[B, H, W, 3] integers from 0 to 255.
    mean: colour in [0, 1] of what is moved into the image.

  Returns:
    f32[B, H, W, 3] integers from 0 to 255.
  """
  levels = _move(drawn, levels, mean)
  levels = _blend(drawn, levels)
  return _look_up(drawn, levels)


# What moves pixels.


def _move(
  drawn: Drawn, levels: jax.Array, mean: tuple[float, float, float]
) -> jax.Array:
  """Rotates, shears or translates the images that drew that."""
  _, height, width, _ = levels.shape
  moves = drawn.has("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

  def amount(name: str, largest: float) -> jax.Array:
    chosen = drawn.op == OPERATIONS.index(name)
    moved = jnp.where(chosen, drawn.sign * drawn.strength * largest, 0)
    return moved[:, None, None]

  # Where each output pixel comes from, both as distances from the corner; a pixel is
  # half a pixel from its edge. Only rotation is about the middle.
  rows = (jnp.arange(height) + 0.5)[None, :, None]
  columns = (jnp.arange(width) + 0.5)[None, None, :]
  angle = amount("rotate", math.radians(_DEGREES))
  down = rows - height / 2
  right = columns - width / 2
  turned_rows = jnp.sin(angle) * right + jnp.cos(angle) * down + height / 2
  turned_columns = jnp.cos(angle) * right - jnp.sin(angle) * down + width / 2
  from_rows = (
    turned_rows
    + amount("shear_y", _SHEAR) * columns
    + amount("translate_y", _TRANSLATION) * height
  )
  from_columns = (
    turned_columns
    + amount("shear_x", _SHEAR) * rows
    + amount("translate_x", _TRANSLATION) * width
  )

  is_inside = (from_rows >= 0) & (from_rows < height)
  is_inside &= (from_columns >= 0) & (from_columns < width)
  warped = _down(_sample(levels, from_rows - 0.5, from_columns - 0.5))
  fill = jnp.round(255 * jnp.asarray(mean, jnp.float32))
  filled = jnp.where(is_inside[..., None], warped, jnp.reshape(fill, (1, 1, 1, 3)))
  return jnp.where(moves, filled, levels)


def _sample(levels: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Samples every image at given pixels, bilinearly."""

  def sample_plane(plane: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return map_coordinates(plane, [rows, columns], order=1, mode="nearest")

  sample_image = jax.vmap(sample_plane, in_axes=(-1, None, None), out_axes=-1)
  return jax.vmap(sample_image)(levels, rows, columns)


# What blends the image with another one.


def _blend(drawn: Drawn, levels: jax.Array) -> jax.Array:
  """Enhances or weakens brightness, contrast, colour or sharpness."""
  gray = _gray(levels)
  mean_gray = jnp.floor(gray.mean(axis=(1, 2), keepdims=True) + 0.5)
  other = jnp.where(drawn.has("contrast"), mean_gray, 0)
  other = jnp.where(drawn.has("color"), gray, other)
  other = jnp.where(drawn.has("sharpness"), _smoothed(levels), other)
  factor = jnp.maximum(1 + drawn.sign * drawn.strength * _ENHANCEMENT, 0.1)
  blended = other + factor[:, None, None, None] * (levels - other)
  blends = drawn.has("brightness", "contrast", "color", "sharpness")
  return jnp.where(blends, _down(jnp.clip(blended, 0, 255)), levels)


def _gray(levels: jax.Array) -> jax.Array:
  """Returns the gray of every pixel, rounded as Pillow does: f32[B, H, W, 1]."""
  red, green, blue = jnp.split(levels.astype(jnp.int32), 3, axis=-1)
  gray = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
  return gray.astype(jnp.float32)


def _smoothed(levels: jax.Array) -> jax.Array:
  """Returns the images after Pillow's filter SMOOTH; pixels at the border stay."""
  height, width = levels.shape[1:3]
  total = 4 * levels[:, 1:-1, 1:-1]
  for row in range(3):
    for column in range(3):
      total += levels[:, row : row + height - 2, column : column + width - 2]
  return levels.at[:, 1:-1, 1:-1].set(jnp.floor(total / 13 + 0.5))


# What changes each number by itself.


def _look_up(drawn: Drawn, levels: jax.Array) -> jax.Array:
  """Replaces every number by that of a table, one for each image and channel."""
  index = levels.astype(jnp.int32)
  table = _tables(drawn, index)

  def replace(plane: jax.Array, table: jax.Array) -> jax.Array:
    return table[plane]

  of_image = jax.vmap(replace, in_axes=(-1, 0), out_axes=-1)
  return jax.vmap(of_image)(index, table)


def _tables(drawn: Drawn, index: jax.Array) -> jax.Array:
  """Returns what becomes of 0 to 255: f32[B, 3, 256].

  Args:
    drawn: the operations.
    index: i32[B, H, W, 3] the images.
  """
  number = jnp.arange(256)[None, None]
  strength = drawn.strength[:, None, None]
  inverted = 255 - number

  # Whole steps of the strengths, of which the weakest changes nothing.
  dropped = jnp.floor(strength * _POSTERIZED_BITS)
  kept_bits = jnp.maximum(_POSTERIZED_BITS - dropped, 1)
  step = jnp.exp2(8 - kept_bits).astype(jnp.int32)
  threshold = _SOLARIZED - jnp.floor(strength * _SOLARIZED)
  added = jnp.minimum(number + jnp.floor(strength * _ADDED), 255)

  choices = {
    "invert": inverted,
    "posterize": number - number % step,
    "solarize": jnp.where(number < threshold, number, inverted),
    "solarize_add": jnp.where(number < _DARK, added, number),
    "auto_contrast": _stretching(index),
    "equalize": _equalizing(index),
  }
  table = jnp.broadcast_to(number, (len(index), 3, 256)).astype(jnp.float32)
  for name, choice in choices.items():
    chosen = drawn.has(name)[..., 0]
    table = jnp.where(chosen, choice, table)
  return table


def _stretching(index: jax.Array) -> jax.Array:
  """Returns the tables that stretch each channel to 0 to 255: f32[B, 3, 256]."""
  lowest = index.min(axis=(1, 2))[..., None]
  highest = index.max(axis=(1, 2))[..., None]
  number = jnp.arange(256)[None, None]
  span = jnp.maximum(highest - lowest, 1)
  # In integers: no rounding can decide which one it becomes.
  stretched = jnp.clip((number - lowest) * 255 // span, 0, 255)
  return jnp.where(highest > lowest, stretched, number).astype(jnp.float32)


def _equalizing(index: jax.Array) -> jax.Array:
  """Returns the tables that equalise each channel's histogram: f32[B, 3, 256]."""

  def count(plane: jax.Array) -> jax.Array:
    return jnp.bincount(plane.reshape(-1), length=256)

  counts = jax.vmap(jax.vmap(count, in_axes=-1))(index)
  number = jnp.arange(256)[None, None]
  highest = index.max(axis=(1, 2))[..., None]
  of_highest = jnp.take_along_axis(counts, highest, axis=-1)
  step = (counts.sum(axis=-1, keepdims=True) - of_highest) // 255
  below = jnp.cumsum(counts, axis=-1) - counts
  equalized = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
  return jnp.where(step > 0, equalized, number).astype(jnp.float32)


def _down(levels: jax.Array) -> jax.Array:
  """Rounds down, as Pillow does; what is an integer but for its rounding stays."""
  return jnp.floor(levels + 1e-3)
