"""Perturbations that move pixels."""

import math

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Op, Perturbed
from jaxdistill.inputs.draws import per_image
from jaxdistill.inputs.perturb._pixels import pixel_grid, warp
from jaxdistill.inputs.perturb._results import unmixed
from jaxdistill.inputs.ranges import require_range


def elastic(*, displacement: float = 0.08, grid: int = 4) -> Op:
  """Returns elastic deformation: a smooth random displacement field.

  Displacements are uniform on a coarse grid, and cubic interpolation carries them to
  the pixels. Beyond about 1 / (3 grid), where our default is, the image folds over
  itself.

  Args:
    displacement: largest displacement along each axis, as a fraction of the side.
    grid: nodes of the grid along each side; fewer is smoother.

  Raises:
    ConfigError: for a displacement that is not above 0, or fewer than two nodes.

  Reference:
    O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical
      Image Segmentation. MICCAI 2015, section 3.1.
  Differs: uniform instead of normal displacements, so that they are bounded.
  """
  errors.require_positive(displacement=displacement)
  errors.require(
    isinstance(grid, int) and grid > 1, f"grid must be an integer above 1, got {grid}"
  )

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    batch, height, width, _ = image.shape
    nodes = jax.random.uniform(key, (batch, grid, grid, 2), minval=-1, maxval=1)
    smooth = jax.image.resize(nodes, (batch, height, width, 2), "cubic")
    # Cubic interpolation overshoots its nodes.
    field = displacement * jnp.clip(smooth, -1, 1)
    rows, columns = pixel_grid(image)
    moved_rows = rows + height * field[..., 0]
    moved_columns = columns + width * field[..., 1]
    return unmixed(warp(image, moved_rows, moved_columns))

  return op


def affine(
  *,
  rotation: float = 30.0,
  shear: float = 0.2,
  scale: tuple[float, float] = (0.8, 1.25),
  translation: float = 0.1,
) -> Op:
  """Returns affine deformation about the image centre, with one draw per image.

  Args:
    rotation: largest angle in degrees, either way.
    shear: largest horizontal shift per row, in pixels, either way.
    scale: range of the magnification, drawn log-uniformly.
    translation: largest shift along each axis as a fraction of the side, either way.

  Raises:
    ConfigError: for a negative strength or a range that is not ordered and above 0.
  """
  errors.require_not_negative(rotation=rotation, shear=shear, translation=translation)
  require_range("scale", scale)
  log_scale = (math.log(scale[0]), math.log(scale[1]))

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    _, height, width, _ = image.shape
    keys = jax.random.split(key, 5)
    angle = per_image(keys[0], image, -rotation, rotation) * (math.pi / 180)
    slant = per_image(keys[1], image, -shear, shear)
    zoom = jnp.exp(per_image(keys[2], image, *log_scale))
    down = per_image(keys[3], image, -translation, translation) * height
    right = per_image(keys[4], image, -translation, translation) * width

    # Where each output pixel comes from: the way back, relative to the centre.
    # Elementwise and not a matrix product: accelerators round those to bfloat16 or
    # TF32.
    rows, columns = pixel_grid(image)
    middle_row = (height - 1) / 2
    middle_column = (width - 1) / 2
    y = (rows - middle_row - down) / zoom
    x = (columns - middle_column - right) / zoom
    turned_y = jnp.cos(angle) * y - jnp.sin(angle) * x
    turned_x = jnp.sin(angle) * y + jnp.cos(angle) * x
    slanted_x = turned_x + slant * turned_y
    return unmixed(warp(image, turned_y + middle_row, slanted_x + middle_column))

  return op


def resized_crop(
  *,
  scale: tuple[float, float] = (0.3, 0.7),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Op:
  """Returns random cropping: a window of every image, enlarged to the full size.

  Args:
    scale: range of the window's fraction of the area. The paper does not say whether
      its [0.3, 0.7] is a fraction of the area or of the side; this is torchvision's
      reading.
    ratio: range of the window's aspect ratio relative to the image's, drawn
      log-uniformly.

  Raises:
    ConfigError: for a range that is not ordered and above 0, or an area above 1.
  """
  require_range("scale", scale, largest=1)
  require_range("ratio", ratio)

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    area_key, ratio_key, start_key = jax.random.split(key, 3)
    batch, height, width, _ = image.shape
    area = jax.random.uniform(area_key, (batch,), minval=scale[0], maxval=scale[1])
    log_ratio = jax.random.uniform(
      ratio_key, (batch,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])
    )
    # Within these bounds neither side exceeds the image, so the area stays the one
    # drawn.
    log_ratio = jnp.clip(log_ratio, jnp.log(area), -jnp.log(area))

    # The window's height and width, relative to the image's, and its first pixel.
    stretch = jnp.exp(jnp.stack([-log_ratio, log_ratio], axis=1) / 2)
    size = jnp.sqrt(area)[:, None] * stretch
    sides = jnp.array([[height, width]], jnp.float32)
    start = jax.random.uniform(start_key, (batch, 2)) * (1 - size) * sides
    return unmixed(jax.vmap(_enlarge)(image, 1 / size, start))

  return op


def _enlarge(image: jax.Array, zoom: jax.Array, start: jax.Array) -> jax.Array:
  """Enlarges an image [H, W, 3] by zoom f32[2] from the pixel start f32[2] on."""
  return jax.image.scale_and_translate(
    image,
    image.shape,
    spatial_dims=(0, 1),
    scale=zoom,
    translation=-start * zoom,
    method="linear",
    # Only ever enlarges: there is nothing to antialias.
    antialias=False,
  )


def hflip() -> Op:
  """Returns the left-right flip of every image."""

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    del key
    return unmixed(image[:, :, ::-1])

  return op


def vflip() -> Op:
  """Returns the up-down flip of every image."""

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    del key
    return unmixed(image[:, ::-1])

  return op
