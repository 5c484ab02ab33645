"""Evaluation metrics: one value per example, or one of a whole split where the examples must be ranked or binned."""

import jax
import jax.numpy as jnp

from jaxdistill import losses


def top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Tells whether the label is among the k largest logits.

  Of equal logits the lower class index ranks first, as `argmax` has it. A row with a
  logit that is not finite counts as wrong.

  Args:
    logits: [..., C], or any score that orders the classes.
    labels: i32[...].
    k: number of guesses.

  Returns:
    f32[...] of 0 and 1.
  """
  true = jnp.take_along_axis(logits, labels[..., None], axis=-1)
  ahead = (
    jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    < labels[..., None]
  )
  better = (logits > true) | ((logits == true) & ahead)
  return ((better.sum(axis=-1) < k) & jnp.isfinite(logits).all(axis=-1)).astype(
    jnp.float32
  )


def negative_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes -log softmax(logits)[label] in nats: [..., C], i32[...] -> f32[...]."""
  return losses.cross_entropy(logits, labels)


def brier(probs: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes sum_c (p_c - [c = label])^2: [..., C], i32[...] -> f32[...] in 0..2."""
  probs = probs.astype(jnp.float32)
  return jnp.sum((probs - jax.nn.one_hot(labels, probs.shape[-1])) ** 2, axis=-1)


def expected_calibration_error(
  probs: jax.Array, labels: jax.Array, bins: int = 10
) -> jax.Array:
  """Computes `calibration_error` of the most probable classes: [N, C], i32[N] -> f32[]."""
  return calibration_error(*_confidence(probs, labels), bins)


def aurc(probs: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes `risk_coverage_area` of the most probable classes: [N, C], i32[N] -> f32[]."""
  return risk_coverage_area(*_confidence(probs, labels))


def eaurc(probs: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes `excess_risk_coverage_area` of the most probable classes: [N, C], i32[N] -> f32[]."""
  return excess_risk_coverage_area(*_confidence(probs, labels))


def _confidence(probs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  return jnp.max(probs, axis=-1), (jnp.argmax(probs, axis=-1) == labels).astype(
    jnp.float32
  )


def calibration_error(
  confidence: jax.Array, correct: jax.Array, bins: int = 10
) -> jax.Array:
  """Computes the mean distance between confidence and accuracy over bins of equal width.

  A bin counts with its share of the examples. It holds confidences above its lower and
  up to its upper edge, so a confidence of 0 is in none.

  Args:
    confidence: [N] in 0..1.
    correct: [N] of 0 and 1.
    bins: number of bins.

  Returns:
    f32[], a fraction.

  Reference:
    C. Guo, G. Pleiss, Y. Sun, K. Weinberger: On Calibration of Modern Neural Networks.
      ICML 2017, equation 3.
  """
  confidence, correct = (
    jnp.asarray(confidence, jnp.float32),
    jnp.asarray(correct, jnp.float32),
  )
  edges = jnp.arange(bins + 1, dtype=jnp.float32) / bins
  inside = (confidence[None] > edges[:-1, None]) & (confidence[None] <= edges[1:, None])
  gaps = jnp.mean(jnp.where(inside, (confidence - correct)[None], 0), axis=1)
  return jnp.sum(jnp.abs(gaps))


def risk_coverage_area(confidence: jax.Array, correct: jax.Array) -> jax.Array:
  """Computes the area under the risk-coverage curve (AURC).

  That is the mean over i = 1..N of the error rate among the i most confident examples.
  Of equal confidences the earlier example ranks first.

  Args:
    confidence: [N].
    correct: [N] of 0 and 1.

  Returns:
    f32[], a fraction.

  Reference:
    Y. Geifman, G. Uziel, R. El-Yaniv: Bias-Reduced Uncertainty Estimation for Deep
      Neural Classifiers. ICLR 2019,
    section 2.
  """
  wrong = jnp.asarray(correct) < 0.5
  return _mean_risk(
    wrong[jnp.argsort(-jnp.asarray(confidence, jnp.float32), stable=True)]
  )


def excess_risk_coverage_area(confidence: jax.Array, correct: jax.Array) -> jax.Array:
  """Computes the AURC minus that of the same examples with all correct ones ranked first (E-AURC).

  Args:
    confidence: [N].
    correct: [N] of 0 and 1.

  Returns:
    f32[], a fraction, at least 0.

  Reference:
    Geifman et al.: Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers,
      section 3, with the area of the
    best ranking counted, not approximated by its closed form.
  """
  return risk_coverage_area(confidence, correct) - _mean_risk(
    jnp.sort(jnp.asarray(correct) < 0.5)
  )


def _mean_risk(wrong: jax.Array) -> jax.Array:
  # Counted in integers, errors are exact however many there are.
  errors = jnp.cumsum(wrong.astype(jnp.int32))
  return jnp.mean(errors / (jnp.arange(wrong.size, dtype=jnp.int32) + 1))
