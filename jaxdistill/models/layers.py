"""Blocks shared by the networks."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.convolution import batch_norm, conv, member_conv
from jaxdistill.types import ModelOutput

__all__ = ["batch_norm", "classify", "conv", "member_conv"]


def classify(x: jax.Array, features: dict[str, jax.Array], num_classes: int) -> ModelOutput:
  """Pools a map [B, H, W, D] over its positions and classifies it, in float32."""
  pooled = x.astype(jnp.float32).mean(axis=(1, 2))
  logits = nn.Dense(num_classes, name="classifier")(pooled)
  return ModelOutput(logits, {**features, "pooled": pooled})
