"""Independent training: the baseline every other method has to beat under the same recipe."""

import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.protocol import Method
from jaxdistill.types import Objective


def independent() -> Method:
  """Trains every member on the labels alone: L_i = CE(z_i, y)."""
  def loss(params, memory, outputs, batch, views, context):
    del params, batch, context
    ce = losses.soft_cross_entropy(outputs.logits, views.target).mean(axis=1)
    return Objective(ce, jnp.float32(0), {}, memory)
  return Method(loss=loss)
