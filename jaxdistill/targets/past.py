"""Targets made of earlier predictions."""

import jax
import jax.numpy as jnp

from jaxdistill.targets._algebra import normalized


def accuracy_weighted(probs: jax.Array, accuracies: jax.Array) -> jax.Array:
  """Returns the mean of the members' distributions, weighted by their accuracies.

  Args:
    probs: [M, ..., C]; not detached here.
    accuracies: [M], at least 0.

  Returns:
    f32[..., C]; the plain mean if all accuracies are 0.

  Reference:
    L. Gao et al.: Multistructure-Based Collaborative Online Distillation, equation 8,
      the sum over members below.
  """
  weights = normalized(accuracies.astype(jnp.float32))
  probs = probs.astype(jnp.float32)
  return jnp.einsum("m,m...->...", weights, probs, precision="highest")


def progressive(
  labels: jax.Array, past_probs: jax.Array, alpha: jax.Array | float
) -> jax.Array:
  """Returns (1 - alpha) one-hot(label) + alpha past.

  Args:
    labels: i32[B].
    past_probs: [B, C], what the network predicted for the same examples before.
    alpha: [], weight of the past in 0..1.

  Returns:
    f32[B, C].

  Reference:
    K. Kim, B. Ji, D. Yoon, S. Hwang: Self-Knowledge Distillation with Progressive
      Refinement of Targets. ICCV 2021, equation 2.
  """
  past_probs = past_probs.astype(jnp.float32)
  one_hot = jax.nn.one_hot(labels, past_probs.shape[1])
  return (1 - alpha) * one_hot + alpha * past_probs
