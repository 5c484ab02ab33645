"""Runs a method's loss on given logits, without a network."""

import jax
import jax.numpy as jnp

from jaxdistill.core import registry
from jaxdistill.core.method import Context, Step
from jaxdistill.core.types import Batch, ModelOutput, Outputs, Perturbation, Views


def method(name, **kwargs):
  return registry.resolve("methods", name, **kwargs)


def nobody(batch_size):
  return Perturbation(
    jnp.int32(-1), jnp.int32(-1), jnp.arange(batch_size), jnp.float32(1)
  )


def evaluate(
  which,
  logits,
  labels,
  *,
  features=None,
  perturbation=None,
  target=None,
  clean=None,
  params=None,
  memory=None,
  epoch=0,
  num_epochs=1,
  smoothing=0.0,
):
  """Runs a method's loss on given logits [M, B, C]."""
  size, num_classes = logits.shape[1:]
  perturbation = perturbation or nobody(size)
  target = (
    jax.nn.one_hot(labels, num_classes)[None].repeat(len(logits), 0)
    if target is None
    else target
  )
  groups = {"net": ModelOutput(logits, features or {})}
  alive = jnp.isfinite(logits).all((1, 2))
  outputs = Outputs(jnp.where(alive[:, None, None], logits, 0), alive, groups)
  batch = Batch(None, jnp.asarray(labels), jnp.arange(size), jnp.ones(size))
  clean_outputs = outputs if clean is None else outputs.replace(logits=clean)
  context = Context(
    jnp.int32(epoch),
    jnp.int32(epoch),
    num_epochs,
    1,
    jax.random.key(0),
    None,
    lambda: clean_outputs,
  )
  views = Views(None, target, perturbation, smoothing)
  return which.loss(Step(params or {}, memory or {}, outputs, batch, views, context))
