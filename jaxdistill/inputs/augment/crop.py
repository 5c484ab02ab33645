"""Random crops."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Augment
from jaxdistill.inputs.augment._boxes import draw_sides, draw_start
from jaxdistill.inputs.normalize import to_float
from jaxdistill.inputs.ranges import require_range

# More than the side of any image that is trained on.
_MOST_PIXELS = 4096

# What jax.image calls the interpolations that a crop may be resized by.
_INTERPOLATIONS = ("linear", "cubic")


def pad_crop(*, padding: int = 4, mode: str = "constant") -> Augment:
  """Returns the crop of small images: padded, then cropped at random to the old size.

  Args:
    padding: pixels added on each side.
    mode: "constant" pads with black, "reflect" with the mirrored image.

  Raises:
    ConfigError: for a negative or fractional padding, or an unknown mode.

  Reference:
    K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition. CVPR
      2016, section 4.2.
  """
  errors.require(
    isinstance(padding, int) and 0 <= padding <= _MOST_PIXELS,
    f"padding must be an integer of at least 0 and at most {_MOST_PIXELS}, "
    f"got {padding}",
  )
  errors.require_choice(mode=(mode, ("constant", "reflect")))

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    # The third part is that of `hflip`, see `pool.make_augment`.
    row_key, column_key, _ = jax.random.split(key, 3)
    batch, height, width, _ = image.shape
    top = jax.random.randint(row_key, (batch, 1), 0, 2 * padding + 1)
    left = jax.random.randint(column_key, (batch, 1), 0, 2 * padding + 1)
    borders = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, borders, mode=mode)
    return _windows(padded, top, left, (height, width))

  return augment


def random_crop(*, size: tuple[int, int]) -> Augment:
  """Returns the crop of stored images to what the networks see, anywhere.

  Args:
    size: height and width of what the networks see.
  """

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    batch, height, width, _ = image.shape
    _require_larger("random_crop", (height, width), size)
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (batch, 1), 0, height - size[0] + 1)
    left = jax.random.randint(column_key, (batch, 1), 0, width - size[1] + 1)
    return _windows(image, top, left, size)

  return augment


def _require_larger(name: str, stored: tuple[int, int], size: tuple[int, int]) -> None:
  """Raises ConfigError for images that are smaller than their crop."""
  errors.require(
    stored[0] >= size[0] and stored[1] >= size[1],
    f"augment.{name} makes {size[0]} x {size[1]} pixels of the training images, which "
    f"have {stored[0]} x {stored[1]}: use random_resized_crop or larger images",
  )


def _windows(
  image: jax.Array, top: jax.Array, left: jax.Array, size: tuple[int, int]
) -> jax.Array:
  """Returns a window of every image.

  Args:
    image: [B, H, W, 3].
    top: i32[B, 1] first row.
    left: i32[B, 1] first column.
    size: height and width of the windows.
  """
  rows = jnp.arange(size[0])[None] + top
  columns = jnp.arange(size[1])[None] + left
  return jax.vmap(_select)(image, rows, columns)


def _select(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Returns the given rows and columns of an image [H, W, 3]."""
  # Whole rows first, then columns: quicker on a CPU than a `dynamic_slice`.
  return image[rows][:, columns]


def random_resized_crop(
  *,
  size: tuple[int, int],
  area: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  interpolation: str = "linear",
) -> Augment:
  """Returns the crop of ImageNet: a random window, resized to what the networks see.

  Ten windows are drawn and the first one that fits is taken; where none does, the
  largest one in the middle whose sides have an allowed ratio.

  Args:
    size: height and width of what the networks see.
    area: range of the window's fraction of the area, drawn uniformly.
    ratio: range of its width divided by its height, drawn log-uniformly.
    interpolation: "linear" or "cubic", smoothed where the window is made smaller.

  Raises:
    ConfigError: for a range that is not ordered and above 0, an area above 1, or an
      unknown interpolation.

  Reference:
    C. Szegedy et al.: Going Deeper with Convolutions. CVPR 2015, section 6.
  Differs from torchvision: at the window's border, pixels beyond it are averaged in,
    and the result is not rounded to bytes.
  """
  require_range("area", area, largest=1)
  require_range("ratio", ratio)
  errors.require_choice(interpolation=(interpolation, _INTERPOLATIONS))

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    sides_key, start_key = jax.random.split(key)
    _, height, width, _ = image.shape
    drawn = draw_sides(sides_key, image.shape, area=area, ratio=ratio)
    largest = jnp.array([_largest_window((height, width), ratio)])
    sides = jnp.where(drawn.found[:, None], drawn.sides, largest)
    free = jnp.array([[height, width]]) - sides
    anywhere = draw_start(start_key, jnp.maximum(free, 0))
    start = jnp.where(drawn.found[:, None], anywhere, free // 2)

    zoom = jnp.array([size], jnp.float32) / sides
    shape = (*size, 3)

    def resize(image: jax.Array, zoom: jax.Array, start: jax.Array) -> jax.Array:
      return jax.image.scale_and_translate(
        image,
        shape,
        spatial_dims=(0, 1),
        scale=zoom,
        translation=-start * zoom,
        method=interpolation,
      )

    resized = jax.vmap(resize)(to_float(image), zoom, start)
    # Cubic interpolation overshoots.
    return jnp.clip(resized, 0, 1)

  return augment


def _largest_window(
  sides: Sequence[int], ratio: tuple[float, float]
) -> tuple[int, int]:
  """Returns the largest height and width within an image that have an allowed ratio."""
  height, width = sides
  if width / height < ratio[0]:
    return round(width / ratio[0]), width
  if width / height > ratio[1]:
    return height, round(height * ratio[1])
  return height, width
