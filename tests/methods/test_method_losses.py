"""Losses and targets of the methods against numbers from released code or the papers' equations, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxdistill import losses, targets

VALUE = dict(rtol=2e-5, atol=1e-6)
GRAD = dict(rtol=1e-4, atol=1e-6)


def nhwc(x):
  return np.moveaxis(x, 1, -1)


@pytest.mark.parametrize("stage, value", [(1, "loss1"), (2, "loss2_pooled")])
def test_attention_transfer_matches_mdistiller(golden, stage, value):
  g = golden("02_at")
  student, teacher = nhwc(g[f"s{stage}"]), nhwc(g[f"t{stage}"])
  loss, grad = jax.value_and_grad(lambda s: losses.attention_transfer(s, teacher).mean())(student)
  np.testing.assert_allclose(loss, g[value], **VALUE)
  np.testing.assert_allclose(losses.attention_transfer(teacher, student).mean(), g[value], **VALUE)
  # The recorded gradients are about 1e-6 to 1e-3: as they are, the absolute tolerance would hide the small ones.
  scale = np.abs(g[f"grad_s{stage}"]).max()
  np.testing.assert_allclose(grad / scale, nhwc(g[f"grad_s{stage}"]) / scale, **GRAD)


def test_attention_map_is_the_mean_power_with_unit_norm():
  features = jnp.array([[[[3.0, -1.0], [0.0, 1.0]]]])
  np.testing.assert_allclose(losses.attention_map(features), np.array([[5, 0.5]]) / np.hypot(5, 0.5), **VALUE)
  np.testing.assert_allclose(losses.attention_map(features, 1), np.array([[2, 0.5]]) / np.hypot(2, 0.5), **VALUE)
  assert losses.attention_map(features.astype(jnp.bfloat16)).dtype == jnp.float32


def test_grids_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="6 x 6 feature map cannot be pooled to 4 x 4"):
    losses.attention_transfer(jnp.ones((1, 6, 6, 2)), jnp.ones((1, 4, 4, 2)))
  with pytest.raises(ValueError, match=r"\(1, 4, 4, 2\) and \(1, 2, 8, 2\)"):
    losses.diversity(jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 8, 2)))


def test_byot_hint_matches_its_code(golden):
  g = golden("06_byot")
  shallow, deep = g["feats"][:-1], g["feats"][-1]
  both = jax.vmap(losses.byot_hint, in_axes=(0, None))
  np.testing.assert_allclose(both(shallow, deep).sum(axis=1), g["feat"], **VALUE)
  grad = jax.grad(lambda s: both(s, deep).sum())(shallow)
  np.testing.assert_allclose(grad, g["grad_feats"][:-1] / 1e-6, **GRAD)
  kd = [losses.soft_cross_entropy(z / 3, jax.nn.softmax(g["logits"][-1] / 3)).mean() * 9 for z in g["logits"][:-1]]
  np.testing.assert_allclose(kd, g["kd"], **VALUE)


def test_byot_hint_by_hand():
  # The first channel is negative on both sides, the second positive on one, the third on both.
  assert losses.byot_hint(jnp.array([[-1.0, -2.0, 3.0]]), jnp.array([[-3.0, 1.0, 1.0]])) == 9 + 4


def test_ffsd_attention_matches_its_code(golden):
  g = golden("09_ffsd_losses")
  x, y = nhwc(g["x"]), nhwc(g["y"])
  value, grad = jax.value_and_grad(lambda f: losses.attention_transfer(f, y).mean())(x)
  np.testing.assert_allclose(value, g["attention_loss"], **VALUE)
  scale = np.abs(g["grad_x_attention"]).max()
  np.testing.assert_allclose(grad / scale, nhwc(g["grad_x_attention"]) / scale, **GRAD)
  np.testing.assert_allclose(losses.feature_l2(x, y, "normalized").mean() / x[0].size, g["feature_loss"], **VALUE)


@pytest.mark.parametrize("jit", [False, True])
def test_diversity_matches_ffsds_code(golden, jit):
  g = golden("09_ffsd_losses")
  x, y = nhwc(g["x"]), nhwc(g["y"])
  wrap = jax.jit if jit else lambda f: f
  value, grad = wrap(jax.value_and_grad(lambda f: losses.diversity(f, y).mean()))(x)
  np.testing.assert_allclose(value, g["diversity_loss"], **VALUE)
  np.testing.assert_allclose(grad, nhwc(g["grad_x_diversity"]), **GRAD)
  np.testing.assert_allclose(wrap(losses.diversity_target)(y), nhwc(g["diversity_target"]), **VALUE)


def test_zero_features_have_finite_gradients(rng):
  some = jnp.asarray(rng.normal(size=(1, 3, 3, 2)), jnp.float32)
  for loss in (losses.attention_transfer, losses.diversity, lambda a, b: losses.diversity_target(a * b)):
    for pair in ((0 * some, some), (some, 0 * some), (0 * some, 0 * some)):
      value, grads = jax.value_and_grad(lambda a, b: loss(a, b).sum(), argnums=(0, 1))(*pair)
      assert np.isfinite(value) and all(np.isfinite(grad).all() for grad in grads)


def test_dmfl_matches_its_equation(golden):
  g = golden("19_dmfl_reference")
  values = jax.vmap(losses.dmfl, in_axes=(0, None))(g["feats"][:-1], g["feats"][-1])
  assert values.shape == (3, 8)
  np.testing.assert_allclose(values.mean(), g["dmfl"], **VALUE)


def test_dmfl_trains_each_side_towards_the_detached_other(rng):
  first, second = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
  p, q = jax.nn.softmax(first / 2), jax.nn.softmax(second / 2)
  grads = jax.grad(lambda a, b: losses.dmfl(a, b, 2.0).sum(), argnums=(0, 1))(first, second)
  np.testing.assert_allclose(grads[0], (p - q) / 2, **GRAD)
  np.testing.assert_allclose(grads[1], (q - p) / 2, **GRAD)


def test_progressive_targets_match_ps_kd(golden):
  g = golden("12_pskd")
  soft = targets.progressive(g["labels"], g["prev_probs"], g["alpha"])
  value, grad = jax.value_and_grad(lambda z: losses.soft_cross_entropy(z, soft).mean())(g["logits"])
  np.testing.assert_allclose(value, g["loss_out"], **VALUE)
  np.testing.assert_allclose(grad, g["grad"], **GRAD)


def test_accuracy_weighted_matches_its_equation(golden):
  g = golden("14_md_reference")
  soft = targets.accuracy_weighted(jax.nn.softmax(g["z_teachers"] / 3), g["val_acc"])
  np.testing.assert_allclose(soft, g["Se"], **VALUE)
  kl = jnp.sum(soft * (jnp.log(soft) - jax.nn.log_softmax(g["z_student"] / 3)), axis=1).mean()
  np.testing.assert_allclose(kl, g["kl"], **VALUE)


def test_accuracy_weighted_without_accuracy_is_the_mean():
  probs = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
  np.testing.assert_array_equal(targets.accuracy_weighted(probs, jnp.zeros(2)), [[0.5, 0.5]])


def kdcl_divergences(students, target):
  return [losses.kl_divergence(z, target, 2).mean() for z in students]


def test_kdcl_naive_matches_its_equation(golden):
  g = golden("13_kdcl_reference")
  target = targets.kdcl_naive(g["z"], g["labels"])
  np.testing.assert_array_equal(target, g["naive_sample_teacher"])
  np.testing.assert_allclose(kdcl_divergences(g["z"], target), g["naive_sample_kd"], **VALUE)


def test_kdcl_min_logit_matches_its_equation(golden):
  g = golden("13_kdcl_reference")
  target = targets.kdcl_min_logit(g["z"], g["labels"])
  np.testing.assert_allclose(target, g["minlogit_teacher"], **VALUE)
  np.testing.assert_allclose(kdcl_divergences(g["z"], target), g["minlogit_kd"], **VALUE)


def test_kdcl_linear_matches_its_equation(golden):
  g = golden("13_kdcl_reference")
  target = targets.kdcl_linear(g["z"], g["labels"])
  np.testing.assert_allclose(losses.cross_entropy(target, g["labels"]), g["linear_ce"], **VALUE)
  # Near the minimum the weights move by the square root of what the cross-entropy does, and the target with them.
  expected = np.einsum("bm,mbc->bc", g["linear_alpha"], g["z"])
  np.testing.assert_allclose(target, expected, atol=1e-4)
  np.testing.assert_allclose(kdcl_divergences(g["z"], target), g["linear_kd"], rtol=1e-4)


@pytest.mark.parametrize("case", ["general", "general2"])
def test_kdcl_general_weights_match_their_equation(golden, case):
  g = golden("13_kdcl_reference")
  # The ridge, 1e-6 of the mean diagonal, moves weights by 1e-6 times C's condition number, about 1e-5 here.
  for weights in (targets.kdcl_general_weights(g[f"{case}_val_target_probs"]),
                  targets.kdcl_weights_from_errors(g[f"{case}_C"])):
    np.testing.assert_allclose(weights, g[f"{case}_w_clipped"], atol=2e-5)


def test_kdcl_general_target_matches_its_equation(golden):
  g = golden("13_kdcl_reference")
  weights = targets.kdcl_general_weights(g["general_val_target_probs"])
  target = targets.accuracy_weighted(jax.nn.softmax(g["z"] / 2), weights)
  values = kdcl_divergences(g["z"], 2 * jnp.log(target))
  np.testing.assert_allclose(values, g["general_kd"], **VALUE)


@pytest.mark.parametrize("moment, expected", [
    (np.zeros((3, 3)), [1 / 3] * 3), (np.full((2, 2), np.nan), [0.5, 0.5]), (np.full((3, 3), 0.2), [1 / 3] * 3),
    (np.diag([1e-9, 3e-9]), [0.75, 0.25])])
def test_kdcl_weights_of_members_that_coincide_or_fail(moment, expected):
  np.testing.assert_allclose(targets.kdcl_weights_from_errors(jnp.asarray(moment, jnp.float32)), expected, rtol=1e-5)


def lowest_cross_entropy(logits, label):
  """Solves equation 5 for one example, [M, C], in float64 and returns log sum_{c != y} exp(w' z_c - w' z_y)."""
  margins = np.delete(logits - logits[:, label, None], label, axis=1).astype(np.float64)

  def margin(weights):
    scores = weights @ margins
    shares = np.exp(scores - scores.max())
    return scores.max() + np.log(shares.sum()), margins @ (shares / shares.sum())

  corners = np.eye(len(logits))
  starts = [corners.mean(axis=0), *(0.9 * corners + 0.1 / len(logits))]
  total = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
  found = [optimize.minimize(margin, start, jac=True, bounds=[(0, 1)] * len(logits), constraints=total,
                             method="SLSQP", options={"ftol": 1e-13, "maxiter": 300}).x for start in starts]
  return min(margin(w / w.sum())[0] for w in [*np.clip(found, 0, 1), *corners])


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("scale", [1, 5, 20])
def test_kdcl_linear_is_the_optimum(rng, members, scale):
  logits = (scale * rng.normal(size=(members, 16, 10))).astype(np.float32)
  labels = rng.integers(0, 10, 16)
  # Half of the members' predictions are right, as in training: cross-entropies next to 0 count too.
  logits[:, np.arange(8), labels[:8]] += 2 * scale
  target = np.asarray(targets.kdcl_linear(logits, labels), np.float64)
  rivals = np.arange(10) != labels[:, None]
  margin = np.log(np.sum(np.exp(target - target[np.arange(16), labels, None]), axis=1, where=rivals))
  best = np.array([lowest_cross_entropy(logits[:, b], labels[b]) for b in range(16)])
  # The relative error of the cross-entropy is below the absolute error of the margin's logarithm.
  np.testing.assert_allclose(margin, best, rtol=0, atol=1e-4)


def test_kdcl_targets_are_no_worse_than_any_member(rng):
  logits = jnp.asarray(rng.normal(size=(3, 64, 10)) * rng.choice([0.1, 1, 30], size=(1, 64, 1)), jnp.float32)
  labels = rng.integers(0, 10, 64)
  members = jax.vmap(losses.cross_entropy, in_axes=(0, None))(logits, labels)
  for make in (targets.kdcl_naive, targets.kdcl_min_logit, targets.kdcl_linear):
    ce = losses.cross_entropy(make(logits, labels), labels)
    assert (ce <= members.min(axis=0) * (1 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("make", [targets.kdcl_naive, targets.kdcl_min_logit, targets.kdcl_linear])
def test_kdcl_targets_leave_dead_members_out(rng, make):
  logits = rng.normal(size=(3, 8, 10)).astype(np.float32)
  labels = rng.integers(0, 10, 8)
  # Zeros beat most random logits: a dead member that took part would show.
  logits[1] = 0
  alive = jnp.array([True, False, True])
  np.testing.assert_allclose(make(logits, labels, alive), make(logits[::2], labels), **VALUE)
  assert not np.allclose(make(logits, labels), make(logits[::2], labels))
  one = make(logits, labels, jnp.array([True, False, False]))
  np.testing.assert_allclose(one, make(logits[:1], labels), **VALUE)
  np.testing.assert_array_equal(make(logits, labels, jnp.zeros(3, bool)), np.zeros((8, 10)))
  assert make(logits.astype(jnp.bfloat16), labels).dtype == jnp.float32


@pytest.mark.parametrize("make", [targets.kdcl_naive, targets.kdcl_linear])
def test_kdcl_targets_of_one_member_are_its_logits(rng, make):
  logits = rng.normal(size=(1, 8, 10)).astype(np.float32)
  np.testing.assert_array_equal(make(logits, rng.integers(0, 10, 8)), logits[0])
