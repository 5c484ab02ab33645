"""The pool of stochastic perturbations: what one member sees instead of the clean batch.

An operation is made by a factory whose keyword arguments are its strengths (config keys
`perturb.<op>.<strength>`) and is a pure function

  op(key, image f32[B, H, W, 3]) -> Perturbed

It draws once per image, but for the operations that mix two images: their weight belongs to the batch.
Images are meant to be in [0, 1] and stay there. Only `noise` and `color` have to clip for that, so
after normalisation, where the released code perturbs, the others do no harm.

Reference: "Competitive Distillation", section 3.2 (the pool, Eq. 6) and its released code.
"""

import math

import dm_pix as pix
import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill import pixels
# The first two are not used here: callers find the pool's whole interface in this file.
from jaxdistill.pool import Op, own_index, Perturbed, unmixed

# The paper names image fusion, splicing, noise injection, deformation (here of two kinds) and random cropping
# with its scale of [0.3, 0.7]; what the released code has beyond these stands for its "etc.".
DEFAULT_POOL = ("mixup", "cutmix", "noise", "elastic", "affine", "resized_crop", "color_blur", "hflip",
                "vflip")

# The six operations of the released code, and those of their strengths that are not our defaults. It perturbs
# after normalisation (before it, noise of 1 leaves nothing to recognise), draws colour, blur and angle once
# per batch, turns without interpolation, and fills the corners with zeros.
RELEASED_POOL = ("mixup", "noise", "color_blur", "hflip", "vflip", "affine")
RELEASED_STRENGTHS = {
    "noise": {"stddev": 1.0},
    "affine": {"rotation": 30.0, "shear": 0.0, "scale": (1.0, 1.0), "translation": 0.0},
}


def mixup(*, concentration: float = 1.0) -> Op:
  """Makes image fusion: the batch and a permutation of itself, blended with one weight.

  Args:
    concentration: c of the weight's distribution Beta(c, c).

  Returns:
    The operation; `weight` is the share of the original image.

  Raises:
    ConfigError: unless the concentration is above 0.

  Reference: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
  """
  errors.require_positive(concentration=concentration)

  def op(key, image):
    weight_key, partner_key = jax.random.split(key)
    weight = pixels.beta_share(weight_key, concentration)
    permutation = jax.random.permutation(partner_key, own_index(image))
    return Perturbed(weight * image + (1 - weight) * image[permutation], permutation, weight)

  return op


def cutmix(*, concentration: float = 1.0) -> Op:
  """Makes splicing: one box of every image is replaced by that of its partner.

  Args:
    concentration: c of Beta(c, c), from which the share of the area outside the box is drawn. The
      box is centred anywhere, so part of it may fall off the image.

  Returns:
    The operation; `weight` is the share of the area that was really kept.

  Raises:
    ConfigError: unless the concentration is above 0.

  Reference: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
  Localizable Features", ICCV 2019, section 3.1.
  """
  errors.require_positive(concentration=concentration)

  def op(key, image):
    share_key, row_key, col_key, partner_key = jax.random.split(key, 4)
    side = jnp.sqrt(1 - pixels.beta_share(share_key, concentration))
    rows = pixels.span(row_key, side, image.shape[1])
    cols = pixels.span(col_key, side, image.shape[2])
    box = rows[:, None] & cols[None, :]
    permutation = jax.random.permutation(partner_key, own_index(image))
    spliced = jnp.where(box[None, :, :, None], image[permutation], image)
    return Perturbed(spliced, permutation, 1 - jnp.mean(box, dtype=jnp.float32))

  return op


def noise(*, stddev: float = 0.1) -> Op:
  """Makes noise injection: Gaussian, independent per pixel and channel.

  Args:
    stddev: standard deviation where the image ranges over [0, 1].

  Raises:
    ConfigError: unless the standard deviation is above 0.
  """
  errors.require_positive(stddev=stddev)
  return lambda key, image: unmixed(jnp.clip(image + stddev * jax.random.normal(key, image.shape), 0, 1))


def elastic(*, displacement: float = 0.08, grid: int = 4) -> Op:
  """Makes elastic deformation: a smooth random displacement field.

  Displacements are uniform on a coarse grid, and cubic interpolation carries them to the pixels. Beyond
  about 1 / (3 grid), where our default is, the image folds over itself.

  Args:
    displacement: largest displacement along each axis, as a share of the side.
    grid: nodes of the grid along each side; fewer is smoother.

  Raises:
    ConfigError: for a displacement that is not above 0, or fewer than two nodes.

  Reference: Ronneberger et al., "U-Net", MICCAI 2015, section 3.1. Differs: uniform instead of
  normal displacements, so that they are bounded.
  """
  errors.require_positive(displacement=displacement)
  errors.require(isinstance(grid, int) and grid > 1,
                 f"grid must be an integer above 1, got {grid}")

  def op(key, image):
    batch, height, width, _ = image.shape
    nodes = jax.random.uniform(key, (batch, grid, grid, 2), minval=-1, maxval=1)
    # Cubic interpolation overshoots its nodes.
    field = displacement * jnp.clip(jax.image.resize(nodes, (batch, height, width, 2), "cubic"), -1, 1)
    rows, cols = pixels.pixel_grid(image)
    return unmixed(pixels.warp(image, rows + height * field[..., 0], cols + width * field[..., 1]))

  return op


def affine(*, rotation: float = 30.0, shear: float = 0.2, scale: tuple[float, float] = (0.8, 1.25),
           translation: float = 0.1) -> Op:
  """Makes affine deformation about the image centre, with one draw per image.

  Args:
    rotation: largest angle in degrees, either way.
    shear: largest horizontal shift per row, in pixels, either way.
    scale: range of the magnification, drawn log-uniformly.
    translation: largest shift along each axis as a share of the side, either way.

  Raises:
    ConfigError: for a negative strength or a range that is not ordered and above 0.
  """
  errors.require_not_negative(**{"rotation": rotation, "shear": shear,
                                 "translation": translation})
  _require_range("scale", scale)

  def op(key, image):
    keys = jax.random.split(key, 5)
    angle = pixels.per_image(keys[0], image, -rotation, rotation) * (math.pi / 180)
    slant = pixels.per_image(keys[1], image, -shear, shear)
    zoom = jnp.exp(pixels.per_image(keys[2], image, math.log(scale[0]), math.log(scale[1])))
    down = pixels.per_image(keys[3], image, -translation, translation) * image.shape[1]
    right = pixels.per_image(keys[4], image, -translation, translation) * image.shape[2]
    rows, cols = pixels.pixel_grid(image)
    middle_row, middle_col = (image.shape[1] - 1) / 2, (image.shape[2] - 1) / 2
    # Elementwise and not a matrix product: accelerators round those to bfloat16 or TF32.
    y, x = (rows - middle_row - down) / zoom, (cols - middle_col - right) / zoom
    y, x = jnp.cos(angle) * y - jnp.sin(angle) * x, jnp.sin(angle) * y + jnp.cos(angle) * x
    return unmixed(pixels.warp(image, y + middle_row, x + slant * y + middle_col))

  return op


def resized_crop(*, scale: tuple[float, float] = (0.3, 0.7),
                 ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Op:
  """Makes random cropping: a window of every image, enlarged to the full size.

  Args:
    scale: range of the window's share of the area. The paper does not say whether its [0.3, 0.7] is a
      share of the area or of the side; this is torchvision's reading.
    ratio: range of the window's aspect ratio relative to the image's, drawn log-uniformly.

  Raises:
    ConfigError: for a range that is not ordered and above 0, or an area above 1.
  """
  _require_range("scale", scale, largest=1)
  _require_range("ratio", ratio)

  def op(key, image):
    area_key, ratio_key, start_key = jax.random.split(key, 3)
    batch, *sides, _ = image.shape
    area = jax.random.uniform(area_key, (batch,), minval=scale[0], maxval=scale[1])
    log_ratio = jax.random.uniform(ratio_key, (batch,), minval=math.log(ratio[0]), maxval=math.log(ratio[1]))
    # Within these bounds neither side exceeds the image, so the area stays the one drawn.
    log_ratio = jnp.clip(log_ratio, jnp.log(area), -jnp.log(area))
    size = jnp.sqrt(area)[:, None] * jnp.exp(jnp.stack([-log_ratio, log_ratio], axis=1) / 2)
    start = jax.random.uniform(start_key, (batch, 2)) * (1 - size) * jnp.array([sides], jnp.float32)

    def enlarge(image, zoom, start):
      # Only ever enlarges: there is nothing to antialias.
      return jax.image.scale_and_translate(image, image.shape, (0, 1), zoom, -start * zoom, "linear",
                                           antialias=False)

    return unmixed(jax.vmap(enlarge)(image, 1 / size, start))

  return op


def color(*, brightness: float = 0.25, contrast: float = 0.15, saturation: float = 0.15,
          hue: float = 0.15) -> Op:
  """Makes colour jitter: brightness, contrast, saturation and hue in this order, one draw per image.

  Args:
    brightness, contrast, saturation: factors are drawn from [1 - strength, 1 + strength].
    hue: largest turn of the hue circle, either way; 0.5 is half a turn.

  Raises:
    ConfigError: for a negative strength, a factor that could be negative, or a hue above 0.5.
  """
  strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
  errors.require_not_negative(**strengths)
  for name, value in strengths.items():
    most = 0.5 if name == "hue" else 1
    errors.require(value <= most, f"{name} must be at most {most}, got {value}")

  def op(key, image):
    keys = jax.random.split(key, 4)
    light, sharp, rich = (pixels.per_image(key, image, 1 - strength, 1 + strength)
                          for key, strength in zip(keys, (brightness, contrast, saturation)))
    image = jnp.clip(image * light[..., None], 0, 1)
    # Hue and saturation are defined inside the colour cube only.
    image = jnp.clip(pix.adjust_contrast(image, sharp[..., None]), 0, 1)
    image = pix.adjust_hue(pix.adjust_saturation(image, rich), pixels.per_image(keys[3], image, -hue, hue))
    return unmixed(jnp.clip(image, 0, 1))

  return op


def blur(*, kernel: tuple[int, int] = (7, 9), sigma: tuple[float, float] = (0.1, 2.0)) -> Op:
  """Makes Gaussian blur with one width per image.

  Args:
    kernel: horizontal and vertical extent of the kernel in pixels, odd.
    sigma: range of the standard deviation in pixels.

  Raises:
    ConfigError: for an even or negative extent, or a range that is not ordered and above 0.
  """
  errors.require(len(kernel) == 2 and all(isinstance(k, int) and k > 0 and k % 2 for k in kernel),
                 f"kernel must be two odd integers above 0, got {kernel}")
  _require_range("sigma", sigma)

  def op(key, image):
    return unmixed(pixels.blur(image, pixels.per_image(key, image, *sigma), (kernel[1], kernel[0])))

  return op


def color_blur(*, brightness: float = 0.25, contrast: float = 0.15, saturation: float = 0.15,
               hue: float = 0.15, kernel: tuple[int, int] = (7, 9),
               sigma: tuple[float, float] = (0.1, 2.0)) -> Op:
  """Makes colour jitter followed by Gaussian blur, one operation in the released code.

  Args: those of `color` and `blur`.

  Raises:
    ConfigError: as `color` and `blur` do.
  """
  first = color(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
  second = blur(kernel=kernel, sigma=sigma)

  def op(key, image):
    color_key, blur_key = jax.random.split(key)
    return second(blur_key, first(color_key, image).image)

  return op


def hflip() -> Op:
  """Makes the left-right flip of every image."""
  return lambda key, image: unmixed(image[:, :, ::-1])


def vflip() -> Op:
  """Makes the up-down flip of every image."""
  return lambda key, image: unmixed(image[:, ::-1])


def _require_range(name: str, value, largest: float = math.inf) -> None:
  bound = f" up to {largest}" if largest < math.inf else ""
  errors.require(len(value) == 2 and 0 < value[0] <= value[1] <= largest and value[1] < math.inf,
                 f"{name} must be (low, high) with 0 < low <= high{bound}, got {value}")
