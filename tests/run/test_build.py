"""Experiments that are built for other devices than those of the process."""

import jax
import pytest

from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError
from jaxdistill.inputs.augment import pad_crop_flip
from jaxdistill.run import build
from tests.helpers import runs, streams


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


def test_images_leave_the_augmentation_in_the_size_of_test_images():
  dataset = streams.digits()
  larger = dataset.train._replace(shape=(12, 12, 3))
  dataset = dataset._replace(train=larger)
  told = r"are \[12, 12, 3\] and leave the augmentation as \[12, 12, 3\], but test"
  with pytest.raises(ConfigError, match=told):
    build._require_one_size(pad_crop_flip(padding=1), dataset)

  def cropped(key, image):
    del key
    return image[:, 2:10, 2:10]

  build._require_one_size(cropped, dataset)
