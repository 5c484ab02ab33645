"""Experiments: on other devices than the process has, of images of other sizes."""

import jax
import numpy as np
import pytest

from jaxdistill.data import Dataset, Split, Streamed
from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError
from jaxdistill.run import build
from jaxdistill.run.config import augmentation
from tests.helpers import runs


def test_an_experiment_is_built_for_the_devices_that_are_given(monkeypatch):
  """What depends on the platform follows them."""
  monkeypatch.setattr(sharding, "platform_of", lambda mesh: "tpu")
  given = jax.devices()[3:5]
  config = runs.config("competitive", "mesh.devices=0")
  experiment = build.build(config, devices=given)
  assert experiment.mesh.devices.flatten().tolist() == given
  steps = build.MAX_STEPS_PER_DISPATCH["tpu"]
  assert experiment.max_steps_per_dispatch == steps
  for leaf in jax.tree.leaves(experiment.state):
    assert leaf.sharding.device_set == set(given)


def test_convolutions_of_members_are_left_to_xla_on_tpus(monkeypatch):
  monkeypatch.setattr(sharding, "platform_of", lambda mesh: "tpu")

  def mappings(*overrides):
    config = runs.config("independent", "mesh.devices=0", *overrides)
    specs = build.build(config, devices=jax.devices()[:2]).specs
    return {spec.mapping for spec in specs}

  assert mappings() == mappings("mesh.member=2") == {"plain"}
  assert mappings("mapping=vmap") == {"vmap"}


def larger_images(train):
  """A data set whose images of training are not those that networks see."""
  test = Split(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int32))
  colour = (0.5, 0.5, 0.5)
  return Dataset(
    name="larger", train=train, test=test, num_classes=2, mean=colour, std=colour
  )


def test_larger_images_of_training_are_cropped_to_what_networks_see():
  stored = Split(np.zeros((2, 10, 12, 3), np.uint8), np.zeros(2, np.int32))
  dataset = larger_images(stored)
  build._make_augment(augmentation("imagenet"), dataset)
  with pytest.raises(ConfigError, match="of 10 x 12 pixels, .* 8 x 8: add random_res"):
    build._make_augment(augmentation("cifar"), dataset)


def test_images_that_are_read_in_random_crops_are_not_cropped_once_more():
  label = np.zeros(2, np.int32)
  rows = np.arange(2)
  read = Streamed(label, rows, shape=(8, 8, 3), reader=None, varies=True)
  dataset = larger_images(read)
  build._make_augment(augmentation("imagenet", ops=("hflip",)), dataset)
  with pytest.raises(ConfigError, match="larger is read in random crops already"):
    build._make_augment(augmentation("imagenet"), dataset)
  build._make_augment(
    augmentation("imagenet"), larger_images(read._replace(varies=False))
  )
