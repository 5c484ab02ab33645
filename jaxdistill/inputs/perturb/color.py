"""Perturbations of colours and sharpness."""

import dm_pix
import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Op, Perturbed
from jaxdistill.inputs.draws import per_image
from jaxdistill.inputs.perturb._pixels import gaussian_blur
from jaxdistill.inputs.perturb._results import unmixed
from jaxdistill.inputs.ranges import require_range


def color(
  *,
  brightness: float = 0.25,
  contrast: float = 0.15,
  saturation: float = 0.15,
  hue: float = 0.15,
) -> Op:
  """Returns colour jitter, one draw per image.

  Brightness, contrast, saturation and hue are changed in this order.

  Args:
    brightness: the factor is drawn from [1 - brightness, 1 + brightness].
    contrast: the same for contrast.
    saturation: the same for saturation.
    hue: largest turn of the hue circle, either way; 0.5 is half a turn.

  Raises:
    ConfigError: for a negative strength, a factor that could be negative, or a hue
      above 0.5.
  """
  largest = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
  strengths = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
  }
  errors.require_not_negative(**strengths)
  for name, value in strengths.items():
    most = largest[name]
    errors.require(value <= most, f"{name} must be at most {most}, got {value}")

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    keys = jax.random.split(key, 4)
    light = per_image(keys[0], image, 1 - brightness, 1 + brightness)
    sharp = per_image(keys[1], image, 1 - contrast, 1 + contrast)
    rich = per_image(keys[2], image, 1 - saturation, 1 + saturation)
    turn = per_image(keys[3], image, -hue, hue)
    # Hue and saturation are defined inside the colour cube only.
    lit = jnp.clip(image * light[..., None], 0, 1)
    contrasted = jnp.clip(dm_pix.adjust_contrast(lit, sharp[..., None]), 0, 1)
    saturated = dm_pix.adjust_saturation(contrasted, rich)
    turned = dm_pix.adjust_hue(saturated, turn)
    return unmixed(jnp.clip(turned, 0, 1))

  return op


def blur(
  *, kernel: tuple[int, int] = (7, 9), sigma: tuple[float, float] = (0.1, 2.0)
) -> Op:
  """Returns Gaussian blur with one width per image.

  Args:
    kernel: horizontal and vertical extent of the kernel in pixels, odd.
    sigma: range of the standard deviation in pixels.

  Raises:
    ConfigError: for an even or negative extent, or a range that is not ordered and
      above 0.
  """
  errors.require(
    len(kernel) == 2 and all(_is_odd(size) for size in kernel),
    f"kernel must be two odd integers above 0, got {kernel}",
  )
  require_range("sigma", sigma)
  horizontal, vertical = kernel

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    width = per_image(key, image, *sigma)
    return unmixed(gaussian_blur(image, width, (vertical, horizontal)))

  return op


def _is_odd(size: int) -> bool:
  """Tells whether a size is an odd integer above 0."""
  return isinstance(size, int) and size > 0 and size % 2 == 1


def color_blur(
  *,
  brightness: float = 0.25,
  contrast: float = 0.15,
  saturation: float = 0.15,
  hue: float = 0.15,
  kernel: tuple[int, int] = (7, 9),
  sigma: tuple[float, float] = (0.1, 2.0),
) -> Op:
  """Returns colour jitter followed by blur, one operation in the released code.

  Args:
    brightness: see `color`.
    contrast: see `color`.
    saturation: see `color`.
    hue: see `color`.
    kernel: see `blur`.
    sigma: see `blur`.

  Raises:
    ConfigError: as `color` and `blur` do.
  """
  jitter = color(
    brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
  )
  soften = blur(kernel=kernel, sigma=sigma)

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    color_key, blur_key = jax.random.split(key)
    jittered = jitter(color_key, image).image
    return soften(blur_key, jittered)

  return op
