"""The operations of the perturbation pool, each against what its docstring promises."""

import colorsys
import functools
import inspect
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.inputs import perturb
from jaxdistill.tools import sheet as sheets

OPS = (
  "affine",
  "blur",
  "color",
  "color_blur",
  "cutmix",
  "elastic",
  "hflip",
  "mixup",
  "noise",
  "resized_crop",
  "vflip",
)
MIXING = ("cutmix", "mixup")
FLIPS = ("hflip", "vflip")
ONE_DRAW_PER_IMAGE = sorted(set(OPS) - {*MIXING, *FLIPS})
NO_AFFINE = {"rotation": 0.0, "shear": 0.0, "scale": (1.0, 1.0), "translation": 0.0}
NO_COLOR = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
KEY = jax.random.key(3)


def random_images(batch=16, height=12, width=16):
  # Not square, so that rows taken for columns show.
  return jax.random.uniform(jax.random.key(0), (batch, height, width, 3))


def ramps(batch, height, width):
  """Images whose channels 0 and 1 are each pixel's row and column, scaled to [0, 1]."""
  rows = np.linspace(0, 1, height)[:, None] * np.ones((1, width))
  columns = np.linspace(0, 1, width)[None, :] * np.ones((height, 1))
  ramp = np.stack([rows, columns, rows], axis=-1).astype(np.float32)
  return jnp.asarray(np.broadcast_to(ramp, (batch, height, width, 3)))


def source(image):
  """Pixel coordinates [..., 2] a ramp's pixels were taken from."""
  return np.asarray(image[..., :2]) * (np.array(image.shape[1:3]) - 1)


@functools.cache
def compiled(name, **strengths):
  return jax.jit(registry.resolve("perturb", name, **strengths))


def perturbed(name, image, **strengths):
  """The images that an operation makes, as a NumPy array."""
  return np.asarray(compiled(name, **strengths)(KEY, image).image)


def assert_spans(values, low, high, *, margin, rounding=1e-4):
  """Checks that values stay within a range, and come within a margin of its ends."""
  assert low - rounding <= values.min() < low + margin
  assert high - margin < values.max() <= high + rounding


@pytest.mark.parametrize("name", OPS)
def test_images_change_and_stay_in_range(name):
  image = random_images()
  result = perturbed(name, image)
  assert np.isfinite(result).all()
  # Interpolation may round past a bound by one unit in the last place.
  assert result.min() >= -1e-6
  assert result.max() <= 1 + 1e-6
  assert np.abs(result - image).max(axis=(1, 2, 3)).mean() > 0.05


@pytest.mark.parametrize("name", OPS)
def test_draws_depend_on_the_key_only(name):
  image = random_images()
  result = compiled(name)(KEY, image)
  again = compiled(name)(KEY, image)
  np.testing.assert_array_equal(result.image, again.image)
  other = compiled(name)(jax.random.key(4), image)
  draws_nothing = bool((other.image == result.image).all())
  assert draws_nothing == (name in FLIPS)


@pytest.mark.parametrize("name", OPS)
def test_operations_say_what_they_mix(name):
  image = random_images()
  result = compiled(name)(KEY, image)
  indices = np.arange(len(image))
  np.testing.assert_array_equal(np.sort(result.permutation), indices)
  if name in MIXING:
    other = compiled(name)(jax.random.key(4), image)
    assert 0 < result.weight < 1
    assert other.weight != result.weight
    assert (result.permutation != other.permutation).any()
  else:
    assert result.weight == 1
    np.testing.assert_array_equal(result.permutation, indices)


@pytest.mark.parametrize("size", [8, 32, 224])
def test_operations_are_interchangeable(size):
  image = jax.ShapeDtypeStruct((4, size, size, 3), jnp.float32)
  permutation = jax.ShapeDtypeStruct((4,), jnp.int32)
  weight = jax.ShapeDtypeStruct((), jnp.float32)
  for name in OPS:
    result = jax.eval_shape(registry.resolve("perturb", name), KEY, image)
    for got, want in zip(result, (image, permutation, weight), strict=True):
      assert (got.shape, got.dtype) == (want.shape, want.dtype), name
      assert not got.weak_type, name


@pytest.mark.parametrize("name", ONE_DRAW_PER_IMAGE)
def test_one_draw_per_image(name):
  image = jnp.broadcast_to(random_images()[:1], (16, 12, 16, 3))
  first, *others = perturbed(name, image)
  for other in others:
    assert (first != other).any()


def test_registry_finds_the_operations_and_no_helpers():
  found = registry.list_available("perturb")
  assert set(OPS) <= set(found)
  for helper in ("make_perturb", "own_index", "unmixed"):
    assert helper not in found
  assert set(perturb.DEFAULT_POOL) | set(perturb.RELEASED_POOL) <= set(OPS)
  for name, strengths in perturb.RELEASED_STRENGTHS.items():
    assert name in perturb.RELEASED_POOL
    registry.resolve("perturb", name, **strengths)


def test_an_operation_of_ones_own_is_one_function_in_one_file(tmp_path, monkeypatch):
  """The one that the documentation shows, as it stands there."""
  _, _, rest = inspect.getdoc(perturb).partition("def shade")
  body, _, _ = rest.partition("\nReference:")
  example = textwrap.dedent("  def shade" + body)
  imports = (
    "import jax",
    "from jaxdistill.core.types import Op, Perturbed",
    "from jaxdistill.inputs.perturb import unmixed",
  )
  (tmp_path / "shading.py").write_text("\n".join([*imports, example]))
  monkeypatch.syspath_prepend(tmp_path)
  image = random_images()
  op = registry.resolve("perturb", "shading:shade", strength=0.9)
  result = op(KEY, image)
  factors = np.asarray(result.image / image)
  np.testing.assert_allclose(np.ptp(factors, axis=(1, 2, 3)), 0, atol=1e-5)
  assert_spans(factors, 0.1, 1, margin=0.2)
  np.testing.assert_array_equal(result.permutation, np.arange(len(image)))


def test_mixup_blends_with_the_partner():
  image = random_images()
  result = compiled("mixup")(KEY, image)
  partner = image[result.permutation]
  expected = result.weight * image + (1 - result.weight) * partner
  np.testing.assert_allclose(result.image, expected, rtol=0, atol=1e-7)


def test_mixup_weight_follows_beta():
  op = registry.resolve("perturb", "mixup", concentration=0.3)

  def draw(key):
    return op(key, jnp.zeros((1, 1, 1, 3))).weight

  weights = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 1000))
  assert abs(weights.mean() - 0.5) < 0.05
  assert abs(weights.var() - 1 / (4 * (2 * 0.3 + 1))) < 0.02


def test_cutmix_weight_is_the_kept_area():
  image = random_images()
  kept_areas = set()
  for seed in range(12):
    result = compiled("cutmix")(jax.random.key(seed), image)
    permutation = np.asarray(result.permutation)
    own = np.asarray(result.image == image).all(-1)
    partner = np.asarray(result.image == image[permutation]).all(-1)
    assert (own | partner).all()
    for index in np.flatnonzero(permutation != np.arange(len(image))):
      np.testing.assert_allclose(own[index].mean(), result.weight, atol=1e-6)
      rows, columns = np.nonzero(~own[index])
      if len(rows):
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert len(rows) == box, "the partner's part is not one box"
    kept_areas.add(float(result.weight))
  assert len(kept_areas) > 6


def test_noise_has_the_stddev_that_is_set():
  gray = jnp.full((8, 16, 16, 3), 0.5)
  added = perturbed("noise", gray, stddev=0.07) - 0.5
  assert abs(added.std() - 0.07) < 0.003
  assert abs(added.mean()) < 0.003
  bright = perturbed("noise", jnp.ones_like(gray), stddev=0.5)
  assert bright.max() == 1
  assert bright.min() >= 0


def test_elastic_displacement_is_bounded():
  ramp = ramps(16, 24, 32)
  moved = np.abs(source(perturbed("elastic", ramp, displacement=0.1)) - source(ramp))
  bound = 0.1 * np.array([24, 32])
  assert (moved <= bound + 1e-3).all()
  assert (moved.max(axis=(0, 1, 2)) > 0.6 * bound).all()


def central_map(**strengths):
  """What `affine` does at the centre of 64 images of 33 x 41 pixels.

  Returns:
    Jacobian [64, 2, 2], and offset [64, 2] in pixels.
  """
  image = perturbed("affine", ramps(64, 33, 41), **{**NO_AFFINE, **strengths})
  place = source(image)
  down = place[:, 18, 20] - place[:, 14, 20]
  right = place[:, 16, 22] - place[:, 16, 18]
  jacobian = np.stack([down, right], axis=-1) / 4
  return jacobian, place[:, 16, 20] - [16, 20]


def assert_all_equal(matrices, expected):
  """Checks that all of [64, ...] are equal to one."""
  broadcast = np.broadcast_to(expected, matrices.shape)
  np.testing.assert_allclose(matrices, broadcast, atol=1e-4)


def test_affine_of_no_strength_is_the_identity():
  image = random_images()
  result = perturbed("affine", image, **NO_AFFINE)
  np.testing.assert_allclose(result, image, atol=1e-6)


def test_affine_rotation():
  jacobian, offset = central_map(rotation=30.0)
  degrees = np.degrees(np.arctan2(jacobian[:, 1, 0], jacobian[:, 0, 0]))
  assert_spans(degrees, -30, 30, margin=6, rounding=0.01)
  assert_all_equal(jacobian @ jacobian.swapaxes(1, 2), np.eye(2))
  np.testing.assert_allclose(offset, 0, atol=1e-4)


def test_affine_scale():
  jacobian, offset = central_map(scale=(0.5, 1.25))
  magnification = 1 / jacobian[:, 0, 0]
  assert_spans(magnification, 0.5, 1.25, margin=0.1, rounding=0)
  np.testing.assert_allclose(jacobian, jacobian[:, :1, :1] * np.eye(2), atol=1e-4)
  np.testing.assert_allclose(offset, 0, atol=1e-4)


def test_affine_shear():
  jacobian, offset = central_map(shear=0.3)
  slant = jacobian[:, 1, 0]
  assert_spans(slant, -0.3, 0.3, margin=0.1)
  assert_all_equal(jacobian[:, :, 1], [0.0, 1.0])
  np.testing.assert_allclose(offset, 0, atol=1e-4)


def test_affine_translation():
  jacobian, offset = central_map(translation=0.2)
  assert_all_equal(jacobian, np.eye(2))
  limit = 0.2 * np.array([33, 41])
  assert (np.abs(offset) <= limit + 1e-3).all()
  assert (np.abs(offset).max(axis=0) > 0.8 * limit).all()
  assert abs(np.corrcoef(offset.T)[0, 1]) < 0.5


@pytest.mark.parametrize(
  "scale, ratio", [((0.3, 0.7), (3 / 4, 4 / 3)), ((0.8, 1.0), (0.25, 4.0))]
)
def test_resized_crop_takes_windows_of_the_area_and_ratio_that_are_set(scale, ratio):
  ramp = ramps(64, 24, 32)
  place = source(perturbed("resized_crop", ramp, scale=scale, ratio=ratio))
  height = (place[:, 16, 16, 0] - place[:, 8, 16, 0]) / 8
  width = (place[:, 12, 24, 1] - place[:, 12, 8, 1]) / 16
  area = height * width
  aspect = width / height
  assert area.min() >= scale[0] - 1e-3
  assert area.max() <= scale[1] + 1e-3
  assert np.ptp(area) > 0.7 * (scale[1] - scale[0])
  assert aspect.min() >= ratio[0] - 1e-3
  assert aspect.max() <= ratio[1] + 1e-3
  assert np.ptp(aspect) > 0.2
  # The window lies anywhere in the image: its first row, extrapolated from the middle,
  # is inside.
  for axis, size, side in ((0, height, 24), (1, width, 32)):
    start = place[:, 12, 16, axis] + 0.5 - (side / 2 + 0.5) * size
    assert start.min() > -1e-2
    assert (start + size * side).max() < side + 1e-2
    assert np.ptp(start) > 0.3 * side * (1 - scale[0]) / 2


def jittered(upper, lower):
  """Two pixels, one colour above another, of 64 images after jitter: f32[64, 2, 3]."""
  colours = jnp.array([upper, lower])[None, :, None]
  image = jnp.broadcast_to(colours, (64, 2, 2, 3))
  return perturbed("color", image)[:, :, 0]


def test_color_factors():
  # Gray has neither hue nor saturation, one colour has no contrast, and ratios do not
  # see brightness.
  gray = jittered([0.3] * 3, [0.7] * 3)[..., 0]
  brightness = gray.sum(axis=1)
  assert_spans(brightness, 0.75, 1.25, margin=0.05, rounding=0)
  contrast = np.ptp(gray, axis=1) / brightness / 0.4
  assert_spans(contrast, 0.85, 1.15, margin=0.05, rounding=1e-3)
  brown = [0.7, 0.5, 0.4]
  old_hue, old_saturation, _ = colorsys.rgb_to_hsv(*brown)
  pixels = jittered(brown, brown)[:, 0]
  hue, saturation, _ = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels]).T
  turn = (hue - old_hue + 0.5) % 1 - 0.5
  assert_spans(turn, -0.15, 0.15, margin=0.03)
  richness = saturation / old_saturation
  assert_spans(richness, 0.85, 1.15, margin=0.05, rounding=1e-3)
  factors = np.stack([brightness, contrast, richness, turn])
  correlation = np.corrcoef(factors) - np.eye(4)
  assert np.abs(correlation).max() < 0.5, "two of them come from one draw"


def test_color_of_no_strength_is_the_identity():
  image = random_images()
  np.testing.assert_allclose(perturbed("color", image, **NO_COLOR), image, atol=1e-5)


def test_blur_keeps_what_is_constant_up_to_the_border():
  constant = perturbed("blur", jnp.full((16, 12, 16, 3), 0.3))
  np.testing.assert_allclose(constant, 0.3, rtol=1e-5)


def test_blur_spreads_a_point_as_a_gaussian_cut_off_at_the_kernel():
  impulse = jnp.zeros((2, 25, 25, 3)).at[:, 12, 12].set(1.0)
  spread = perturbed("blur", impulse, kernel=(7, 9), sigma=(2.0, 2.0))[0, :, :, 0]
  rows, columns = np.nonzero(spread)
  assert (rows.min(), rows.max()) == (8, 16)
  assert (columns.min(), columns.max()) == (9, 15)
  np.testing.assert_allclose(spread.sum(), 1, rtol=1e-5)
  np.testing.assert_allclose(spread[13, 12] / spread[12, 12], np.exp(-1 / 8), rtol=1e-5)


def test_flips():
  image = random_images()
  np.testing.assert_array_equal(perturbed("hflip", image), np.flip(image, 2))
  np.testing.assert_array_equal(perturbed("vflip", image), np.flip(image, 1))


@pytest.mark.parametrize(
  "name, key, value",
  [
    ("mixup", "concentration", 0),
    ("cutmix", "concentration", -1),
    ("noise", "stddev", float("nan")),
    ("noise", "stddev", 0),
    ("elastic", "displacement", 0),
    ("elastic", "grid", 1),
    ("affine", "rotation", -1),
    ("affine", "shear", -0.1),
    ("affine", "translation", float("inf")),
    ("affine", "scale", (0, 1)),
    ("resized_crop", "scale", (0.7, 0.3)),
    ("resized_crop", "scale", (0.5, 1.5)),
    ("resized_crop", "ratio", (1, float("inf"))),
    ("color", "brightness", -0.1),
    ("color", "contrast", 1.5),
    ("color", "saturation", 2),
    ("color", "hue", 0.6),
    ("blur", "kernel", (7, 8)),
    ("blur", "sigma", (0.1, 2, 3)),
    ("color_blur", "hue", -1),
    ("color_blur", "kernel", (7,)),
  ],
)
def test_bad_strengths_name_their_key(name, key, value):
  with pytest.raises(ConfigError, match=rf"^{key} "):
    registry.resolve("perturb", name, **{key: value})


def test_contact_sheet_shows_the_original_above_each_operation():
  images = np.asarray(random_images(3) * 255).astype(np.uint8)
  ops = {"hflip": registry.resolve("perturb", "hflip")}
  sheet = np.asarray(sheets.contact_sheet(images, ops, KEY, scale=4))
  enlarged = images[0].repeat(4, 0).repeat(4, 1)
  windows = np.lib.stride_tricks.sliding_window_view(sheet, enlarged.shape)
  windows = windows[..., 0, :, :, :]
  (original,) = np.argwhere((windows == enlarged).all((-1, -2, -3)))
  (flipped,) = np.argwhere((windows == enlarged[:, ::-1]).all((-1, -2, -3)))
  # Below it, by the height of an image at least, and in the same column.
  assert original[0] + 48 <= flipped[0]
  assert original[1] == flipped[1]
