"""Strict settings for every test.

Eight CPU devices, no silent broadcasting, fixed seeds, a shared compile cache.
"""

from tests.helpers import settings

settings.apply(devices=8)

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.nn import conv

jax.config.update("jax_numpy_rank_promotion", "raise")


# Of which a process may have 65,530 by default; what goes beyond them crashes it.
_MANY_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def programs():
  """Gives up programs once there are many: on a CPU each of them holds memory maps."""
  yield
  with open("/proc/self/maps") as maps:
    if sum(1 for _ in maps) > _MANY_MAPS:
      jax.clear_caches()


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture
def golden():
  """Loads a file of numbers from the methods' released code."""

  def load(name):
    return dict(
      np.load(os.path.join(os.path.dirname(__file__), "golden", f"{name}.npz"))
    )

  return load


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.slow)])
def platform(monkeypatch, request):
  """A platform: what depends on it takes its way, whatever runs the test."""
  if request.param == jax.default_backend():
    yield request.param
    return

  def choose(*args, default, **ways):
    way = ways.get(request.param, default)
    return way(*args)

  monkeypatch.setattr(jax.lax, "platform_dependent", choose)
  # Functions that were traced before have made their choice.
  jax.clear_caches()
  yield request.param
  jax.clear_caches()


@pytest.fixture
def one_device(monkeypatch):
  """Convolutions take the way of a process with a single device.

  What was traced inside of it, or before, has made its choice: neither side may see the
  other's.
  """
  jax.clear_caches()
  with monkeypatch.context() as patch:
    patch.setattr(conv, "has_one_device", lambda: True)
    yield
  jax.clear_caches()


@pytest.fixture
def case(rng):
  """Logits of three members, features and labels."""
  logits = jnp.asarray(rng.normal(size=(3, 8, 5)), jnp.float32)
  features = {
    "pooled": jnp.asarray(rng.normal(size=(3, 8, 4)), jnp.float32),
    "stage1": jnp.asarray(rng.normal(size=(3, 8, 2, 2, 4)), jnp.float32),
  }
  return logits, rng.integers(0, 5, 8), features
