"""The classic augmentation: what is cropped, how often it flips, and that devices do not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError
from jaxdistill.inputs import augment

KEY = jax.random.key(5)


def _images(batch=64, height=6, width=9):
  return jax.random.randint(jax.random.key(0), (batch, height, width, 3), 1, 256).astype(jnp.uint8)


def _windows(result, image, padding, mode):
  """For every image the (row, column, flipped) of the window of the padded image that it is."""
  bytes_out = np.rint(np.asarray(result) * 255).astype(np.uint8)
  padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
  height, width = image.shape[1:3]
  found = []
  for out, source in zip(bytes_out, padded):
    found.append([(row, col, flipped) for row in range(2 * padding + 1) for col in range(2 * padding + 1)
                  for flipped in (False, True)
                  if (out == source[row:row + height, col:col + width][:, ::-1 if flipped else 1]).all()])
  assert all(len(places) == 1 for places in found)
  return np.array(found)[:, 0]


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crops_are_windows_of_the_padded_image(mode):
  image = _images(256)
  result = jax.jit(augment.pad_crop_flip(padding=2, mode=mode))(KEY, image)
  rows, cols, flipped = _windows(result, image, 2, mode).T
  # Five offsets along each axis, equally likely, drawn apart from each other and from the flip.
  for first, second, cells in ((rows, cols, 25), (rows, flipped, 10), (cols, flipped, 10)):
    pairs, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    assert pairs.shape[1] == cells
    # The 99.95 % point of 24 degrees of freedom.
    assert ((counts - 256 / cells) ** 2 / (256 / cells)).sum() < 55
  assert 96 < flipped.sum() < 160


def test_flip_can_be_switched_off():
  image = _images()
  result = jax.jit(augment.pad_crop_flip(padding=1, flip=False))(KEY, image)
  assert not _windows(result, image, 1, "constant")[:, 2].any()


def test_flip_alone_flips_about_half():
  image = _images(512)
  result = jax.jit(augment.pad_crop_flip(padding=0))(KEY, image)
  kept = np.asarray(result == augment.to_float(image)).all((1, 2, 3))
  flipped = np.asarray(result == augment.to_float(image)[:, :, ::-1]).all((1, 2, 3))
  assert (kept ^ flipped).all() and 206 < flipped.sum() < 306


def test_draws_depend_on_the_key_only():
  image, crop = _images(), jax.jit(augment.pad_crop_flip())
  np.testing.assert_array_equal(crop(KEY, image), crop(KEY, image))
  assert (crop(KEY, image) != crop(jax.random.key(6), image)).any()
  np.testing.assert_array_equal(crop(KEY, image), crop(KEY, augment.to_float(image)))


def test_nothing_to_do_is_to_float():
  image = _images()
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
  np.testing.assert_allclose(result, np.broadcast_to([0.0, 2.0, 1.0], image.shape), rtol=1e-5)


@pytest.mark.parametrize("wrong, key", [
    (dict(padding=-1), "padding"), (dict(padding=1.5), "padding"), (dict(mode="wrap"), "mode")])
def test_bad_strengths_name_their_key(wrong, key):
  with pytest.raises(ConfigError, match=rf"augment\.{key} "):
    augment.pad_crop_flip(**wrong)


def test_one_device_equals_eight():
  image = _images()
  spread = jax.device_put(image, sharding.shard_over_rows(sharding.make_mesh(8)))
  crop = jax.jit(augment.pad_crop_flip())
  np.testing.assert_array_equal(crop(KEY, image), crop(KEY, spread))


def test_cutout_blots_out_one_square_around_a_random_place():
  image = jnp.full((2000, 9, 9, 3), 255, jnp.uint8)
  cut = augment.pad_crop_flip(padding=0, flip=False, cutout=4, fill=(0.2, 0.4, 0.6))
  result = np.asarray(jax.jit(cut)(KEY, image))
  gone = result[..., 0] != 1
  np.testing.assert_allclose(result[gone], np.broadcast_to([0.2, 0.4, 0.6], (gone.sum(), 3)), rtol=1e-6)
  rows, columns = gone.any(2), gone.any(1)
  assert (gone == rows[:, :, None] & columns[:, None, :]).all()
  # Whole within the image, cut off at its border: 4 long for 6 of the 9 centres, 2 and 3 before, 3 after.
  for sides in (rows.sum(1), columns.sum(1)):
    np.testing.assert_allclose(np.bincount(sides, minlength=5) / 2000, [0, 0, 1 / 9, 2 / 9, 6 / 9], atol=0.04)
  with pytest.raises(ConfigError, match="augment.cutout must be an integer of at least 0, got -1"):
    augment.pad_crop_flip(cutout=-1)
