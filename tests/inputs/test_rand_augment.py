"""RandAugment: every operation against Pillow's, and how often each is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest

from jaxdistill.inputs.augment import rand_augment
from jaxdistill.inputs.augment.rand_augment import OPERATIONS, Drawn

MEAN = (0.5, 0.25, 0.75)
FILL = tuple(round(255 * part) for part in MEAN)


def moved(image, *coefficients):
  """Takes each pixel from another place: a x + b y + c, d x + e y + f."""
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    coefficients,
    resample=Image.Resampling.BILINEAR,
    fillcolor=FILL,
  )


def rotated(image, degrees):
  return image.rotate(degrees, resample=Image.Resampling.BILINEAR, fillcolor=FILL)


def enhanced(kind):
  def apply(image, strength, sign):
    return kind(image).enhance(max(0.1, 1 + sign * 0.9 * strength))

  return apply


def brightened(image, strength):
  added = int(110 * strength)
  table = [min(255, level + added) if level < 128 else level for level in range(256)]
  return image.point(table * 3)


PILLOWS = {
  "rotate": lambda image, m, sign: rotated(image, sign * 30 * m),
  "shear_x": lambda image, m, sign: moved(image, 1, sign * 0.3 * m, 0, 0, 1, 0),
  "shear_y": lambda image, m, sign: moved(image, 1, 0, 0, sign * 0.3 * m, 1, 0),
  "translate_x": lambda image, m, sign: moved(
    image, 1, 0, sign * 0.45 * m * image.width, 0, 1, 0
  ),
  "translate_y": lambda image, m, sign: moved(
    image, 1, 0, 0, 0, 1, sign * 0.45 * m * image.height
  ),
  "brightness": enhanced(ImageEnhance.Brightness),
  "contrast": enhanced(ImageEnhance.Contrast),
  "color": enhanced(ImageEnhance.Color),
  "sharpness": enhanced(ImageEnhance.Sharpness),
  "auto_contrast": lambda image, m, sign: ImageOps.autocontrast(image),
  "equalize": lambda image, m, sign: ImageOps.equalize(image),
  "invert": lambda image, m, sign: ImageOps.invert(image),
  "posterize": lambda image, m, sign: ImageOps.posterize(image, 4 - int(4 * m)),
  "solarize": lambda image, m, sign: ImageOps.solarize(image, 256 - int(256 * m)),
  "solarize_add": lambda image, m, sign: brightened(image, m),
}


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.9, 0.37])
def test_each_operation_is_pillows(rng, strength):
  assert set(PILLOWS) == set(OPERATIONS)
  # Smooth, and of less than the whole range, so that there is something to stretch.
  small = rng.integers(20, 230, (2, 6, 5, 3), dtype=np.uint8)
  images = [Image.fromarray(image).resize((40, 50)) for image in small]
  levels = jnp.asarray(np.stack([np.asarray(image) for image in images]), jnp.float32)
  apply = jax.jit(lambda drawn: rand_augment.apply(drawn, levels, MEAN))
  signs = (1, -1)
  for position, name in enumerate(OPERATIONS):
    drawn = Drawn(
      op=jnp.full(2, position),
      strength=jnp.full(2, strength, jnp.float32),
      sign=jnp.array(signs, jnp.float32),
    )
    result = np.asarray(apply(drawn))
    for image, sign, got in zip(images, signs, result, strict=True):
      expected = np.asarray(PILLOWS[name](image, strength, sign), float)
      # Pillow computes in another precision: a rounding may differ by one level.
      assert np.abs(got - expected).max() <= 1, name
      assert (got != expected).mean() < 0.05, name
  nothing = Drawn(jnp.full(2, -1), jnp.ones(2), jnp.ones(2))
  np.testing.assert_array_equal(apply(nothing), levels)


@pytest.mark.slow
def test_each_image_draws_for_itself():
  image = jnp.broadcast_to(
    jnp.linspace(0.1, 0.9, 8 * 8 * 3).reshape(8, 8, 3), (256, 8, 8, 3)
  )
  augment = jax.jit(rand_augment.rand_augment(mean=MEAN))
  result = np.asarray(augment(jax.random.key(0), image))
  np.testing.assert_array_equal(result, augment(jax.random.key(0), image))
  assert result.min() >= 0 and result.max() <= 1
  # A quarter draws nothing that is applied; some operations change little here.
  unchanged = np.abs(result - image).max((1, 2, 3)) < 0.003
  assert 0.2 < unchanged.mean() < 0.45
  assert len(np.unique(result.reshape(256, -1), axis=0)) > 100
