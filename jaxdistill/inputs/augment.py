"""Classic augmentation and normalisation, on the device: what every member's images go through."""

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Augment


def to_float(image) -> jax.Array:
  """Scales uint8 images to float32 in [0, 1]; float32 images pass as they are.

  Args:
    image: uint8 or f32 [..., H, W, 3].

  Returns:
    f32[..., H, W, 3].
  """
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image


def normalize(image, mean, std) -> jax.Array:
  """Subtracts the mean of each channel and divides by its standard deviation.

  Args:
    image: f32[..., 3] in [0, 1].
    mean, std: three numbers each, in [0, 1].

  Returns:
    f32[..., 3].
  """
  shape = (1,) * (image.ndim - 1) + (3,)
  return (image - jnp.reshape(jnp.asarray(mean), shape)) / jnp.reshape(
    jnp.asarray(std), shape
  )


def pad_crop_flip(
  *,
  padding: int = 4,
  flip: bool = True,
  mode: str = "constant",
  cutout: int = 0,
  fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Augment:
  """Makes the standard augmentation of small images: pad, crop at random to the old size, flip half of them.

  Args:
    padding: pixels added on each side.
    flip: whether half the images are flipped left to right.
    mode: "constant" pads with black, "reflect" with the mirrored image.
    cutout: side in pixels of a square that is blotted out, around a position drawn from
      the whole image; what lies outside the image does not count. 0 blots out nothing.
    fill: colour of the square in [0, 1], usually the mean of the data set.

  Returns:
    augment(key, image uint8 or f32 [B, H, W, 3]) -> f32[B, H, W, 3] in [0, 1], with one
    draw per image.

  Raises:
    ConfigError: for a negative or fractional padding or square, or an unknown mode.

  Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
    section 4.2; for the square DeVries and Taylor, "Improved Regularization of
    Convolutional Neural Networks with Cutout", arXiv:1708.04552.
  """
  errors.require(
    isinstance(padding, int) and padding >= 0,
    f"augment.padding must be an integer of at least 0, got {padding}",
  )
  errors.require(
    isinstance(cutout, int) and cutout >= 0,
    f"augment.cutout must be an integer of at least 0, got {cutout}",
  )
  errors.require_choice(**{"augment.mode": (mode, ("constant", "reflect"))})

  def augment(key, image):
    row_key, col_key, flip_key = jax.random.split(key, 3)
    batch, height, width, _ = image.shape
    rows = jnp.arange(height)[None] + jax.random.randint(
      row_key, (batch, 1), 0, 2 * padding + 1
    )
    cols = jnp.arange(width)[None]
    if flip:
      cols = jnp.where(
        jax.random.bernoulli(flip_key, 0.5, (batch, 1)), cols[:, ::-1], cols
      )
    cols += jax.random.randint(col_key, (batch, 1), 0, 2 * padding + 1)
    padded = jnp.pad(
      image, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode
    )
    # Whole rows first, then columns, flipped by their index, and all in bytes: quicker
    # on a CPU than a `dynamic_slice` per image followed by a flip.
    cropped = to_float(
      jax.vmap(lambda image, rows, cols: image[rows][:, cols])(padded, rows, cols)
    )
    if not cutout:
      return cropped
    inside = [
      _covers(jax.random.fold_in(key, axis), batch, size, cutout)
      for axis, size in enumerate((height, width))
    ]
    square = inside[0][:, :, None] & inside[1][:, None, :]
    return jnp.where(
      square[..., None], jnp.reshape(jnp.asarray(fill), (1, 1, 1, 3)), cropped
    )

  return augment


def _covers(key, batch: int, size: int, length: int) -> jax.Array:
  """Returns bool[B, size]: the positions along an axis that an interval around a random one of them covers."""
  centre = jax.random.randint(key, (batch, 1), 0, size)
  position = jnp.arange(size)[None]
  return (position >= centre - length // 2) & (position < centre - length // 2 + length)
