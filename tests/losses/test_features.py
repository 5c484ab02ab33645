"""Losses of features against numbers from released code or a paper, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import losses

VALUE = {"rtol": 2e-5, "atol": 1e-6}
GRAD = {"rtol": 1e-4, "atol": 1e-6}


def nhwc(x):
  return np.moveaxis(x, 1, -1)


def assert_gradients_agree(found, expected):
  """Compares gradients relative to the largest.

  Those recorded are about 1e-6 to 1e-3: as they are, the absolute tolerance would hide
  the small ones.
  """
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found / scale, expected / scale, **GRAD)


def test_feature_l2_scales(golden):
  g = golden("18_feature_l2_scales")
  student = g["fs"]
  teacher = g["ft"]
  summed = losses.feature_l2(student, teacher, "sum")
  mean = losses.feature_l2(student, teacher)
  normalized = losses.feature_l2(student, teacher, "normalized")
  np.testing.assert_allclose(summed.sum(), g["literal_sum"], **VALUE)
  np.testing.assert_allclose(summed.mean(), g["batchmean_sum"], **VALUE)
  np.testing.assert_allclose(mean.mean(), g["elem_mean"], **VALUE)
  np.testing.assert_allclose(normalized.mean(), g["normalised"], **VALUE)


def test_normalised_feature_of_zero_has_a_finite_gradient():
  def loss(student):
    return losses.feature_l2(student, jnp.ones((1, 3)), "normalized").sum()

  assert np.isfinite(jax.grad(loss)(jnp.zeros((1, 3)))).all()


def test_feature_l2_refuses_different_shapes_and_unknown_reductions():
  with pytest.raises(ValueError, match=r"\(1, 3\) and \(1, 4\)"):
    losses.feature_l2(jnp.ones((1, 3)), jnp.ones((1, 4)))
  with pytest.raises(ValueError, match="'total'"):
    losses.feature_l2(jnp.ones((1, 3)), jnp.ones((1, 3)), "total")


@pytest.mark.parametrize("stage, value", [(1, "loss1"), (2, "loss2_pooled")])
def test_attention_transfer_matches_mdistiller(golden, stage, value):
  g = golden("02_at")
  student = nhwc(g[f"s{stage}"])
  teacher = nhwc(g[f"t{stage}"])

  def mean_loss(student):
    return losses.attention_transfer(student, teacher).mean()

  loss, grad = jax.value_and_grad(mean_loss)(student)
  np.testing.assert_allclose(loss, g[value], **VALUE)
  swapped = losses.attention_transfer(teacher, student).mean()
  np.testing.assert_allclose(swapped, g[value], **VALUE)
  assert_gradients_agree(grad, nhwc(g[f"grad_s{stage}"]))


def test_attention_map_is_the_mean_power_with_unit_norm():
  features = jnp.array([[[[3.0, -1.0], [0.0, 1.0]]]])
  squares = np.array([[5, 0.5]]) / np.hypot(5, 0.5)
  np.testing.assert_allclose(losses.attention_map(features), squares, **VALUE)
  sizes = np.array([[2, 0.5]]) / np.hypot(2, 0.5)
  np.testing.assert_allclose(losses.attention_map(features, 1), sizes, **VALUE)
  assert losses.attention_map(features.astype(jnp.bfloat16)).dtype == jnp.float32


def test_grids_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="6 x 6 feature map cannot be pooled to 4 x 4"):
    losses.attention_transfer(jnp.ones((1, 6, 6, 2)), jnp.ones((1, 4, 4, 2)))
  with pytest.raises(ValueError, match=r"\(1, 4, 4, 2\) and \(1, 2, 8, 2\)"):
    losses.diversity(jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 8, 2)))


def test_byot_hint_matches_its_code(golden):
  g = golden("06_byot")
  shallow = g["feats"][:-1]
  deep = g["feats"][-1]
  hints = jax.vmap(losses.byot_hint, in_axes=(0, None))
  np.testing.assert_allclose(hints(shallow, deep).sum(axis=1), g["feat"], **VALUE)
  grad = jax.grad(lambda features: hints(features, deep).sum())(shallow)
  # The recorded loss has the weight 1e-6.
  np.testing.assert_allclose(grad, g["grad_feats"][:-1] / 1e-6, **GRAD)


def test_byots_distillation_is_the_soft_cross_entropy(golden):
  g = golden("06_byot")
  teacher = jax.nn.softmax(g["logits"][-1] / 3)
  for student, expected in zip(g["logits"][:-1], g["kd"], strict=True):
    kd = 9 * losses.soft_cross_entropy(student / 3, teacher).mean()
    np.testing.assert_allclose(kd, expected, **VALUE)


def test_byot_hint_by_hand():
  # The first channel is negative on both sides, the second positive on one, the third
  # on both.
  student = jnp.array([[-1.0, -2.0, 3.0]])
  teacher = jnp.array([[-3.0, 1.0, 1.0]])
  assert losses.byot_hint(student, teacher) == 9 + 4


def test_ffsd_attention_matches_its_code(golden):
  g = golden("09_ffsd_losses")
  x = nhwc(g["x"])
  y = nhwc(g["y"])

  def mean_loss(features):
    return losses.attention_transfer(features, y).mean()

  value, grad = jax.value_and_grad(mean_loss)(x)
  np.testing.assert_allclose(value, g["attention_loss"], **VALUE)
  assert_gradients_agree(grad, nhwc(g["grad_x_attention"]))
  distance = losses.feature_l2(x, y, "normalized").mean() / x[0].size
  np.testing.assert_allclose(distance, g["feature_loss"], **VALUE)


@pytest.mark.parametrize("jit", [False, True])
def test_diversity_matches_ffsds_code(golden, jit):
  g = golden("09_ffsd_losses")
  x = nhwc(g["x"])
  y = nhwc(g["y"])

  def mean_loss(features):
    return losses.diversity(features, y).mean()

  value_and_grad = jax.value_and_grad(mean_loss)
  target = losses.diversity_target
  if jit:
    value_and_grad = jax.jit(value_and_grad)
    target = jax.jit(target)
  value, grad = value_and_grad(x)
  np.testing.assert_allclose(value, g["diversity_loss"], **VALUE)
  np.testing.assert_allclose(grad, nhwc(g["grad_x_diversity"]), **GRAD)
  np.testing.assert_allclose(target(y), nhwc(g["diversity_target"]), **VALUE)


def target_of_product(first, second):
  return losses.diversity_target(first * second)


@pytest.mark.parametrize(
  "loss", [losses.attention_transfer, losses.diversity, target_of_product]
)
def test_zero_features_have_finite_gradients(rng, loss):
  some = jnp.asarray(rng.normal(size=(1, 3, 3, 2)), jnp.float32)
  zero = 0 * some

  def total(first, second):
    return loss(first, second).sum()

  value_and_grads = jax.value_and_grad(total, argnums=(0, 1))
  for first, second in ((zero, some), (some, zero), (zero, zero)):
    value, grads = value_and_grads(first, second)
    assert np.isfinite(value)
    for grad in grads:
      assert np.isfinite(grad).all()


def test_dmfl_matches_its_equation(golden):
  g = golden("19_dmfl_reference")
  each_to_last = jax.vmap(losses.dmfl, in_axes=(0, None))
  values = each_to_last(g["feats"][:-1], g["feats"][-1])
  assert values.shape == (3, 8)
  np.testing.assert_allclose(values.mean(), g["dmfl"], **VALUE)


def test_dmfl_trains_each_side_towards_the_detached_other(rng):
  first, second = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
  p = jax.nn.softmax(first / 2)
  q = jax.nn.softmax(second / 2)

  def total(first, second):
    return losses.dmfl(first, second, 2.0).sum()

  grads = jax.grad(total, argnums=(0, 1))(first, second)
  np.testing.assert_allclose(grads[0], (p - q) / 2, **GRAD)
  np.testing.assert_allclose(grads[1], (q - p) / 2, **GRAD)


def test_huge_features_have_finite_losses(rng):
  some = jnp.asarray(rng.normal(size=(2, 4, 4, 6)), jnp.float32)
  huge = jnp.where(some > 0, 3e38, -3e38)

  def total(first, second):
    student = first[:, 0, 0]
    teacher = second[:, 0, 0]
    values = {
      "feature_l2": losses.feature_l2(first, second),
      "normalized": losses.feature_l2(first, second, "normalized"),
      "attention_transfer": losses.attention_transfer(first, second),
      "diversity": losses.diversity(first, second),
      "byot_hint": losses.byot_hint(student, teacher),
      "dmfl": losses.dmfl(student, teacher),
      "pooled": losses.average_pool(first, (2, 2)),
      "shifted": losses.diversity_target(second),
    }
    return sum(value.sum() for value in values.values()), values

  gradient = jax.jit(jax.grad(total, has_aux=True))
  for first, second in ((huge, some), (some, huge), (huge, -huge)):
    grad, values = gradient(first, second)
    assert np.isfinite(grad).all()
    for name, value in values.items():
      assert np.isfinite(value).all(), name
