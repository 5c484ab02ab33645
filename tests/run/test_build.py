"""Experiments that are built for other devices than those of the process."""

import jax

from jaxdistill.engine import sharding
from jaxdistill.run import build
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
