"""Perturbations that move pixels."""

import math

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Op
from jaxdistill.inputs.perturb import _pixels as pixels
from jaxdistill.inputs.perturb._pixels import unmixed
from jaxdistill.inputs.perturb._ranges import require_range


def elastic(*, displacement: float = 0.08, grid: int = 4) -> Op:
  """Makes elastic deformation: a smooth random displacement field.

  Displacements are uniform on a coarse grid, and cubic interpolation carries them to
  the pixels. Beyond about 1 / (3 grid), where our default is, the image folds over
  itself.

  Args:
    displacement: largest displacement along each axis, as a share of the side.
    grid: nodes of the grid along each side; fewer is smoother.

  Raises:
    ConfigError: for a displacement that is not above 0, or fewer than two nodes.

  Reference: Ronneberger et al., "U-Net", MICCAI 2015, section 3.1. Differs: uniform
  instead of normal displacements, so that they are bounded.
  """
  errors.require_positive(displacement=displacement)
  errors.require(
    isinstance(grid, int) and grid > 1, f"grid must be an integer above 1, got {grid}"
  )

  def op(key, image):
    batch, height, width, _ = image.shape
    nodes = jax.random.uniform(key, (batch, grid, grid, 2), minval=-1, maxval=1)
    # Cubic interpolation overshoots its nodes.
    field = displacement * jnp.clip(
      jax.image.resize(nodes, (batch, height, width, 2), "cubic"), -1, 1
    )
    rows, cols = pixels.pixel_grid(image)
    return unmixed(
      pixels.warp(image, rows + height * field[..., 0], cols + width * field[..., 1])
    )

  return op


def affine(
  *,
  rotation: float = 30.0,
  shear: float = 0.2,
  scale: tuple[float, float] = (0.8, 1.25),
  translation: float = 0.1,
) -> Op:
  """Makes affine deformation about the image centre, with one draw per image.

  Args:
    rotation: largest angle in degrees, either way.
    shear: largest horizontal shift per row, in pixels, either way.
    scale: range of the magnification, drawn log-uniformly.
    translation: largest shift along each axis as a share of the side, either way.

  Raises:
    ConfigError: for a negative strength or a range that is not ordered and above 0.
  """
  errors.require_not_negative(
    **{"rotation": rotation, "shear": shear, "translation": translation}
  )
  require_range("scale", scale)

  def op(key, image):
    keys = jax.random.split(key, 5)
    angle = pixels.per_image(keys[0], image, -rotation, rotation) * (math.pi / 180)
    slant = pixels.per_image(keys[1], image, -shear, shear)
    zoom = jnp.exp(
      pixels.per_image(keys[2], image, math.log(scale[0]), math.log(scale[1]))
    )
    down = pixels.per_image(keys[3], image, -translation, translation) * image.shape[1]
    right = pixels.per_image(keys[4], image, -translation, translation) * image.shape[2]
    rows, cols = pixels.pixel_grid(image)
    middle_row, middle_col = (image.shape[1] - 1) / 2, (image.shape[2] - 1) / 2
    # Elementwise and not a matrix product: accelerators round those to bfloat16 or
    # TF32.
    y, x = (rows - middle_row - down) / zoom, (cols - middle_col - right) / zoom
    y, x = (
      jnp.cos(angle) * y - jnp.sin(angle) * x,
      jnp.sin(angle) * y + jnp.cos(angle) * x,
    )
    return unmixed(pixels.warp(image, y + middle_row, x + slant * y + middle_col))

  return op


def resized_crop(
  *,
  scale: tuple[float, float] = (0.3, 0.7),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Op:
  """Makes random cropping: a window of every image, enlarged to the full size.

  Args:
    scale: range of the window's share of the area. The paper does not say whether its
      [0.3, 0.7] is a share of the area or of the side; this is torchvision's reading.
    ratio: range of the window's aspect ratio relative to the image's, drawn
      log-uniformly.

  Raises:
    ConfigError: for a range that is not ordered and above 0, or an area above 1.
  """
  require_range("scale", scale, largest=1)
  require_range("ratio", ratio)

  def op(key, image):
    area_key, ratio_key, start_key = jax.random.split(key, 3)
    batch, *sides, _ = image.shape
    area = jax.random.uniform(area_key, (batch,), minval=scale[0], maxval=scale[1])
    log_ratio = jax.random.uniform(
      ratio_key, (batch,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])
    )
    # Within these bounds neither side exceeds the image, so the area stays the one
    # drawn.
    log_ratio = jnp.clip(log_ratio, jnp.log(area), -jnp.log(area))
    size = jnp.sqrt(area)[:, None] * jnp.exp(
      jnp.stack([-log_ratio, log_ratio], axis=1) / 2
    )
    start = (
      jax.random.uniform(start_key, (batch, 2))
      * (1 - size)
      * jnp.array([sides], jnp.float32)
    )

    def enlarge(image, zoom, start):
      # Only ever enlarges: there is nothing to antialias.
      return jax.image.scale_and_translate(
        image, image.shape, (0, 1), zoom, -start * zoom, "linear", antialias=False
      )

    return unmixed(jax.vmap(enlarge)(image, 1 / size, start))

  return op


def hflip() -> Op:
  """Makes the left-right flip of every image."""
  return lambda key, image: unmixed(image[:, :, ::-1])


def vflip() -> Op:
  """Makes the up-down flip of every image."""
  return lambda key, image: unmixed(image[:, ::-1])
