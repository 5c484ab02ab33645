"""Networks that were written for something else: makes a module that returns only logits fit for a cohort."""

import inspect

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import ConfigError


class _LogitsOnly(nn.Module):
  """See `logits_only`."""

  module: nn.Module

  def setup(self):
    nn.share_scope(self, self.module)  # the parameters keep their paths

  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    original = (
      self.module.nnx_class
      if isinstance(self.module, nnx.bridge.ToLinen)
      else type(self.module)
    )
    accepted = inspect.signature(original.__call__).parameters
    flags = {
      "train": train,
      "training": train,
      "is_training": train,
      "deterministic": not train,
    }
    inputs = []

    def watch(call, args, kwargs, context):
      output = call(*args, **kwargs)
      if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
        inputs.append((args[0], output.shape))
      return output

    with nn.intercept_methods(watch):
      logits = self.module(
        image, **{name: flag for name, flag in flags.items() if name in accepted}
      )
    if isinstance(logits, ModelOutput):
      return logits
    if getattr(logits, "ndim", None) != 2:
      raise ConfigError(
        f"{original.__name__} must return logits [B, C], got {jax.tree.map(jnp.shape, logits)}"
      )
    pooled = [
      x.astype(jnp.float32)
      for x, shape in inputs
      if shape == logits.shape and x.ndim == 2
    ]
    return ModelOutput(
      logits.astype(jnp.float32), {"pooled": pooled[-1]} if pooled else {}
    )


def logits_only(module: nn.Module) -> nn.Module:
  """Makes a network for cohorts from a Linen module that returns logits, or from an NNX one through `nnx.bridge`.

  Its call may be `module(image)` or take one of the flags `train`, `training`,
  `is_training`, `deterministic`. Where the logits come from a Linen `Dense`, its input
  becomes the feature "pooled"; there are no others.

  Args:
    module: `image [B, H, W, 3] -> logits [B, C]`; for NNX `nnx.bridge.to_linen(Net,
      ...)`. One that returns a `ModelOutput` is passed through.

  Returns:
    `(image, train) -> ModelOutput`, with the parameters of `module` at their paths.

  Raises:
    ConfigError: when it is called, if the module returns something else.
  """
  return _LogitsOnly(module)
