"""Augmentations of colours."""

import dm_pix
import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Augment
from jaxdistill.inputs.draws import per_image
from jaxdistill.inputs.normalize import to_float

# The places of the four changes; each image makes them in an order of its own.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)

# Of red, green and blue in the gray that the eye sees (ITU-R BT.601).
_LUMINANCE = (0.2989, 0.587, 0.114)


def color_jitter(
  *,
  brightness: float = 0.4,
  contrast: float = 0.4,
  saturation: float = 0.4,
  hue: float = 0.1,
) -> Augment:
  """Returns colour jitter: four changes of every image, in an order of its own.

  Args:
    brightness: the factor is drawn from [1 - brightness, 1 + brightness], from 0 on.
    contrast: the same for the distance to the image's mean gray.
    saturation: the same for the distance to each pixel's gray.
    hue: largest turn of the hue circle, either way; 0.5 is half a turn.

  Raises:
    ConfigError: for a negative strength, or a hue above 0.5.

  Reference:
    torchvision's `ColorJitter`.
  """
  strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
  errors.require_not_negative(**strengths, hue=hue)
  errors.require(hue <= 0.5, f"hue must be at most 0.5, got {hue}")

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    *factor_keys, hue_key, order_key = jax.random.split(key, 5)
    factors = []
    for strength, factor_key in zip(strengths.values(), factor_keys, strict=True):
      low = max(0, 1 - strength)
      factors.append(per_image(factor_key, image, low, 1 + strength)[..., None])
    turn = per_image(hue_key, image, -hue, hue)
    # The order of four uniform numbers is a uniform permutation.
    order = jnp.argsort(jax.random.uniform(order_key, (image.shape[0], 4)), axis=1)

    def change(place: jax.Array, image: jax.Array) -> jax.Array:
      which = jnp.take(order, place, axis=1)[:, None, None, None]
      gray = _gray(image)
      mean_gray = gray.mean(axis=(1, 2), keepdims=True)
      # What each change blends the image with: black, its mean gray, or its grays.
      other = jnp.where(which == _SATURATION, gray, 0)
      other = jnp.where(which == _CONTRAST, mean_gray, other)
      factor = jnp.select([which == place for place in range(3)], factors)
      changed = jnp.clip(factor * image + (1 - factor) * other, 0, 1)
      if not hue:
        return jnp.where(which == _HUE, image, changed)
      turned = jnp.clip(dm_pix.adjust_hue(image, turn), 0, 1)
      return jnp.where(which == _HUE, turned, changed)

    return jax.lax.fori_loop(0, 4, change, to_float(image))

  return augment


def _gray(image: jax.Array) -> jax.Array:
  """Returns the gray of every pixel: f32[B, H, W, 1]."""
  weights = jnp.reshape(jnp.asarray(_LUMINANCE, jnp.float32), (1, 1, 1, 3))
  return (image * weights).sum(axis=-1, keepdims=True)
