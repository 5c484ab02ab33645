"""Evaluation metrics: one value per example, or one of a whole split.

The latter are those for which the examples must be ranked or binned.
"""

from typing import NamedTuple

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
  inside = in_bins(confidence, bins)
  # The mean over all examples: a bin's own mean, weighted by its fraction of them.
  gaps = jnp.mean(jnp.where(inside, (confidence - correct)[None], 0), axis=1)
  return jnp.sum(jnp.abs(gaps))


def in_bins(confidence: jax.Array, bins: int = 10) -> jax.Array:
  """Tells which confidences are in which of the bins of `calibration_error`.

  Args:
    confidence: [N] in 0..1.
    bins: number of bins, of equal width.

  Returns:
    bool[bins, N].
  """
  confidence = jnp.asarray(confidence, jnp.float32)
  edges = jnp.arange(bins + 1, dtype=jnp.float32) / bins
  lower = edges[:-1, None]
  upper = edges[1:, None]
  return (confidence[None] > lower) & (confidence[None] <= upper)


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


class Found(NamedTuple):
  """What queries found in a gallery.

  Attributes:
    first: i32[Q] how many wrong images stand before the first right one; 2^31 - 1 where
      none is found.
    average_precision: f32[Q] precision at each right image, averaged over them.
    answerable: bool[Q] whether there is anything right to be found.
  """

  first: jax.Array
  average_precision: jax.Array
  answerable: jax.Array


def feature_distance(
  query: jax.Array, gallery: jax.Array, distance: str = "cosine"
) -> jax.Array:
  """Computes a number that orders a gallery by its distance to each query.

  Args:
    query: [Q, D] features.
    gallery: [G, D] features.
    distance: "cosine", which is also the order of the Euclidean distance between
      features of length 1; or "euclidean".

  Returns:
    f32[Q, G], a row for each query, to be compared within it: minus the cosine, or half
    the squared distance but for what is the same for the whole row.
  """
  query = query.astype(jnp.float32)
  gallery = gallery.astype(jnp.float32)
  if distance == "cosine":
    query = _of_length_one(query)
    gallery = _of_length_one(gallery)
  # Accelerators would round the factors to a few bits.
  product = jnp.matmul(query, gallery.T, precision=jax.lax.Precision.HIGHEST)
  if distance == "cosine":
    return -product
  return jnp.sum(gallery * gallery, axis=-1)[None] / 2 - product


def _of_length_one(features: jax.Array) -> jax.Array:
  """Divides rows [N, D] by their Euclidean length; rows of zeros stay as they are."""
  length = jnp.linalg.norm(features, axis=-1, keepdims=True)
  return features / jnp.where(length > 0, length, 1)


def rank_gallery(
  distance: jax.Array, right: jax.Array, ignored: jax.Array | None = None
) -> Found:
  """Orders a gallery by its distance to each query, and looks for what is right.

  Of equal distances the earlier image ranks first. What has a distance that is not
  finite is never found.

  Args:
    distance: [Q, G], compared within a row.
    right: bool[Q, G] images that a query is to find.
    ignored: bool[Q, G] images that are taken out of a query's gallery; None: none.

  Returns:
    What each query found. Its average precision is the area under the steps of the
    curve of precision and recall; the benchmark's own MATLAB code takes trapezoids
    instead, which differ a little.

  Reference:
    L. Zheng, L. Shen, L. Tian, S. Wang, J. Wang, Q. Tian: Scalable Person
      Re-identification: A Benchmark. ICCV 2015, section 5.1.
  """
  if ignored is None:
    ignored = jnp.zeros_like(right)
  right = right & ~ignored
  finite = jnp.isfinite(distance)
  order = jnp.argsort(jnp.where(finite, distance, jnp.inf), axis=1, stable=True)

  def in_order(values: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, order, axis=1)

  found = in_order(right & finite)
  # Positions, from 1, among what is not ignored.
  position = jnp.cumsum(in_order(~ignored), axis=1, dtype=jnp.int32)
  hits = jnp.cumsum(found, axis=1, dtype=jnp.int32)
  precision = jnp.where(found, hits / jnp.maximum(position, 1), 0)
  total = right.sum(axis=1)
  never = jnp.iinfo(jnp.int32).max
  return Found(
    first=jnp.where(found, position - 1, never).min(axis=1),
    average_precision=precision.sum(axis=1) / jnp.maximum(total, 1),
    answerable=total > 0,
  )


def rank_k(found: Found, k: int) -> jax.Array:
  """Computes how many queries have a right image among their first k.

  Args:
    found: of Q queries; those that have nothing right to find do not count.
    k: number of images.

  Returns:
    f32[], a fraction.
  """
  return _mean_of_answerable(found, found.first < k)


def mean_average_precision(found: Found) -> jax.Array:
  """Computes the mean of the queries' average precision (mAP).

  Args:
    found: of Q queries; those that have nothing right to find do not count.

  Returns:
    f32[], a fraction.
  """
  return _mean_of_answerable(found, found.average_precision)


def _mean_of_answerable(found: Found, values: jax.Array) -> jax.Array:
  """Returns the mean of values [Q] over the queries that count."""
  counted = jnp.where(found.answerable, values, 0)
  return counted.sum() / jnp.maximum(found.answerable.sum(), 1)
