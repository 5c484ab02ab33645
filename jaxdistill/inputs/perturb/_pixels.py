"""Geometry and filtering of image batches that the perturbations are built from."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxdistill.core.types import Perturbed


def own_index(image) -> jax.Array:
  """Returns i32[B], every image's own index: the permutation that mixes nothing."""
  return jnp.arange(image.shape[0], dtype=jnp.int32)


def unmixed(image) -> Perturbed:
  """Wraps images [B, H, W, 3] that mix nothing, as they are."""
  return Perturbed(image, own_index(image), jnp.ones((), jnp.float32))


def per_image(key, image, low: float, high: float) -> jax.Array:
  """Draws one uniform number in [low, high] per image: f32[B, 1, 1], to broadcast over its plane."""
  return jax.random.uniform(key, (image.shape[0], 1, 1), minval=low, maxval=high)


def beta_share(key, concentration: float) -> jax.Array:
  """Draws a share from Beta(concentration, concentration): f32[]."""
  if concentration == 1:
    return jax.random.uniform(
      key
    )  # the same distribution; the general sampler takes seconds to compile
  return jax.random.beta(key, concentration, concentration)


def pixel_grid(image) -> tuple[jax.Array, jax.Array]:
  """Returns the coordinates of the pixels, rows f32[1, H, 1] and columns f32[1, 1, W]."""
  _, height, width, _ = image.shape
  rows, cols = (
    jnp.arange(height, dtype=jnp.float32),
    jnp.arange(width, dtype=jnp.float32),
  )
  return rows[None, :, None], cols[None, None, :]


def warp(image, rows, cols) -> jax.Array:
  """Samples every image where it is told to, bilinearly.

  What lies outside is the mirrored image: black corners would tell a network the angle,
  shift the batch statistics and lie outside the data; repeated edges become streaks.

  Args:
    image: f32[B, H, W, 3].
    rows, cols: f32[B, H, W] coordinates in pixels to take each output pixel from.

  Returns:
    f32[B, H, W, 3].
  """

  def plane(values, rows, cols):
    return map_coordinates(values, [rows, cols], order=1, mode="reflect")

  # An image at a time, all channels at one place: 50 times as fast on a CPU as dm-pix,
  # which interpolates between channels as well.
  return jax.vmap(jax.vmap(plane, (-1, None, None), -1))(image, rows, cols)


def blur(image, sigma, kernel: tuple[int, int]) -> jax.Array:
  """Convolves every image with its own Gaussian.

  Args:
    image: f32[B, H, W, 3].
    sigma: f32[B, 1, 1] standard deviation in pixels.
    kernel: extent in pixels along rows and along columns, odd; the Gaussian is cut off
      there.

  Returns:
    f32[B, H, W, 3].
  """

  def matrix(extent, size):
    distance = jnp.abs(jnp.arange(size)[:, None] - jnp.arange(size)[None, :])[None]
    weights = jnp.where(
      distance <= extent // 2, jnp.exp(-jnp.square(distance / sigma) / 2), 0
    )
    return weights / jnp.sum(weights, axis=-1, keepdims=True)

  # Two products with banded matrices: 30 times as fast on a CPU as depthwise
  # convolutions, and as the rows sum to one, there is no dark border.
  down, across = matrix(kernel[0], image.shape[1]), matrix(kernel[1], image.shape[2])
  return jnp.einsum("bhi,bwj,bijc->bhwc", down, across, image, precision="highest")


def span(key, share, size: int) -> jax.Array:
  """Marks an interval of `share` of the length, centred anywhere: bool[size], cut off at the ends."""
  centre = jax.random.randint(key, (), 0, size)
  half = jnp.floor(share * size).astype(jnp.int32) // 2
  positions = jnp.arange(size)
  return (positions >= centre - half) & (positions < centre + half)
