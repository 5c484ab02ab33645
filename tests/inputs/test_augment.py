"""The classic augmentation: what is cropped, how often it flips, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError
from jaxdistill.inputs import augment

KEY = jax.random.key(5)


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
  result = jax.jit(augment.pad_crop_flip(padding=2, mode=mode))(KEY, image)
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


def test_flip_can_be_switched_off():
  image = random_images()
  result = jax.jit(augment.pad_crop_flip(padding=1, flip=False))(KEY, image)
  _, _, flipped = windows(result, image, 1, "constant")
  assert not flipped.any()


def test_flip_alone_flips_about_half():
  image = random_images(512)
  result = jax.jit(augment.pad_crop_flip(padding=0))(KEY, image)
  original = augment.to_float(image)
  kept = np.asarray(result == original).all((1, 2, 3))
  flipped = np.asarray(result == original[:, :, ::-1]).all((1, 2, 3))
  assert (kept ^ flipped).all()
  assert 206 < flipped.sum() < 306


def test_draws_depend_on_the_key_only():
  image = random_images()
  crop = jax.jit(augment.pad_crop_flip())
  result = crop(KEY, image)
  np.testing.assert_array_equal(result, crop(KEY, image))
  assert (result != crop(jax.random.key(6), image)).any()
  np.testing.assert_array_equal(result, crop(KEY, augment.to_float(image)))


def test_nothing_to_do_is_to_float():
  image = random_images()
  result = jax.jit(augment.pad_crop_flip(padding=0, flip=False))(KEY, image)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, np.asarray(image, np.float32) / 255, rtol=1e-6)


def test_to_float():
  image = jnp.array([[0, 51, 255]], jnp.uint8)
  np.testing.assert_allclose(augment.to_float(image), [[0, 0.2, 1]], rtol=1e-6)
  kept = jnp.array([[0.1, 0.2, 0.3]])
  np.testing.assert_array_equal(augment.to_float(kept), kept)


@pytest.mark.parametrize("leading", [(), (2, 4), (3, 2, 4)])
def test_normalize(leading):
  image = jnp.broadcast_to(jnp.array([0.5, 0.6, 0.7]), leading + (5, 3))
  result = augment.normalize(image, (0.5, 0.4, 0.2), (0.25, 0.1, 0.5))
  assert result.dtype == jnp.float32
  expected = np.broadcast_to([0.0, 2.0, 1.0], image.shape)
  np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize(
  "wrong, key",
  [
    ({"padding": -1}, "padding"),
    ({"padding": 1.5}, "padding"),
    ({"mode": "wrap"}, "mode"),
  ],
)
def test_bad_strengths_name_their_key(wrong, key):
  with pytest.raises(ConfigError, match=rf"augment\.{key} "):
    augment.pad_crop_flip(**wrong)


def test_one_device_equals_eight():
  image = random_images()
  spread = jax.device_put(image, sharding.shard_over_rows(sharding.make_mesh(8)))
  crop = jax.jit(augment.pad_crop_flip())
  np.testing.assert_array_equal(crop(KEY, image), crop(KEY, spread))


def test_cutout_blots_out_one_square_around_a_random_place():
  image = jnp.full((2000, 9, 9, 3), 255, jnp.uint8)
  colour = (0.2, 0.4, 0.6)
  cut = augment.pad_crop_flip(padding=0, flip=False, cutout=4, fill=colour)
  result = np.asarray(jax.jit(cut)(KEY, image))
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


def test_a_negative_cutout_is_refused():
  message = "augment.cutout must be an integer of at least 0 and at most 4096, got -1"
  with pytest.raises(ConfigError, match=message):
    augment.pad_crop_flip(cutout=-1)
