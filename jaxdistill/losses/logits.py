"""Losses of logits, one value per example."""

import jax
import jax.numpy as jnp
import optax

from jaxdistill.losses._bounds import bounded


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes -log softmax(logits)[label].

  Args:
    logits: [..., C].
    labels: i32[...] in 0..C-1; a label outside gives NaN, so check labels where data is
      loaded.

  Returns:
    f32[...].
  """
  return optax.losses.softmax_cross_entropy_with_integer_labels(
    bounded(logits.astype(jnp.float32)), labels
  )


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Computes -sum_c targets_c log softmax(logits)_c.

  Args:
    logits: [..., C].
    targets: [..., C] distribution over the classes.

  Returns:
    f32[...].
  """
  return optax.losses.softmax_cross_entropy(
    bounded(logits.astype(jnp.float32)), targets.astype(jnp.float32)
  )


def kl_divergence(
  student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0
) -> jax.Array:
  """Computes T^2 KL(softmax(teacher / T) || softmax(student / T)).

  The factor T^2 keeps the gradient's size independent of the temperature. Both sides go
  through log-softmax, so saturated teachers (probabilities that underflow to 0) stay
  finite.

  Args:
    student_logits: [..., C].
    teacher_logits: [..., C]; not detached here.
    temperature: T > 0.

  Returns:
    f32[...], zero where both distributions agree.

  Reference:
    G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network.
      arXiv:1503.02531, 2015, section 2.
  """
  student_logits = bounded(student_logits.astype(jnp.float32))
  teacher_logits = bounded(teacher_logits.astype(jnp.float32))
  student = jax.nn.log_softmax(student_logits / temperature)
  teacher = jax.nn.log_softmax(teacher_logits / temperature)
  kl = optax.losses.kl_divergence_with_log_targets(student, teacher)
  return temperature**2 * kl


def pairwise_kl(
  student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0
) -> jax.Array:
  """Computes `kl_divergence` of every student to every teacher.

  Args:
    student_logits: [M, B, C].
    teacher_logits: [N, B, C]; not detached here.
    temperature: T > 0.

  Returns:
    f32[M, N, B]; row i holds student i.
  """
  return kl_divergence(student_logits[:, None], teacher_logits[None], temperature)
