"""Perturbations of colours and sharpness."""

import dm_pix as pix
import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Op
from jaxdistill.inputs.perturb import _pixels as pixels
from jaxdistill.inputs.perturb._pixels import unmixed
from jaxdistill.inputs.perturb._ranges import require_range


def color(
  *,
  brightness: float = 0.25,
  contrast: float = 0.15,
  saturation: float = 0.15,
  hue: float = 0.15,
) -> Op:
  """Makes colour jitter: brightness, contrast, saturation and hue in this order, one draw per image.

  Args:
    brightness, contrast, saturation: factors are drawn from [1 - strength, 1 +
      strength].
    hue: largest turn of the hue circle, either way; 0.5 is half a turn.

  Raises:
    ConfigError: for a negative strength, a factor that could be negative, or a hue
      above 0.5.
  """
  strengths = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
  }
  errors.require_not_negative(**strengths)
  for name, value in strengths.items():
    most = 0.5 if name == "hue" else 1
    errors.require(value <= most, f"{name} must be at most {most}, got {value}")

  def op(key, image):
    keys = jax.random.split(key, 4)
    light, sharp, rich = (
      pixels.per_image(key, image, 1 - strength, 1 + strength)
      for key, strength in zip(keys, (brightness, contrast, saturation))
    )
    image = jnp.clip(image * light[..., None], 0, 1)
    # Hue and saturation are defined inside the colour cube only.
    image = jnp.clip(pix.adjust_contrast(image, sharp[..., None]), 0, 1)
    image = pix.adjust_hue(
      pix.adjust_saturation(image, rich), pixels.per_image(keys[3], image, -hue, hue)
    )
    return unmixed(jnp.clip(image, 0, 1))

  return op


def blur(
  *, kernel: tuple[int, int] = (7, 9), sigma: tuple[float, float] = (0.1, 2.0)
) -> Op:
  """Makes Gaussian blur with one width per image.

  Args:
    kernel: horizontal and vertical extent of the kernel in pixels, odd.
    sigma: range of the standard deviation in pixels.

  Raises:
    ConfigError: for an even or negative extent, or a range that is not ordered and
      above 0.
  """
  errors.require(
    len(kernel) == 2 and all(isinstance(k, int) and k > 0 and k % 2 for k in kernel),
    f"kernel must be two odd integers above 0, got {kernel}",
  )
  require_range("sigma", sigma)

  def op(key, image):
    return unmixed(
      pixels.blur(image, pixels.per_image(key, image, *sigma), (kernel[1], kernel[0]))
    )

  return op


def color_blur(
  *,
  brightness: float = 0.25,
  contrast: float = 0.15,
  saturation: float = 0.15,
  hue: float = 0.15,
  kernel: tuple[int, int] = (7, 9),
  sigma: tuple[float, float] = (0.1, 2.0),
) -> Op:
  """Makes colour jitter followed by Gaussian blur, one operation in the released code.

  Args: those of `color` and `blur`.

  Raises:
    ConfigError: as `color` and `blur` do.
  """
  first = color(
    brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
  )
  second = blur(kernel=kernel, sigma=sigma)

  def op(key, image):
    color_key, blur_key = jax.random.split(key)
    return second(blur_key, first(color_key, image).image)

  return op
