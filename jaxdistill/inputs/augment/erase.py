"""Augmentations that blot out a part of an image."""

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Augment
from jaxdistill.inputs.augment._boxes import draw_sides, draw_start, inside
from jaxdistill.inputs.normalize import to_float
from jaxdistill.inputs.ranges import require_range

# More than the side of any image that is trained on.
_MOST_PIXELS = 4096

_FILLS = ("noise", "mean", "constant")


def cutout(*, mean: tuple[float, float, float], side: int = 16) -> Augment:
  """Returns cutout: a square of every image becomes the mean of the data set.

  Args:
    mean: of the data set.
    side: of the square in pixels; it lies around a position drawn from the whole image,
      and what is outside the image does not count. 0 blots out nothing.

  Raises:
    ConfigError: for a negative or fractional side.

  Reference:
    T. DeVries, G. W. Taylor: Improved Regularization of Convolutional Neural Networks
      with Cutout. arXiv:1708.04552, 2017.
  """
  errors.require(
    isinstance(side, int) and 0 <= side <= _MOST_PIXELS,
    f"side must be an integer of at least 0 and at most {_MOST_PIXELS}, got {side}",
  )

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    batch, height, width, _ = image.shape
    row = jax.random.randint(jax.random.fold_in(key, 0), (batch, 1), 0, height)
    column = jax.random.randint(jax.random.fold_in(key, 1), (batch, 1), 0, width)
    rows = inside(row[:, 0] - side // 2, jnp.int32(side), height)
    columns = inside(column[:, 0] - side // 2, jnp.int32(side), width)
    return _fill(to_float(image), rows, columns, _as_colour(mean))

  return augment


def random_erasing(
  *,
  mean: tuple[float, float, float],
  std: tuple[float, float, float],
  probability: float = 0.25,
  area: tuple[float, float] = (0.02, 1 / 3),
  ratio: tuple[float, float] = (0.3, 1 / 0.3),
  fill: str = "noise",
  value: float = 0.0,
) -> Augment:
  """Returns random erasing: a rectangle of some images is filled with something else.

  DeiT's code and that of re-identification erase after normalisation, with noise or
  with its zero, which is the mean. Members may be normalised differently here, so that
  this comes before: the noise has mean and deviation of the data set, and the result is
  the same where a member is normalised by these. The noise thus leaves [0, 1].

  Args:
    mean: of the data set.
    std: of the data set.
    probability: of every image.
    area: range of the rectangle's fraction of the area, drawn uniformly.
    ratio: range of its width divided by its height, drawn log-uniformly.
    fill: "noise", normal for every pixel and channel; "mean", the mean of the data set;
      "constant", one value for all.
    value: of all channels, in [0, 1], where `fill` is "constant".

  Raises:
    ConfigError: for values out of range.

  Reference:
    Z. Zhong, L. Zheng, G. Kang, S. Li, Y. Yang: Random Erasing Data Augmentation. AAAI
      2020. Defaults are those of DeiT (Touvron et al., ICML 2021).
  """
  errors.require_probability(probability=probability, value=value)
  require_range("area", area, largest=1)
  require_range("ratio", ratio)
  errors.require_choice(fill=(fill, _FILLS))

  def filling(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if fill == "constant":
      return jnp.full((1, 1, 1, 3), value, jnp.float32)
    if fill == "mean":
      return _as_colour(mean)
    return _as_colour(mean) + _as_colour(std) * jax.random.normal(key, shape)

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    chosen_key, sides_key, start_key, fill_key = jax.random.split(key, 4)
    batch, height, width, _ = image.shape
    chosen = jax.random.bernoulli(chosen_key, probability, (batch,))
    drawn = draw_sides(sides_key, image.shape, area=area, ratio=ratio, smaller=True)
    free = jnp.array([[height, width]]) - drawn.sides
    start = draw_start(start_key, jnp.maximum(free, 0))

    erased = (chosen & drawn.found)[:, None]
    rows = inside(start[:, 0], drawn.sides[:, 0], height) & erased
    columns = inside(start[:, 1], drawn.sides[:, 1], width)
    return _fill(to_float(image), rows, columns, filling(fill_key, image.shape))

  return augment


def _as_colour(channels: tuple[float, float, float]) -> jax.Array:
  """Returns a number for each channel, f32[1, 1, 1, 3]."""
  return jnp.reshape(jnp.asarray(channels, jnp.float32), (1, 1, 1, 3))


def _fill(
  image: jax.Array, rows: jax.Array, columns: jax.Array, filling: jax.Array
) -> jax.Array:
  """Replaces a rectangle of every image.

  Args:
    image: f32[B, H, W, 3].
    rows: bool[B, H] true inside.
    columns: bool[B, W] true inside.
    filling: f32[B or 1, H or 1, W or 1, 3].
  """
  box = rows[:, :, None] & columns[:, None, :]
  return jnp.where(box[..., None], filling, image)
