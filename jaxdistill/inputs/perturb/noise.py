"""Perturbation by noise."""

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Op
from jaxdistill.inputs.perturb._pixels import unmixed


def noise(*, stddev: float = 0.1) -> Op:
  """Makes noise injection: Gaussian, independent per pixel and channel.

  Args:
    stddev: standard deviation where the image ranges over [0, 1].

  Raises:
    ConfigError: unless the standard deviation is above 0.
  """
  errors.require_positive(stddev=stddev)
  return lambda key, image: unmixed(
    jnp.clip(image + stddev * jax.random.normal(key, image.shape), 0, 1)
  )
