"""Components as a user may write them, named by "tests.helpers.my_lab:function"."""

import jax.numpy as jnp
import optax

from jaxdistill.core import registry
from jaxdistill.core.types import Perturbed


def consensus(*, strictness: float, temperature: float = 3.0):
  """A method whose first keyword has no default."""
  del strictness
  return registry.resolve("methods", "dml", temperature=temperature)


def network(*, num_classes, dtype=jnp.float32, width: int = 4, depth: int):
  """A network whose last keyword has no default."""
  del depth
  return registry.resolve(
    "models", "small.convnet", num_classes=num_classes, dtype=dtype, width=width
  )


def folder(*, dir: str, shape: tuple[int, int] = (8, 8)):
  """A data set whose first keyword has no default."""
  del dir, shape
  return registry.resolve("data", "digits")


def fog(*, density: float = 0.5):
  """An operation."""

  def op(key, image):
    del key
    permutation = jnp.arange(image.shape[0], dtype=jnp.int32)
    hazy = (1 - density) * image + density
    return Perturbed(hazy, permutation, jnp.float32(1))

  return op


def every():
  """An operation that is called like a key of the section."""


def noise(*, stddev: float = 0.5):
  """An operation that is called like a built-in one."""
  return fog(density=stddev)


def signs(decay, *, slowness: float = 2.0):
  """An optimiser."""
  return optax.chain(optax.scale_by_sign(), decay, optax.scale(1 / slowness))


def rate_decay(decay, *, final: float = 0.5):
  """An optimiser with a keyword that a built-in schedule has as well."""
  del final
  return decay


def bumps(peak, clock, *, number: int = 2):
  """A schedule."""
  period = clock.total_steps / number
  return lambda step: peak * (1 - step % period / period)


def returns_pi(*args, **kwargs):
  """No component at all."""
  del args, kwargs
  return 3.14159


def needs_more(first, second):
  """A function that is no factory."""
  del first, second
