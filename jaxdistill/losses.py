"""Distillation losses as plain functions of arrays, one value per example.

None of them takes a mean over the batch or stops a gradient: the caller decides both. Arithmetic is float32
whatever comes in. They need nothing but jax and optax, so any JAX code can import them.
"""

import jax
import jax.numpy as jnp
import optax

# torch's F.normalize divides by max(norm, 1e-12); squared here, so that the gradient at zero is finite.
_TINY = 1e-24


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes -log softmax(logits)[label].

  Args:
    logits: [..., C].
    labels: i32[...] in 0..C-1; a label outside gives NaN, so check labels where data is loaded.

  Returns:
    f32[...].
  """
  return optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Computes -sum_c targets_c log softmax(logits)_c.

  Args:
    logits: [..., C].
    targets: [..., C] distribution over the classes.

  Returns:
    f32[...].
  """
  return optax.losses.softmax_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32))


def kl_divergence(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """Computes T^2 KL(softmax(teacher / T) || softmax(student / T)).

  The factor T^2 keeps the gradient's size independent of the temperature. Both sides go through log-softmax,
  so saturated teachers (probabilities that underflow to 0) stay finite.

  Args:
    student_logits: [..., C].
    teacher_logits: [..., C]; not detached here.
    temperature: T > 0.

  Returns:
    f32[...], zero where both distributions agree.

  Reference:
    G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network. arXiv:1503.02531, 2015,
    section 2.
  """
  student = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature)
  teacher = jax.nn.log_softmax(teacher_logits.astype(jnp.float32) / temperature)
  return temperature**2 * optax.losses.kl_divergence_with_log_targets(student, teacher)


def _flat_unit(x: jax.Array) -> jax.Array:
  x = x.reshape(x.shape[0], -1)
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=1, keepdims=True), _TINY))


def feature_l2(student: jax.Array, teacher: jax.Array, reduce: str = "mean") -> jax.Array:
  """Computes the squared distance between two feature tensors of one shape.

  Args:
    student: [B, ...].
    teacher: [B, ...]; not detached here.
    reduce: how an example's elements are combined: "mean", "sum", or "normalized" for the squared distance
      between the flattened features divided by their L2 norms (a zero feature stays zero).

  Returns:
    f32[B].

  Raises:
    ValueError: for another `reduce`, or if the shapes differ.

  Reference:
    D. Shi, X. Diao, X. Chen, C. M. John: Competitive Distillation: A Simple Learning Strategy for Improving
    Visual Classification, equation 9, which is the sum over the batch of "sum".
  """
  if student.shape != teacher.shape:
    raise ValueError(f"features must have one shape, got {student.shape} and {teacher.shape}: project one of them")
  student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
  if reduce == "normalized":
    return jnp.sum((_flat_unit(student) - _flat_unit(teacher)) ** 2, axis=1)
  if reduce not in ("mean", "sum"):
    raise ValueError(f"reduce must be mean, sum or normalized, got {reduce!r}")
  squared = ((student - teacher) ** 2).reshape(student.shape[0], -1)
  return squared.mean(axis=1) if reduce == "mean" else squared.sum(axis=1)
