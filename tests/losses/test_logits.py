"""Losses of logits against numbers from released code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import losses

VALUE = {"rtol": 2e-5, "atol": 1e-6}
GRAD = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.parametrize("temperature", [1, 2, 4])
def test_kl_divergence_matches_mdistiller(golden, temperature):
  g = golden("01_kd_logits")

  def mean_kl(student):
    return losses.kl_divergence(student, g["logits_t"], temperature).mean()

  value, grad = jax.value_and_grad(mean_kl)(g["logits_s"])
  np.testing.assert_allclose(value, g[f"mdistiller_kd_T{temperature}"], **VALUE)
  np.testing.assert_allclose(grad, g[f"grad_s_T{temperature}"], **GRAD)


def test_cross_entropies_match_released_codes(golden):
  g = golden("01_kd_logits")
  student = g["logits_s"]
  ce = losses.cross_entropy(student, g["labels"])
  np.testing.assert_allclose(ce.mean(), g["ce_mean"], **VALUE)
  of_one_hot = losses.soft_cross_entropy(student, jax.nn.one_hot(g["labels"], 10))
  np.testing.assert_allclose(of_one_hot, ce, **VALUE)
  soft = losses.soft_cross_entropy(student / 4, jax.nn.softmax(g["logits_t"] / 4))
  np.testing.assert_allclose(
    16 * 0.5 * soft.mean(), g["clskd_softCE_T4_alpha0p5"], **VALUE
  )


def test_kl_divergence_of_saturated_logits(golden):
  g = golden("01b_kd_extreme")

  def mean_kl(student):
    return losses.kl_divergence(student, g["logits_t"]).mean()

  value, grad = jax.value_and_grad(mean_kl)(g["logits_s"])
  np.testing.assert_allclose(value, g["kd_T1"], **VALUE)
  np.testing.assert_allclose(grad, g["grad_s"], **GRAD)


def test_losses_keep_leading_axes_and_compute_in_float32():
  logits = jnp.linspace(-3, 3, 2 * 4 * 5, dtype=jnp.bfloat16).reshape(2, 4, 5)
  labels = jnp.arange(8).reshape(2, 4) % 5
  values = (
    losses.cross_entropy(logits, labels),
    losses.kl_divergence(logits, logits[::-1]),
    losses.soft_cross_entropy(logits, jax.nn.softmax(logits)),
  )
  for value in values:
    assert value.shape == (2, 4)
    assert value.dtype == jnp.float32


def test_pairwise_kl_has_students_in_rows_and_teachers_in_columns(rng):
  students = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
  teachers = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
  pairs = losses.pairwise_kl(students, teachers, 2.0)
  assert pairs.shape == (2, 3, 4)
  for i, student in enumerate(students):
    for j, teacher in enumerate(teachers):
      expected = losses.kl_divergence(student, teacher, 2.0)
      np.testing.assert_allclose(pairs[i, j], expected, **VALUE)


def test_huge_logits_have_finite_losses():
  """As large as float32 has them: their differences would be infinite.

  The order of finite classes stays, and what is not finite stays to be found.
  """
  huge = jnp.array([[3e38, -3e38, 0.0], [-3e38, 3e38, -3e38]])
  some = jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
  labels = jnp.array([1, 1])

  def total(first, second):
    ce = losses.cross_entropy(first, labels)
    soft = losses.soft_cross_entropy(first, jax.nn.softmax(second))
    kl = losses.kl_divergence(first, second, 0.5)
    return (ce + soft + kl).sum()

  value_and_grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
  for first, second in ((huge, some), (some, huge), (huge, huge), (huge, -huge)):
    value, grads = value_and_grads(first, second)
    assert np.isfinite(value)
    assert np.isfinite(grads).all()

  towards_huge = losses.kl_divergence(some, huge, 1.0)
  one_hot = jax.nn.one_hot(jnp.array([0, 1]), 3)
  expected = losses.soft_cross_entropy(some, one_hot)
  np.testing.assert_allclose(towards_huge, expected, **VALUE)
  assert not np.isfinite(losses.kl_divergence(some, some.at[0, 0].set(jnp.inf))).all()
  assert np.isnan(losses.cross_entropy(some.at[0, 0].set(jnp.nan), labels)[0])
