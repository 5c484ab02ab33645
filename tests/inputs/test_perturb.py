"""The operations of the perturbation pool, each against what its docstring promises."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.inputs import perturb
from jaxdistill.tools import perturbations

OPS = ("affine", "blur", "color", "color_blur", "cutmix", "elastic", "hflip", "mixup", "noise",
       "resized_crop", "vflip")
MIXING = ("cutmix", "mixup")
NO_AFFINE = dict(rotation=0.0, shear=0.0, scale=(1.0, 1.0), translation=0.0)
NO_COLOR = dict(brightness=0, contrast=0, saturation=0, hue=0)
KEY = jax.random.key(3)


def _random_images(batch=16, height=12, width=16):
  # Not square, so that rows taken for columns show.
  return jax.random.uniform(jax.random.key(0), (batch, height, width, 3))


def _ramp(batch, height, width):
  """Images whose channels 0 and 1 are the row and the column of each pixel, scaled to [0, 1]."""
  rows = np.linspace(0, 1, height)[:, None] * np.ones((1, width))
  cols = np.linspace(0, 1, width)[None, :] * np.ones((height, 1))
  ramp = np.stack([rows, cols, rows], axis=-1).astype(np.float32)
  return jnp.asarray(np.broadcast_to(ramp, (batch, height, width, 3)))


def _source(image):
  """Pixel coordinates [..., 2] a ramp's pixels were taken from."""
  return np.asarray(image[..., :2]) * (np.array(image.shape[1:3]) - 1)


@functools.cache
def _compiled(name, **strengths):
  return jax.jit(registry.resolve("perturb", name, **strengths))


@pytest.mark.parametrize("name", OPS)
def test_contract(name):
  image = _random_images()
  result = _compiled(name)(KEY, image)
  assert np.isfinite(result.image).all()
  # Interpolation may round past a bound by one unit in the last place.
  assert result.image.min() >= -1e-6 and result.image.max() <= 1 + 1e-6
  assert np.abs(result.image - image).max(axis=(1, 2, 3)).mean() > 0.05
  again, other = _compiled(name)(KEY, image), _compiled(name)(jax.random.key(4), image)
  np.testing.assert_array_equal(result.image, again.image)
  assert (name in ("hflip", "vflip")) == bool((other.image == result.image).all())
  np.testing.assert_array_equal(np.sort(result.permutation), np.arange(len(image)))
  if name in MIXING:
    assert 0 < result.weight < 1 and other.weight != result.weight
    assert (result.permutation != other.permutation).any()
  else:
    assert result.weight == 1
    np.testing.assert_array_equal(result.permutation, np.arange(len(image)))


@pytest.mark.parametrize("size", [8, 32, 224])
def test_operations_are_interchangeable(size):
  image = jax.ShapeDtypeStruct((4, size, size, 3), jnp.float32)
  expected = (image, jax.ShapeDtypeStruct((4,), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32))
  for name in OPS:
    shapes = jax.eval_shape(registry.resolve("perturb", name), KEY, image)
    for got, want in zip(shapes, expected, strict=True):
      assert (got.shape, got.dtype, got.weak_type) == (want.shape, want.dtype, False), name


@pytest.mark.parametrize("name", [name for name in OPS if name not in MIXING + ("hflip", "vflip")])
def test_one_draw_per_image(name):
  image = jnp.broadcast_to(_random_images()[:1], (16, 12, 16, 3))
  result = np.asarray(_compiled(name)(KEY, image).image)
  assert all((result[0] != other).any() for other in result[1:])


def test_registry_finds_the_operations_and_nothing_else():
  assert registry.list_available("perturb") == OPS
  assert set(perturb.DEFAULT_POOL) | set(perturb.RELEASED_POOL) <= set(OPS)
  for name, strengths in perturb.RELEASED_STRENGTHS.items():
    assert name in perturb.RELEASED_POOL
    registry.resolve("perturb", name, **strengths)


def test_mixup_blends_with_the_partner():
  image = _random_images()
  result = _compiled("mixup")(KEY, image)
  expected = result.weight * image + (1 - result.weight) * image[result.permutation]
  np.testing.assert_allclose(result.image, expected, rtol=0, atol=1e-7)


def test_mixup_weight_follows_beta():
  op = perturb.mixup(concentration=0.3)
  weight = jax.jit(jax.vmap(lambda key: op(key, jnp.zeros((1, 1, 1, 3))).weight))(jax.random.split(KEY, 1000))
  assert abs(weight.mean() - 0.5) < 0.05
  assert abs(weight.var() - 1 / (4 * (2 * 0.3 + 1))) < 0.02


def test_cutmix_weight_is_the_kept_area():
  image = _random_images()
  kept_areas = []
  for seed in range(12):
    result = _compiled("cutmix")(jax.random.key(seed), image)
    own = np.asarray(result.image == image).all(-1)
    partner = np.asarray(result.image == image[result.permutation]).all(-1)
    assert (own | partner).all()
    for row in np.flatnonzero(np.asarray(result.permutation) != np.arange(len(image))):
      np.testing.assert_allclose(own[row].mean(), result.weight, atol=1e-6)
      rows, cols = np.nonzero(~own[row])
      if len(rows):
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(cols) + 1), "the partner's part is not one box"
    kept_areas.append(float(result.weight))
  assert len(set(kept_areas)) > 6


def test_noise_has_the_stddev_asked_for():
  gray = jnp.full((8, 16, 16, 3), 0.5)
  added = np.asarray(_compiled("noise", stddev=0.07)(KEY, gray).image) - 0.5
  assert abs(added.std() - 0.07) < 0.003 and abs(added.mean()) < 0.003
  bright = _compiled("noise", stddev=0.5)(KEY, jnp.ones_like(gray)).image
  assert bright.max() == 1 and bright.min() >= 0


def test_elastic_displacement_is_bounded():
  ramp = _ramp(16, 24, 32)
  moved = np.abs(_source(_compiled("elastic", displacement=0.1)(KEY, ramp).image) - _source(ramp))
  bound = 0.1 * np.array([24, 32])
  assert (moved <= bound + 1e-3).all()
  assert (moved.max(axis=(0, 1, 2)) > 0.6 * bound).all()


def _central_map(**strengths):
  """Jacobian [B, 2, 2] and offset [B, 2] in pixels at the centre of ramps that went through `affine`."""
  source = _source(_compiled("affine", **NO_AFFINE | strengths)(KEY, _ramp(64, 33, 41)).image)
  down, right = source[:, 18, 20] - source[:, 14, 20], source[:, 16, 22] - source[:, 16, 18]
  return np.stack([down, right], axis=-1) / 4, source[:, 16, 20] - [16, 20]


def test_affine_of_no_strength_is_the_identity():
  image = _random_images()
  result = _compiled("affine", **NO_AFFINE)(KEY, image)
  np.testing.assert_allclose(result.image, image, atol=1e-6)


def test_affine_rotation():
  jacobian, offset = _central_map(rotation=30.0)
  degrees = np.degrees(np.arctan2(jacobian[:, 1, 0], jacobian[:, 0, 0]))
  assert np.abs(degrees).max() <= 30.01 and degrees.max() > 24 and degrees.min() < -24
  squared = jacobian @ jacobian.swapaxes(1, 2)
  np.testing.assert_allclose(squared, np.broadcast_to(np.eye(2), (64, 2, 2)), atol=1e-4)
  np.testing.assert_allclose(offset, 0, atol=1e-4)


def test_affine_scale():
  jacobian, offset = _central_map(scale=(0.5, 1.25))
  magnification = 1 / jacobian[:, 0, 0]
  assert 0.5 <= magnification.min() < 0.6 and 1.1 < magnification.max() <= 1.2501
  np.testing.assert_allclose(jacobian, jacobian[:, :1, :1] * np.eye(2), atol=1e-4)
  np.testing.assert_allclose(offset, 0, atol=1e-4)


def test_affine_shear():
  jacobian, offset = _central_map(shear=0.3)
  slant = jacobian[:, 1, 0]
  assert np.abs(slant).max() <= 0.3001 and slant.max() > 0.2 and slant.min() < -0.2
  np.testing.assert_allclose(jacobian[:, :, 1], np.broadcast_to([0.0, 1.0], (64, 2)), atol=1e-4)
  np.testing.assert_allclose(offset, 0, atol=1e-4)


def test_affine_translation():
  jacobian, offset = _central_map(translation=0.2)
  np.testing.assert_allclose(jacobian, np.broadcast_to(np.eye(2), (64, 2, 2)), atol=1e-4)
  limit = 0.2 * np.array([33, 41])
  assert (np.abs(offset) <= limit + 1e-3).all() and (np.abs(offset).max(axis=0) > 0.8 * limit).all()
  assert abs(np.corrcoef(offset.T)[0, 1]) < 0.5


@pytest.mark.parametrize("scale, ratio", [((0.3, 0.7), (3 / 4, 4 / 3)), ((0.8, 1.0), (0.25, 4.0))])
def test_resized_crop_area_share(scale, ratio):
  source = _source(_compiled("resized_crop", scale=scale, ratio=ratio)(KEY, _ramp(64, 24, 32)).image)
  height = (source[:, 16, 16, 0] - source[:, 8, 16, 0]) / 8
  width = (source[:, 12, 24, 1] - source[:, 12, 8, 1]) / 16
  area, aspect = height * width, width / height
  assert area.min() >= scale[0] - 1e-3 and area.max() <= scale[1] + 1e-3
  assert np.ptp(area) > 0.7 * (scale[1] - scale[0])
  assert aspect.min() >= ratio[0] - 1e-3 and aspect.max() <= ratio[1] + 1e-3 and np.ptp(aspect) > 0.2
  # The window lies anywhere in the image: its first row, extrapolated from the middle, is inside.
  for axis, size, side in ((0, height, 24), (1, width, 32)):
    start = source[:, 12, 16, axis] + 0.5 - (side / 2 + 0.5) * size
    assert start.min() > -1e-2 and (start + size * side).max() < side + 1e-2
    assert np.ptp(start) > 0.3 * side * (1 - scale[0]) / 2


def _jittered(upper, lower):
  """The two pixels f32[64, 2, 3] of 64 images, one colour above another, after jitter of default strength."""
  image = jnp.broadcast_to(jnp.array([upper, lower])[None, :, None], (64, 2, 2, 3))
  return np.asarray(_compiled("color")(KEY, image).image[:, :, 0])


def test_color_factors():
  # Gray has neither hue nor saturation, one colour has no contrast, and ratios do not see brightness.
  gray = _jittered([0.3] * 3, [0.7] * 3)[..., 0]
  brightness = gray.sum(axis=1)
  assert 0.75 <= brightness.min() < 0.8 and 1.2 < brightness.max() <= 1.2501
  contrast = np.ptp(gray, axis=1) / brightness / 0.4
  assert 0.849 <= contrast.min() < 0.9 and 1.1 < contrast.max() <= 1.151
  brown = [0.7, 0.5, 0.4]
  old_hue, old_saturation, _ = colorsys.rgb_to_hsv(*brown)
  hue, saturation, _ = np.array([colorsys.rgb_to_hsv(*color) for color in _jittered(brown, brown)[:, 0]]).T
  turn = (hue - old_hue + 0.5) % 1 - 0.5
  assert -0.1501 <= turn.min() < -0.12 and 0.12 < turn.max() <= 0.1501
  saturation /= old_saturation
  assert 0.849 <= saturation.min() < 0.9 and 1.1 < saturation.max() <= 1.151
  factors = np.stack([brightness, contrast, saturation, turn])
  assert np.abs(np.corrcoef(factors) - np.eye(4)).max() < 0.5, "two of them share a draw"


def test_color_of_no_strength_is_the_identity():
  image = _random_images()
  np.testing.assert_allclose(_compiled("color", **NO_COLOR)(KEY, image).image, image, atol=1e-5)


def test_blur():
  constant = _compiled("blur")(KEY, jnp.full((16, 12, 16, 3), 0.3)).image
  np.testing.assert_allclose(constant, 0.3, rtol=1e-5)
  impulse = jnp.zeros((2, 25, 25, 3)).at[:, 12, 12].set(1.0)
  spread = np.asarray(_compiled("blur", kernel=(7, 9), sigma=(2.0, 2.0))(KEY, impulse).image[0, :, :, 0])
  rows, cols = np.nonzero(spread)
  assert (rows.min(), rows.max(), cols.min(), cols.max()) == (8, 16, 9, 15)
  np.testing.assert_allclose(spread.sum(), 1, rtol=1e-5)
  np.testing.assert_allclose(spread[13, 12] / spread[12, 12], np.exp(-1 / 8), rtol=1e-5)


def test_flips():
  image = _random_images()
  np.testing.assert_array_equal(perturb.hflip()(KEY, image).image, np.flip(image, 2))
  np.testing.assert_array_equal(perturb.vflip()(KEY, image).image, np.flip(image, 1))


@pytest.mark.parametrize("name, strengths", [
    ("mixup", dict(concentration=0)), ("cutmix", dict(concentration=-1)),
    ("noise", dict(stddev=float("nan"))), ("noise", dict(stddev=0)),
    ("elastic", dict(displacement=0)), ("elastic", dict(grid=1)), ("affine", dict(rotation=-1)),
    ("affine", dict(shear=-0.1)), ("affine", dict(translation=float("inf"))), ("affine", dict(scale=(0, 1))),
    ("resized_crop", dict(scale=(0.7, 0.3))), ("resized_crop", dict(scale=(0.5, 1.5))),
    ("resized_crop", dict(ratio=(1, float("inf")))), ("color", dict(brightness=-0.1)),
    ("color", dict(contrast=1.5)), ("color", dict(saturation=2)), ("color", dict(hue=0.6)),
    ("blur", dict(kernel=(7, 8))), ("blur", dict(sigma=(0.1, 2, 3))), ("color_blur", dict(hue=-1)),
    ("color_blur", dict(kernel=(7,)))])
def test_bad_strengths_name_their_key(name, strengths):
  key, = strengths
  with pytest.raises(ConfigError, match=rf"^{key} "):
    registry.resolve("perturb", name, **strengths)


def test_contact_sheet_shows_the_original_above_each_operation():
  images = np.asarray(_random_images(3) * 255).astype(np.uint8)
  sheet = np.asarray(perturbations.contact_sheet(images, {"hflip": perturb.hflip()}, KEY, scale=4))
  enlarged = images[0].repeat(4, 0).repeat(4, 1)
  windows = np.lib.stride_tricks.sliding_window_view(sheet, enlarged.shape)[..., 0, :, :, :]
  first = np.argwhere((windows == enlarged).all((-1, -2, -3)))
  flipped = np.argwhere((windows == enlarged[:, ::-1]).all((-1, -2, -3)))
  assert len(first) == len(flipped) == 1
  assert first[0][0] + 48 <= flipped[0][0] and first[0][1] == flipped[0][1]
