"""Evaluation metrics, one value per example."""

import jax
import jax.numpy as jnp

from jaxdistill import losses


def top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Tells whether the label is among the k largest logits.

  Of equal logits the lower class index ranks first, as `argmax` has it. A row with a logit that is not
  finite counts as wrong.

  Args:
    logits: [..., C], or any score that orders the classes.
    labels: i32[...].
    k: number of guesses.

  Returns:
    f32[...] of 0 and 1.
  """
  true = jnp.take_along_axis(logits, labels[..., None], axis=-1)
  ahead = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < labels[..., None]
  better = (logits > true) | ((logits == true) & ahead)
  return ((better.sum(axis=-1) < k) & jnp.isfinite(logits).all(axis=-1)).astype(jnp.float32)


def negative_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes -log softmax(logits)[label] in nats: [..., C], i32[...] -> f32[...]."""
  return losses.cross_entropy(logits, labels)
