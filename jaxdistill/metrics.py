"""Evaluation metrics: one value per example, or one of a whole split.

The latter are those for which the examples must be ranked or binned.
"""

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
  classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
  comes_first = classes < labels[..., None]
  better = (logits > true) | ((logits == true) & comes_first)
  finite = jnp.isfinite(logits).all(axis=-1)
  found = (better.sum(axis=-1) < k) & finite
  return found.astype(jnp.float32)


def negative_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes -log softmax(logits)[label] in nats.

  Args:
    logits: [..., C].
    labels: i32[...].

  Returns:
    f32[...].
  """
  return losses.cross_entropy(logits, labels)


def brier(probs: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes sum_c (p_c - [c = label])^2.

  Args:
    probs: [..., C].
    labels: i32[...].

  Returns:
    f32[...] in 0..2.
  """
  probs = probs.astype(jnp.float32)
  one_hot = jax.nn.one_hot(labels, probs.shape[-1])
  return jnp.sum((probs - one_hot) ** 2, axis=-1)


def expected_calibration_error(
  probs: jax.Array, labels: jax.Array, bins: int = 10
) -> jax.Array:
  """Computes `calibration_error` of the most probable classes.

  Args:
    probs: [N, C].
    labels: i32[N].
    bins: number of bins.

  Returns:
    f32[], a fraction.
  """
  confidence, correct = _best_guess(probs, labels)
  return calibration_error(confidence, correct, bins)


def aurc(probs: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes `risk_coverage_area` of the most probable classes.

  Args:
    probs: [N, C].
    labels: i32[N].

  Returns:
    f32[], a fraction.
  """
  confidence, correct = _best_guess(probs, labels)
  return risk_coverage_area(confidence, correct)


def eaurc(probs: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes `excess_risk_coverage_area` of the most probable classes.

  Args:
    probs: [N, C].
    labels: i32[N].

  Returns:
    f32[], a fraction, at least 0.
  """
  confidence, correct = _best_guess(probs, labels)
  return excess_risk_coverage_area(confidence, correct)


def _best_guess(probs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the largest probability, and 1 where it is the label's: f32[N] each."""
  confidence = jnp.max(probs, axis=-1)
  correct = jnp.argmax(probs, axis=-1) == labels
  return confidence, correct.astype(jnp.float32)


def calibration_error(
  confidence: jax.Array, correct: jax.Array, bins: int = 10
) -> jax.Array:
  """Computes the mean distance between confidence and accuracy over bins.

  The bins have equal width, and each counts with its fraction of the examples. It holds
  confidences above its lower and up to its upper edge, so a confidence of 0 is in none.

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
  confidence = jnp.asarray(confidence, jnp.float32)
  correct = jnp.asarray(correct, jnp.float32)
  edges = jnp.arange(bins + 1, dtype=jnp.float32) / bins
  lower = edges[:-1, None]
  upper = edges[1:, None]
  inside = (confidence[None] > lower) & (confidence[None] <= upper)
  # The mean over all examples: a bin's own mean, weighted by its fraction of them.
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
      Neural Classifiers. ICLR 2019, section 2.
  """
  wrong = jnp.asarray(correct) < 0.5
  confidence = jnp.asarray(confidence, jnp.float32)
  most_confident_first = jnp.argsort(-confidence, stable=True)
  return _mean_risk(wrong[most_confident_first])


def excess_risk_coverage_area(confidence: jax.Array, correct: jax.Array) -> jax.Array:
  """Computes the AURC minus that of the best ranking of the same examples (E-AURC).

  The best ranking has all correct examples first.

  Args:
    confidence: [N].
    correct: [N] of 0 and 1.

  Returns:
    f32[], a fraction, at least 0.

  Reference:
    Geifman et al.: Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers,
      section 3, with the area of the best ranking counted, not approximated by its
      closed form.
  """
  wrong = jnp.asarray(correct) < 0.5
  least = _mean_risk(jnp.sort(wrong))
  return risk_coverage_area(confidence, correct) - least


def _mean_risk(wrong: jax.Array) -> jax.Array:
  """Returns the mean of the error rates among the first 1, 2, ..., N: bool[N] -> []."""
  # Counted in integers, errors are exact however many there are.
  errors = jnp.cumsum(wrong.astype(jnp.int32))
  counts = jnp.arange(wrong.size, dtype=jnp.int32) + 1
  return jnp.mean(errors / counts)
