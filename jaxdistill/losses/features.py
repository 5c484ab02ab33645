"""Losses of features, one value per example."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.losses._bounds import LARGEST, bounded
from jaxdistill.losses.logits import kl_divergence

# torch's F.normalize divides by max(norm, 1e-12); squared here, so that the gradient at
# zero is finite.
_TINY = 1e-24


def _flat_unit(x: jax.Array) -> jax.Array:
  """Flattens every example and divides it by its L2 norm: [B, ...] -> [B, n]."""
  x = x.reshape(x.shape[0], -1)
  squared_norm = jnp.sum(x**2, axis=1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squared_norm, _TINY))


def feature_l2(
  student: jax.Array, teacher: jax.Array, reduce: str = "mean"
) -> jax.Array:
  """Computes the squared distance between two feature tensors of one shape.

  Args:
    student: [B, ...].
    teacher: [B, ...]; not detached here.
    reduce: how an example's elements are combined: "mean", "sum", or "normalized" for
      the squared distance between the flattened features divided by their L2 norms (a
      zero feature stays zero).

  Returns:
    f32[B].

  Raises:
    ValueError: for another `reduce`, or if the shapes differ.

  Reference:
    D. Shi, X. Diao, X. Chen, C. M. John: Competitive Distillation: A Simple Learning
      Strategy for Improving Visual Classification, equation 9, which is the sum over
      the batch of "sum".
  """
  if student.shape != teacher.shape:
    raise ValueError(
      f"features must have one shape, got {student.shape} and {teacher.shape}: "
      "project one of them"
    )
  student = bounded(student.astype(jnp.float32))
  teacher = bounded(teacher.astype(jnp.float32))
  if reduce == "normalized":
    difference = _flat_unit(student) - _flat_unit(teacher)
    return jnp.sum(difference**2, axis=1)
  squared = ((student - teacher) ** 2).reshape(student.shape[0], -1)
  if reduce == "mean":
    return squared.mean(axis=1)
  if reduce == "sum":
    return squared.sum(axis=1)
  raise ValueError(f"reduce must be mean, sum or normalized, got {reduce!r}")


def attention_map(features: jax.Array, power: float = 2) -> jax.Array:
  """Computes where a feature map is active.

  That is the mean of |f|^power over channels, flattened and divided by its L2 norm.

  Args:
    features: [B, H, W, D].
    power: p >= 1.

  Returns:
    f32[B, H * W]; zeros, with a finite gradient, for features that are zero.

  Reference:
    S. Zagoruyko, N. Komodakis: Paying More Attention to Attention. ICLR 2017, section
      3.1.
  """
  # The energy is squared once more for its norm.
  features = bounded(features.astype(jnp.float32), LARGEST ** (1 / power))
  energy = jnp.mean(jnp.abs(features) ** power, axis=-1)
  return _flat_unit(energy)


def attention_transfer(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Computes the mean squared difference between two attention maps.

  The features on the larger grid are average-pooled to the smaller one before they are
  squared. The channels may differ.

  Args:
    student: [B, H, W, D].
    teacher: [B, h, w, d]; not detached here.

  Returns:
    f32[B].

  Raises:
    ValueError: if the grids' sides are not whole multiples of each other.

  Reference:
    Zagoruyko, Komodakis: Paying More Attention to Attention, as mdistiller and
      RepDistiller release it: a mean of squares where equation 2 has a norm.
  """
  student = student.astype(jnp.float32)
  teacher = teacher.astype(jnp.float32)
  height = min(student.shape[1], teacher.shape[1])
  width = min(student.shape[2], teacher.shape[2])
  student_map = attention_map(average_pool(student, (height, width)))
  teacher_map = attention_map(average_pool(teacher, (height, width)))
  return jnp.mean((student_map - teacher_map) ** 2, axis=1)


def average_pool(features: jax.Array, grid: tuple[int, int]) -> jax.Array:
  """Average-pools a feature map to a smaller grid.

  Args:
    features: [B, H, W, D].
    grid: (h, w), by which H and W can be divided.

  Returns:
    [B, h, w, D].

  Raises:
    ValueError: if a side is no whole multiple of the grid's.
  """
  batch, height, width, channels = features.shape
  rows, columns = grid
  if height % rows or width % columns:
    raise ValueError(
      f"a {height} x {width} feature map cannot be pooled to {rows} x {columns}: "
      "take stages whose sides are whole multiples of each other"
    )
  cells = bounded(features).reshape(
    batch, rows, height // rows, columns, width // columns, channels
  )
  return cells.mean(axis=(2, 4))


def byot_hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Computes the squared difference over the channels in which a side is positive.

  Args:
    student: [B, D].
    teacher: [B, D]; not detached here.

  Returns:
    f32[B], the sum over these channels.

  Reference:
    L. Zhang, J. Song, A. Gao, J. Chen, C. Bao, K. Ma: Be Your Own Teacher. ICCV 2019,
      equation 5; the mask is that of the widespread code by luanyunteng.
  """
  student = bounded(student.astype(jnp.float32))
  teacher = bounded(teacher.astype(jnp.float32))
  active = (student > 0) | (teacher > 0)
  return jnp.sum((student - teacher) ** 2, axis=1, where=active)


def dmfl(first: jax.Array, second: jax.Array, temperature: float = 1.0) -> jax.Array:
  """Computes KL(p || q) + KL(q || p) for the softmaxes p, q of two feature vectors.

  The softmaxes are over the channels. Each divergence trains only its second argument.
  Unlike the other losses this one detaches the targets itself: a caller could not
  detach a side in one term and keep it in the other. There is no factor T^2.

  Args:
    first: [B, D].
    second: [B, D].
    temperature: T > 0, both features are divided by it.

  Returns:
    f32[B].

  Reference:
    S. Chottananurak, J. Jeong, D. Kabir, T. Phisannupawong: Progressive Self-Knowledge
      Distillation with Mutual Learning, equation 3, which leaves open how features
      become distributions and what is detached.
  """
  first_as_target = jax.lax.stop_gradient(first)
  second_as_target = jax.lax.stop_gradient(second)
  train_second = kl_divergence(second, first_as_target, temperature)
  train_first = kl_divergence(first, second_as_target, temperature)
  return (train_second + train_first) / temperature**2


class _Opposition(NamedTuple):
  """A map's attention, and the opposite of it.

  Attributes:
    own: f32[B, HW] normalised attention b.
    wanted: f32[B, HW] t, what the next student should attend to instead.
    norm: f32[B, 1] norm P of the map before normalisation.
  """

  own: jax.Array
  wanted: jax.Array
  norm: jax.Array


def _opposite_attention(features: jax.Array) -> _Opposition:
  """Computes a map's attention and its opposite, in the notation of `diversity`."""
  features = bounded(features.astype(jnp.float32), LARGEST ** (1 / 2))
  energy = jnp.mean(features**2, axis=-1)
  own = _flat_unit(energy)
  # The inner product equals the norm of the energy, and has a finite gradient where
  # that is zero.
  norm = jnp.sum(own * energy.reshape(own.shape), axis=1, keepdims=True)
  rank = max(own.shape[1] // 3 - 1, 0)
  threshold = jnp.sort(own, axis=1)[:, rank : rank + 1]
  wanted = (norm / 2 - own) * jnp.sign(own - threshold) + norm / 2
  return _Opposition(own, wanted, norm)


def diversity(features: jax.Array, previous_features: jax.Array) -> jax.Array:
  """Computes how far a student's attention is from the opposite of its predecessor's.

      mean over positions of (a - t)^2,   t = (P / 2 - b) sign(b - q) + P / 2

  a and b are the attention maps of the two, P is the norm of the predecessor's map
  before normalisation, and q the floor(HW / 3)-th smallest element of b, or the
  smallest if HW < 3; the sign is 0 where b = q. P and b have different scales, as in
  the released code, so values are in the hundreds.

  Args:
    features: [B, H, W, D].
    previous_features: [B, H, W, d]; not detached here.

  Returns:
    f32[B].

  Raises:
    ValueError: if the grids differ.

  Reference:
    S. Li, M. Lin, Y. Wang, Y. Wu, Y. Tian, L. Shao, R. Ji: Distilling a Powerful
      Student Model via Online Knowledge Distillation, in the form of the released code
      (SJLeo/FFSD).
  """
  if features.shape[:3] != previous_features.shape[:3]:
    raise ValueError(
      f"features must have one grid, got {features.shape} and {previous_features.shape}"
    )
  wanted = _opposite_attention(previous_features).wanted
  return jnp.mean((attention_map(features) - wanted) ** 2, axis=1)


def diversity_target(previous_features: jax.Array) -> jax.Array:
  """Returns a predecessor's features shifted to the attention that `diversity` wants.

  Every channel gets 1 / D of the shift (t - b) P at its position, in the notation of
  `diversity`.

  Args:
    previous_features: [B, H, W, D]; not detached here.

  Returns:
    f32[B, H, W, D].

  Reference:
    Li et al.: Distilling a Powerful Student Model via Online Knowledge Distillation,
      released code.
  """
  own, wanted, norm = _opposite_attention(previous_features)
  batch, height, width, channels = previous_features.shape
  shift = (wanted - own) * norm / channels
  shift = shift.reshape(batch, height, width, 1)
  return bounded(previous_features.astype(jnp.float32)) + shift
