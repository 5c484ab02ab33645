"""Perturbation by noise."""

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Op, Perturbed
from jaxdistill.inputs.perturb._results import unmixed


def noise(*, stddev: float = 0.1) -> Op:
  """Returns noise injection: Gaussian, independent per pixel and channel.

  Args:
    stddev: standard deviation where the image ranges over [0, 1].

  Raises:
    ConfigError: unless the standard deviation is above 0.
  """
  errors.require_positive(stddev=stddev)

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    added = stddev * jax.random.normal(key, image.shape)
    return unmixed(jnp.clip(image + added, 0, 1))

  return op
