"""Batch normalisation as all networks use it."""

from collections.abc import Iterator
import contextlib
import contextvars
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

_STATISTICS_GROUPS = contextvars.ContextVar("statistics_groups", default=1)


@contextlib.contextmanager
def group_statistics(groups: int) -> Iterator[None]:
  """Inside, batches are normalised in so many groups of examples in a row.

  Each is normalised by its own statistics. Devices that hold whole groups have nothing
  to send each other, and the result does not depend on how many devices there are.

  Args:
    groups: a divisor of the batch size.
  """
  token = _STATISTICS_GROUPS.set(groups)
  try:
    yield
  finally:
    _STATISTICS_GROUPS.reset(token)


class BatchNorm(nn.BatchNorm):
  """Batch normalisation by the statistics of groups, see `group_statistics`.

  Running statistics move towards the mean over the groups. Has no forward-mode
  derivative.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises [B, ..., D] over all axes but the last."""
    if self.use_running_average:
      return super().__call__(x)
    channels = x.shape[-1:]
    scale = self.param("scale", self.scale_init, channels, self.param_dtype)
    bias = self.param("bias", self.bias_init, channels, self.param_dtype)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
    running_var = self.variable("batch_stats", "var", jnp.ones, channels)

    grouped = x.reshape(_STATISTICS_GROUPS.get(), -1, *x.shape[1:])
    batch = _normalise(grouped, scale, bias, self.epsilon)

    def move(running: Any, value: jax.Array) -> None:
      new = value.mean(axis=0)
      running.value = self.momentum * running.value + (1 - self.momentum) * new

    if not self.is_initializing():
      move(running_mean, batch.mean)
      move(running_var, batch.var)
    return batch.normalised.reshape(x.shape).astype(self.dtype)


class _Normalised(NamedTuple):
  """What became of groups of examples, and by which statistics.

  Attributes:
    normalised: f32[G, B / G, ..., D].
    mean: f32[G, D] of each group.
    var: f32[G, D], biased.
  """

  normalised: jax.Array
  mean: jax.Array
  var: jax.Array


def _normalise_by_own(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> _Normalised:
  """Normalises groups of examples by their own statistics.

  Args:
    x: [G, B / G, ..., D].
    scale: f32[D].
    bias: f32[D].
    epsilon: added to variances.
  """
  x = x.astype(jnp.float32)
  axes = _axes(x)
  mean = x.mean(axes, keepdims=True)
  var = jnp.maximum(jnp.square(x).mean(axes, keepdims=True) - jnp.square(mean), 0)
  factor = lax.rsqrt(var + epsilon) * _over_channels(scale, x)
  normalised = (x - mean) * factor + _over_channels(bias, x)
  return _Normalised(normalised, mean=mean.squeeze(axes), var=var.squeeze(axes))


# As JAX derives the gradient, it is taken through mean and variance one by one, in more
# passes over the map.
_normalise = jax.custom_vjp(_normalise_by_own, nondiff_argnums=(3,))


def _axes(x: jax.Array) -> tuple[int, ...]:
  """Returns the axes that statistics are taken over: all but groups and channels."""
  return tuple(range(1, x.ndim - 1))


def _over_channels(values: jax.Array, x: jax.Array) -> jax.Array:
  """Returns values of the channels with as many axes as x."""
  return jnp.expand_dims(values, range(x.ndim - 1))


def _normalise_forward(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[_Normalised, tuple]:
  batch = _normalise_by_own(x, scale, bias, epsilon)
  return batch, (x, scale, batch.mean, batch.var)


def _normalise_backward(
  epsilon: float, saved: tuple, cotangent: _Normalised
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the gradients for x, scale and bias."""
  x, scale, mean, var = saved
  axes = _axes(x)
  mean = jnp.expand_dims(mean, axes)
  inverse = lax.rsqrt(jnp.expand_dims(var, axes) + epsilon)
  centred = x.astype(jnp.float32) - mean
  gradient = cotangent.normalised

  total = gradient.sum(axes, keepdims=True)
  # Times the normalised values.
  product = (gradient * centred).sum(axes, keepdims=True) * inverse
  count = math.prod(x.shape[axis] for axis in axes)
  factor = _over_channels(scale, x) * inverse
  # What comes back through the variance, and through the mean.
  slope = 2 * jnp.expand_dims(cotangent.var, axes) - factor * inverse * product
  offset = jnp.expand_dims(cotangent.mean, axes) - factor * total
  x_gradient = factor * gradient + (slope / count) * centred + offset / count

  def over_groups(sums: jax.Array) -> jax.Array:
    return sums.squeeze(axes).sum(axis=0)

  return x_gradient.astype(x.dtype), over_groups(product), over_groups(total)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def batch_norm(
  train: bool, dtype: Any = jnp.float32, *, name: str | None = None
) -> BatchNorm:
  """Returns batch normalisation with PyTorch's constants.

  Running variances stay biased, as Flax has them.

  Args:
    train: whether to normalise by the batch's own statistics.
    dtype: computation dtype.
    name: of the module.
  """
  return BatchNorm(
    use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
  )
