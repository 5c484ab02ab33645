"""The mesh: which devices it takes, and what they are called."""

import types

import jax
import numpy as np
import pytest

from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError


def described(platform):
  """A mesh of devices that are described only."""
  device = types.SimpleNamespace(platform=platform)
  return types.SimpleNamespace(devices=np.array([[device]]))


def test_a_mesh_is_made_of_the_devices_that_are_given():
  given = jax.devices()[2:6]
  mesh = sharding.make_mesh(2, given)
  assert mesh.devices.flatten().tolist() == given[:2]
  with pytest.raises(ConfigError, match="mesh.devices is 5, but there are 4"):
    sharding.make_mesh(5, given)


@pytest.mark.parametrize(
  "platform, name", [("cuda", "gpu"), ("gpu", "gpu"), ("tpu", "tpu"), ("cpu", "cpu")]
)
def test_the_platform_is_that_of_the_mesh(platform, name):
  assert sharding.platform_of(described(platform)) == name
