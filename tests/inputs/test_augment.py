"""The augmentations, each against what its docstring promises, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.core.types import Mix
from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError
from jaxdistill.inputs.augment import RECIPES, pool
from jaxdistill.inputs.normalize import to_float
from jaxdistill.tools import sheet

KEY = jax.random.key(5)
MEAN = (0.2, 0.4, 0.6)
STD = (0.1, 0.2, 0.3)
OPS = registry.list_available("augment")

# Of the first eight images under the key above.
ROWS = [3, 4, 0, 3, 0, 4, 0, 2]
COLUMNS = [2, 0, 3, 3, 2, 1, 2, 4]
FLIPPED = [0, 0, 1, 0, 0, 1, 0, 0]


def op(name, size=(6, 9), **strengths):
  """An augmentation of a data set with these colours and sizes."""
  given = {"mean": MEAN, "std": STD, "size": size}
  for argument, value in given.items():
    if registry.takes("augment", name, argument):
      strengths.setdefault(argument, value)
  return registry.resolve("augment", name, **strengths)


def made(**ops):
  """What a pool does to each image: name -> strengths."""
  each = {name: op(name, **strengths) for name, strengths in ops.items()}
  return jax.jit(pool.make_augment(each).augment)


def run(name, image, size=(6, 9), **strengths):
  return np.asarray(jax.jit(op(name, size, **strengths))(KEY, image))


def random_images(batch=64, height=6, width=9):
  shape = (batch, height, width, 3)
  return jax.random.randint(jax.random.key(0), shape, 1, 256).astype(jnp.uint8)


def window_of(output, padded, padding):
  """Finds which window of a padded image an output is: (row, column, flipped)."""
  height, width = output.shape[:2]
  found = []
  for row in range(2 * padding + 1):
    for column in range(2 * padding + 1):
      window = padded[row : row + height, column : column + width]
      if (output == window).all():
        found.append((row, column, False))
      if (output == window[:, ::-1]).all():
        found.append((row, column, True))
  (place,) = found
  return place


def windows(result, image, padding, mode):
  """Finds the windows of all images: rows, columns and whether they are flipped."""
  borders = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  padded = np.pad(image, borders, mode=mode)
  outputs = np.rint(np.asarray(result) * 255).astype(np.uint8)
  pairs = zip(outputs, padded, strict=True)
  return np.array([window_of(*pair, padding) for pair in pairs]).T


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crops_are_windows_of_the_padded_image(mode):
  image = random_images(256)
  result = made(pad_crop={"padding": 2, "mode": mode}, hflip={})(KEY, image)
  rows, columns, flipped = windows(result, image, 2, mode)
  # Five offsets along each axis, equally likely, drawn apart from each other and from
  # the flip.
  pairs = ((rows, columns, 25), (rows, flipped, 10), (columns, flipped, 10))
  for first, second, cells in pairs:
    found, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    assert found.shape[1] == cells
    expected = 256 / cells
    # The 99.95 % point of 24 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 55
  assert 96 < flipped.sum() < 160


def test_runs_that_were_begun_draw_as_before():
  """Recorded while padding, cropping and flipping were one operation."""
  image = random_images(8)
  result = made(pad_crop={"padding": 2}, hflip={}, cutout={"side": 0})(KEY, image)
  rows, columns, flipped = windows(result, image, 2, "constant")
  np.testing.assert_array_equal(rows, ROWS)
  np.testing.assert_array_equal(columns, COLUMNS)
  np.testing.assert_array_equal(flipped, FLIPPED)


def test_flip_alone_flips_about_half():
  image = random_images(512)
  result = run("hflip", image)
  original = image
  kept = np.asarray(result == original).all((1, 2, 3))
  flipped = np.asarray(result == original[:, :, ::-1]).all((1, 2, 3))
  assert (kept ^ flipped).all()
  assert 206 < flipped.sum() < 306


def test_draws_depend_on_the_key_only():
  image = random_images()
  crop = made(pad_crop={}, hflip={})
  result = crop(KEY, image)
  np.testing.assert_array_equal(result, crop(KEY, image))
  assert (result != crop(jax.random.key(6), image)).any()
  np.testing.assert_array_equal(result, crop(KEY, to_float(image)))


def test_nothing_to_do_is_to_float():
  image = random_images()
  result = made()(KEY, image)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, np.asarray(image, np.float32) / 255, rtol=1e-6)


@pytest.mark.parametrize(
  "name, wrong, message",
  [
    ("pad_crop", {"padding": -1}, "^padding must be an integer of at least 0"),
    ("pad_crop", {"padding": 1.5}, "^padding "),
    ("pad_crop", {"mode": "wrap"}, "^mode "),
    ("cutout", {"side": -1}, "^side must be an integer of at least 0 and at most 4096"),
    ("hflip", {"probability": 1.5}, "^probability must be at least 0 and at most 1"),
    ("random_resized_crop", {"area": (0.5, 1.5)}, "^area "),
    ("random_resized_crop", {"interpolation": "nearest"}, "^interpolation "),
    ("random_erasing", {"fill": "black"}, "^fill "),
    ("color_jitter", {"hue": 0.6}, "^hue "),
    ("rand_augment", {"magnitude": 11.0}, "^magnitude "),
    ("rand_augment", {"layers": 0}, "^layers "),
    ("mix", {"mixup": 0.0, "cutmix": 0.0}, "^mixup and cutmix are both 0"),
    ("mix", {"switch": -0.5}, "^switch "),
  ],
)
def test_bad_strengths_name_their_key(name, wrong, message):
  with pytest.raises(ConfigError, match=message):
    op(name, **wrong)


def test_one_device_equals_eight():
  image = random_images()
  spread = jax.device_put(image, sharding.shard_over_rows(sharding.make_mesh(8)))
  crop = made(pad_crop={}, hflip={})
  np.testing.assert_array_equal(crop(KEY, image), crop(KEY, spread))


def test_cutout_blots_out_one_square_around_a_random_place():
  image = jnp.full((2000, 9, 9, 3), 255, jnp.uint8)
  colour = (0.2, 0.4, 0.6)
  result = run("cutout", image, mean=colour, side=4)
  gone = result[..., 0] != 1
  expected = np.broadcast_to(colour, (gone.sum(), 3))
  np.testing.assert_allclose(result[gone], expected, rtol=1e-6)
  rows = gone.any(2)
  columns = gone.any(1)
  assert (gone == rows[:, :, None] & columns[:, None, :]).all()
  # Whole within the image, cut off at its border: 4 long for 6 of the 9 centres, 2 and
  # 3 before, 3 after.
  fractions = [0, 0, 1 / 9, 2 / 9, 6 / 9]
  for sides in (rows.sum(1), columns.sum(1)):
    found = np.bincount(sides, minlength=5) / 2000
    np.testing.assert_allclose(found, fractions, atol=0.04)


# Registration.


def test_recipes_name_operations_and_strengths_that_there_are():
  for recipe in RECIPES.values():
    for name, strengths in recipe.items():
      op(name, **strengths)


@pytest.mark.parametrize("name", [name for name in OPS if name != "mix"])
def test_images_become_as_large_as_the_networks_see_them(name):
  image = jax.ShapeDtypeStruct((4, 20, 24, 3), jnp.uint8)
  result = jax.eval_shape(
    pool.make_augment({name: op(name, (8, 12))}).augment, KEY, image
  )
  resized = name in ("random_crop", "random_resized_crop")
  assert result.shape == ((4, 8, 12, 3) if resized else image.shape)
  assert result.dtype == jnp.float32


def test_what_mixes_images_comes_last():
  with pytest.raises(ConfigError, match="augment.ops: hflip comes after an operation"):
    pool.make_augment({"mix": op("mix"), "hflip": op("hflip")})
  found = pool.make_augment({"hflip": op("hflip"), "mix": op("mix")})
  assert isinstance(found.mix, Mix)
  assert pool.make_augment({"hflip": op("hflip")}).mix is None


# Crops.


def test_random_crops_are_windows_of_larger_images():
  image = random_images(64, height=8, width=11)
  result = run("random_crop", image)
  assert result.dtype == np.uint8
  found = [window_of_larger(*pair) for pair in zip(result, image, strict=True)]
  # Three places along each axis.
  assert set(found) == {(row, column) for row in range(3) for column in range(3)}
  with pytest.raises(ConfigError, match="makes 6 x 9 pixels of the .* have 5 x 9"):
    op("random_crop")(KEY, image[:, :5, :9])


def window_of_larger(output, image):
  """Finds which window of a larger image an output is: (row, column)."""
  height, width = output.shape[:2]
  windows = np.lib.stride_tricks.sliding_window_view(np.asarray(image), output.shape)
  (place,) = np.argwhere((windows[..., 0, :, :, :] == output).all((-1, -2, -3)))
  assert output.shape == (height, width, 3)
  return tuple(int(part) for part in place)


def test_random_resized_crops_have_areas_and_ratios_of_their_range():
  # Each pixel is its row and its column, so the result tells the window it was.
  height, width = 60, 80
  rows, columns = np.mgrid[:height, :width].astype(np.float32)
  ramp = np.stack([rows / height, columns / width, 0 * rows], axis=-1)
  image = jnp.asarray(np.broadcast_to(ramp, (128, *ramp.shape)))
  # Windows are made larger only: a smaller ramp is not quite a ramp.
  size = (64, 96)
  result = run("random_resized_crop", image, size, area=(0.2, 0.6), ratio=(0.5, 2.0))
  inner = result[:, 16:-16, 16:-16, :2] * [height, width]
  # From one output pixel to the next, in pixels of the image.
  down = np.diff(inner[..., 0], axis=1).mean((1, 2))
  right = np.diff(inner[..., 1], axis=2).mean((1, 2))
  steps = np.stack([down, right], axis=1)
  sides = steps * size
  np.testing.assert_allclose(sides, np.round(sides), atol=0.02)
  area = sides.prod(axis=1) / (height * width)
  ratio = sides[:, 1] / sides[:, 0]
  assert 0.19 < area.min() < 0.25 and 0.53 < area.max() < 0.61
  assert 0.48 < ratio.min() < 0.65 and 1.6 < ratio.max() < 2.1
  assert abs(area.mean() - 0.4) < 0.05
  # Of the window's first pixel, from the middle of an output pixel.
  start = inner[:, 0, 0] - 16.5 * steps + 0.5
  assert (start > -0.05).all()
  assert (start + sides < [height + 0.05, width + 0.05]).all()
  assert len(np.unique(np.round(start), axis=0)) > 60


def test_a_crop_that_no_window_fits_is_the_largest_in_the_middle():
  image = jnp.zeros((2, 8, 32, 3)).at[:, :, 11:21].set(1.0)
  result = run(
    "random_resized_crop", image, (8, 10), area=(1.0, 1.0), ratio=(1.2, 1.25)
  )
  np.testing.assert_allclose(result[:, :, 1:-1], 1, atol=1e-6)


# What is blotted out.


def test_random_erasing_fills_rectangles_of_some_images():
  image = jnp.full((512, 20, 30, 3), 0.9)
  strengths = {"probability": 0.3, "area": (0.1, 0.3), "ratio": (0.5, 2.0)}
  result = run("random_erasing", image, fill="mean", **strengths)
  gone = result[..., 0] != np.float32(0.9)
  np.testing.assert_allclose(result[gone], np.broadcast_to(MEAN, (gone.sum(), 3)))
  erased = gone.any((1, 2))
  assert abs(erased.mean() - 0.3) < 0.07
  rows = gone.any(2)[erased].sum(1)
  columns = gone.any(1)[erased].sum(1)
  np.testing.assert_array_equal(gone[erased].sum((1, 2)), rows * columns)
  area = rows * columns / 600
  # Sides are whole pixels.
  assert 0.085 < area.min() < 0.13 and 0.26 < area.max() < 0.33
  assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) > 30


def test_noise_is_that_of_the_data_before_it_is_normalised():
  image = jnp.zeros((64, 20, 30, 3))
  result = run("random_erasing", image, probability=1.0)
  noise = result[(result != 0).all(-1)]
  np.testing.assert_allclose(noise.mean(0), MEAN, atol=0.02)
  np.testing.assert_allclose(noise.std(0), STD, atol=0.02)


@pytest.mark.slow
def test_erased_rectangles_may_have_one_value():
  image = jnp.zeros((64, 20, 30, 3))
  result = run("random_erasing", image, probability=1.0, fill="constant", value=0.25)
  assert set(np.unique(result)) == {0, 0.25}


# Colours.


@pytest.mark.slow
def test_each_change_of_color_jitter_blends_with_its_own_image(rng):
  image = jnp.asarray(rng.uniform(0.3, 0.6, (64, 4, 5, 3)), jnp.float32)
  gray = np.asarray(image) @ np.array([0.2989, 0.587, 0.114], np.float32)
  nothing = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
  others = {
    "brightness": np.zeros((64, 1, 1, 1)),
    "contrast": gray.mean((1, 2))[:, None, None, None],
    "saturation": gray[..., None],
  }
  for name, other in others.items():
    result = run("color_jitter", image, **{**nothing, name: 0.3})
    moved = (result - other) * (image - other)
    factor = moved.sum((1, 2, 3)) / ((image - other) ** 2).sum((1, 2, 3))
    expected = other + factor[:, None, None, None] * (image - other)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert 0.69 < factor.min() < 0.76 and 1.24 < factor.max() < 1.31


def test_equal_images_jitter_apart_and_stay_in_range(rng):
  image = jnp.broadcast_to(jnp.asarray(rng.uniform(size=(1, 4, 5, 3))), (64, 4, 5, 3))
  result = run("color_jitter", image.astype(jnp.float32))
  assert result.min() >= 0 and result.max() <= 1
  assert len(np.unique(result.reshape(64, -1), axis=0)) == 64


@pytest.mark.slow
def test_a_sheet_of_all_augmentations_is_drawn(tmp_path):
  path = tmp_path / "sheet.png"
  assert sheet.main("augmentations", [f"--out={path}", "--count=2"]) == 0
  assert path.stat().st_size > 1000
