"""Networks that were written for something else: logits alone are enough to take part.

A network of one's own needs no adapter if its call is `(image, train) -> ModelOutput`.
"""

from collections.abc import Iterator
import contextlib
import inspect
from typing import Any

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import ConfigError


class _LogitsOnly(nn.Module):
  """See `logits_only`."""

  # Any: a call may have any of the signatures below.
  module: Any

  def setup(self):
    # The parameters keep their paths.
    nn.share_scope(self, self.module)

  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    original = _original_class(self.module)
    with _recorded_dense_layers() as layers:
      logits = self.module(image, **_accepted_flags(original, train))
    if isinstance(logits, ModelOutput):
      return logits
    if getattr(logits, "ndim", None) != 2:
      shapes = jax.tree.map(jnp.shape, logits)
      raise ConfigError(f"{original.__name__} must return logits [B, C], got {shapes}")

    # The last layer with as many outputs as there are classes is the classifier.
    features = {}
    for layer_input, output_shape in layers:
      if output_shape == logits.shape and layer_input.ndim == 2:
        features["pooled"] = layer_input.astype(jnp.float32)
    return ModelOutput(logits.astype(jnp.float32), features)


def _original_class(module: nn.Module) -> Any:
  """Returns the class that a user wrote, behind the bridge from NNX or without it."""
  if isinstance(module, nnx.bridge.ToLinen):
    return module.nnx_class
  return type(module)


def _accepted_flags(network: Any, train: bool) -> dict[str, bool]:
  """Returns those ways to say that a network is in training which its call knows."""
  flags = {
    "train": train,
    "training": train,
    "is_training": train,
    "deterministic": not train,
  }
  accepted = inspect.signature(network.__call__).parameters
  return {name: flag for name, flag in flags.items() if name in accepted}


@contextlib.contextmanager
def _recorded_dense_layers() -> Iterator[list[tuple[jax.Array, tuple[int, ...]]]]:
  """Inside, every call of a Linen `Dense` appends (input, shape of its output)."""
  layers = []

  def watch(call, args, kwargs, context):
    output = call(*args, **kwargs)
    if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
      layers.append((args[0], output.shape))
    return output

  with nn.intercept_methods(watch):
    yield layers


def logits_only(module: nn.Module) -> nn.Module:
  """Returns a network for cohorts, made of a module that returns logits.

  That is a Linen module, or an NNX one through `nnx.bridge`. Its call may be
  `module(image)` or have one of the flags `train`, `training`, `is_training`,
  `deterministic`. Where the logits come from a Linen `Dense`, its input becomes the
  feature "pooled"; there are no others.

  Args:
    module: `image [B, H, W, 3] -> logits [B, C]`; for NNX `nnx.bridge.to_linen(Net,
      ...)`. What a module returns as a `ModelOutput` stays as it is.

  Returns:
    `(image, train) -> ModelOutput`, with the parameters of `module` at their paths.

  Raises:
    ConfigError: when it is called, if the module returns something else.
  """
  return _LogitsOnly(module)
