"""Strict settings for every test: eight CPU devices, no silent broadcasting, fixed seeds, a shared compile cache."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Unoptimised code compiles several times faster, and compilation is most of what the tests do.
FAST_COMPILE = "--xla_backend_optimization_level=0"
IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"  # see jaxdistill/sharding.py
os.environ["XLA_FLAGS"] = (f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE} {IN_ORDER} "
                           "--xla_force_host_platform_device_count=8")
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "jaxdistill-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture
def golden():
  """Loads a file of numbers from the methods' released code."""
  def load(name):
    return dict(np.load(os.path.join(os.path.dirname(__file__), "golden", f"{name}.npz")))
  return load


@pytest.fixture
def case(rng):
  """Logits of three members, features and labels."""
  logits = jnp.asarray(rng.normal(size=(3, 8, 5)), jnp.float32)
  features = {"pooled": jnp.asarray(rng.normal(size=(3, 8, 4)), jnp.float32),
              "stage1": jnp.asarray(rng.normal(size=(3, 8, 2, 2, 4)), jnp.float32)}
  return logits, rng.integers(0, 5, 8), features
