"""Geometry and filtering of image batches that the perturbations are built from."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def pixel_grid(image: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the coordinates of the pixels.

  Args:
    image: [B, H, W, 3].

  Returns:
    Rows f32[1, H, 1] and columns f32[1, 1, W].
  """
  _, height, width, _ = image.shape
  rows = jnp.arange(height, dtype=jnp.float32)
  columns = jnp.arange(width, dtype=jnp.float32)
  return rows[None, :, None], columns[None, None, :]


def warp(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Samples every image at given places, bilinearly.

  What lies outside is the mirrored image: black corners would tell a network the angle,
  shift the batch statistics and lie outside the data; repeated edges become streaks.

  Args:
    image: f32[B, H, W, 3].
    rows: f32[B, H, W], the row in pixels that each output pixel is taken from.
    columns: f32[B, H, W], the column.

  Returns:
    f32[B, H, W, 3].
  """

  def sample_plane(values, rows, columns):
    return map_coordinates(values, [rows, columns], order=1, mode="reflect")

  # An image at a time, all channels at one place: 50 times as fast on a CPU as dm-pix,
  # which interpolates between channels as well.
  sample_image = jax.vmap(sample_plane, in_axes=(-1, None, None), out_axes=-1)
  return jax.vmap(sample_image)(image, rows, columns)


def gaussian_blur(
  image: jax.Array, sigma: jax.Array, extent: tuple[int, int]
) -> jax.Array:
  """Convolves every image with its own Gaussian.

  Args:
    image: f32[B, H, W, 3].
    sigma: f32[B, 1, 1] standard deviation in pixels.
    extent: pixels along rows and along columns, odd; the Gaussian is cut off there.

  Returns:
    f32[B, H, W, 3].
  """
  # Two products with banded matrices: 30 times as fast on a CPU as depthwise
  # convolutions, and as the rows sum to one, there is no dark border.
  down = _gaussian_band(image.shape[1], sigma, extent[0])
  across = _gaussian_band(image.shape[2], sigma, extent[1])
  return jnp.einsum("bhi,bwj,bijc->bhwc", down, across, image, precision="highest")


def _gaussian_band(size: int, sigma: jax.Array, extent: int) -> jax.Array:
  """Returns a Gaussian around every position of an axis: f32[B, size, size]."""
  position = jnp.arange(size)
  distance = jnp.abs(position[:, None] - position[None, :])[None]
  density = jnp.exp(-jnp.square(distance / sigma) / 2)
  weights = jnp.where(distance <= extent // 2, density, 0)
  return weights / jnp.sum(weights, axis=-1, keepdims=True)
