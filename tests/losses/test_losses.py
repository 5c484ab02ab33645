"""Losses, targets and metrics against numbers from the methods' released code, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import losses, metrics, targets

VALUE = dict(rtol=2e-5, atol=1e-6)
GRAD = dict(rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1, 2, 4])
def test_kl_divergence_matches_mdistiller(golden, temperature):
  g = golden("01_kd_logits")
  value, grad = jax.value_and_grad(lambda s: losses.kl_divergence(s, g["logits_t"], temperature).mean())(g["logits_s"])
  np.testing.assert_allclose(value, g[f"mdistiller_kd_T{temperature}"], **VALUE)
  np.testing.assert_allclose(grad, g[f"grad_s_T{temperature}"], **GRAD)


def test_cross_entropies_match_released_codes(golden):
  g = golden("01_kd_logits")
  ce = losses.cross_entropy(g["logits_s"], g["labels"])
  np.testing.assert_allclose(ce.mean(), g["ce_mean"], **VALUE)
  np.testing.assert_allclose(losses.soft_cross_entropy(g["logits_s"], jax.nn.one_hot(g["labels"], 10)), ce, **VALUE)
  soft = losses.soft_cross_entropy(g["logits_s"] / 4, jax.nn.softmax(g["logits_t"] / 4))
  np.testing.assert_allclose(16 * 0.5 * soft.mean(), g["clskd_softCE_T4_alpha0p5"], **VALUE)


def test_kl_divergence_of_saturated_logits(golden):
  g = golden("01b_kd_extreme")
  value, grad = jax.value_and_grad(lambda s: losses.kl_divergence(s, g["logits_t"]).mean())(g["logits_s"])
  np.testing.assert_allclose(value, g["kd_T1"], **VALUE)
  np.testing.assert_allclose(grad, g["grad_s"], **GRAD)


def test_losses_keep_leading_axes_and_compute_in_float32():
  logits = jnp.linspace(-3, 3, 2 * 4 * 5, dtype=jnp.bfloat16).reshape(2, 4, 5)
  labels = jnp.arange(8).reshape(2, 4) % 5
  for value in (losses.cross_entropy(logits, labels), losses.kl_divergence(logits, logits[::-1]),
                losses.soft_cross_entropy(logits, jax.nn.softmax(logits))):
    assert value.shape == (2, 4) and value.dtype == jnp.float32


def test_feature_l2_scales(golden):
  g = golden("18_feature_l2_scales")
  student, teacher = g["fs"], g["ft"]
  np.testing.assert_allclose(losses.feature_l2(student, teacher, "sum").sum(), g["literal_sum"], **VALUE)
  np.testing.assert_allclose(losses.feature_l2(student, teacher, "sum").mean(), g["batchmean_sum"], **VALUE)
  np.testing.assert_allclose(losses.feature_l2(student, teacher).mean(), g["elem_mean"], **VALUE)
  np.testing.assert_allclose(losses.feature_l2(student, teacher, "normalized").mean(), g["normalised"], **VALUE)


def test_normalised_feature_of_zero_has_a_finite_gradient():
  grad = jax.grad(lambda s: losses.feature_l2(s, jnp.ones((1, 3)), "normalized").sum())(jnp.zeros((1, 3)))
  assert np.isfinite(grad).all()


def test_feature_l2_refuses_different_shapes_and_unknown_reductions():
  with pytest.raises(ValueError, match=r"\(1, 3\) and \(1, 4\)"):
    losses.feature_l2(jnp.ones((1, 3)), jnp.ones((1, 4)))
  with pytest.raises(ValueError, match="'total'"):
    losses.feature_l2(jnp.ones((1, 3)), jnp.ones((1, 3)), "total")


@pytest.mark.parametrize("loss, expected", [
    ([3.0, 1.0, 2.0], 1), ([1.0, 1.0, 2.0], 0), ([np.nan, 5.0, 6.0], 1), ([np.inf, np.nan, 6.0], 2),
    ([-np.inf, 2.0, 3.0], 1), ([np.nan, np.inf, np.nan], -1)])
def test_winner(loss, expected):
  assert targets.winner(jnp.array(loss)) == expected


@pytest.mark.parametrize("rule, tie, loss, expected", [
    ("winner_only", "strict", [3.0, 1.0, 2.0], [[0, 1, 0], [0, 0, 0], [0, 1, 0]]),
    ("all_better", "strict", [3.0, 1.0, 2.0], [[0, 0.5, 0.5], [0, 0, 0], [0, 1, 0]]),
    ("winner_only", "strict", [1.0, 1.0, 2.0], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
    ("winner_only", "first_only", [1.0, 1.0, 2.0], [[0, 0, 0], [1, 0, 0], [1, 0, 0]]),
    ("all_better", "strict", [1.0, 1.0, 2.0], [[0, 0, 0], [0, 0, 0], [0.5, 0.5, 0]]),
    ("winner_only", "strict", [np.nan, 1.0, 2.0], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
    ("all_better", "strict", [np.inf, 1.0, 2.0], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
    ("winner_only", "first_only", [np.nan] * 3, np.zeros((3, 3)))])
def test_teaching_weights(rule, tie, loss, expected):
  np.testing.assert_allclose(targets.teaching_weights(jnp.array(loss), rule, tie), np.array(expected, np.float32))


def test_two_members_all_better_is_winner_only(rng):
  for loss in rng.normal(size=(20, 2)).astype(np.float32):
    np.testing.assert_array_equal(targets.teaching_weights(loss, "all_better"), targets.teaching_weights(loss))


def test_top_k_is_numpys_ranking(rng):
  logits, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
  for k in (1, 3, 5, 9):
    expected = [label in np.argsort(-row, kind="stable")[:k] for row, label in zip(logits, labels)]
    np.testing.assert_array_equal(metrics.top_k(logits, labels, k), expected)


def test_top_k_breaks_ties_by_index_and_counts_nan_as_wrong():
  logits = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, jnp.nan, 0.0]])
  np.testing.assert_array_equal(metrics.top_k(logits, jnp.array([0, 1, 0]), 1), [1, 0, 0])
