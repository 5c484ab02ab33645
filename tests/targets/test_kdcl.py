"""KDCL's targets against the paper's equations, an optimiser of SciPy, and by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxdistill import losses, targets
from tests.helpers import settings

VALUE = {"rtol": 2e-5, "atol": 1e-6}

# Errors of members on held-out examples.
KINDS = (
  "independent",
  "alike",
  "badly scaled",
  "of both signs",
  "singular",
  "coinciding",
)


def divergences(students, target):
  """Mean KL at temperature 2 of every student to one target."""
  return [losses.kl_divergence(student, target, 2).mean() for student in students]


def test_kdcl_naive_matches_its_equation(golden):
  g = golden("13_kdcl_reference")
  target = targets.kdcl_naive(g["z"], g["labels"])
  np.testing.assert_array_equal(target, g["naive_sample_teacher"])
  np.testing.assert_allclose(divergences(g["z"], target), g["naive_sample_kd"], **VALUE)


def test_kdcl_min_logit_matches_its_equation(golden):
  g = golden("13_kdcl_reference")
  target = targets.kdcl_min_logit(g["z"], g["labels"])
  np.testing.assert_allclose(target, g["minlogit_teacher"], **VALUE)
  np.testing.assert_allclose(divergences(g["z"], target), g["minlogit_kd"], **VALUE)


def test_kdcl_linear_matches_its_equation(golden):
  g = golden("13_kdcl_reference")
  target = targets.kdcl_linear(g["z"], g["labels"])
  ce = losses.cross_entropy(target, g["labels"])
  np.testing.assert_allclose(ce, g["linear_ce"], **VALUE)
  # Near the minimum the weights move by the square root of what the cross-entropy does,
  # and the target with them.
  expected = np.einsum("bm,mbc->bc", g["linear_alpha"], g["z"])
  np.testing.assert_allclose(target, expected, atol=1e-4)
  np.testing.assert_allclose(divergences(g["z"], target), g["linear_kd"], rtol=1e-4)


@pytest.mark.parametrize("case", ["general", "general2"])
def test_kdcl_general_weights_match_their_equation(golden, case):
  g = golden("13_kdcl_reference")
  expected = g[f"{case}_w_clipped"]
  # The ridge, 1e-6 of the mean diagonal, moves weights by 1e-6 times C's condition
  # number, about 1e-5 here.
  from_probs = targets.kdcl_general_weights(g[f"{case}_val_target_probs"])
  np.testing.assert_allclose(from_probs, expected, atol=2e-5)
  from_errors = targets.kdcl_weights_from_errors(g[f"{case}_C"])
  np.testing.assert_allclose(from_errors, expected, atol=2e-5)


def test_kdcl_general_target_matches_its_equation(golden):
  g = golden("13_kdcl_reference")
  weights = targets.kdcl_general_weights(g["general_val_target_probs"])
  target = targets.accuracy_weighted(jax.nn.softmax(g["z"] / 2), weights)
  values = divergences(g["z"], 2 * jnp.log(target))
  np.testing.assert_allclose(values, g["general_kd"], **VALUE)


@pytest.mark.parametrize(
  "moment, expected",
  [
    (np.zeros((3, 3)), [1 / 3] * 3),
    (np.full((2, 2), np.nan), [0.5, 0.5]),
    (np.full((3, 3), 0.2), [1 / 3] * 3),
    (np.diag([1e-9, 3e-9]), [0.75, 0.25]),
  ],
)
def test_kdcl_weights_of_members_that_coincide_or_fail(moment, expected):
  weights = targets.kdcl_weights_from_errors(jnp.asarray(moment, jnp.float32))
  np.testing.assert_allclose(weights, expected, rtol=1e-5)
  weights = targets.kdcl_optimal_weights(jnp.asarray(moment, jnp.float32))
  np.testing.assert_allclose(weights, expected, rtol=1e-4)


def lowest_error(moment):
  """Minimises w' C w on the simplex in float64: equation 11 on every set of members."""
  members = len(moment)
  lowest = np.inf
  for count in range(1, members + 1):
    for chosen in itertools.combinations(range(members), count):
      own = moment[np.ix_(chosen, chosen)]
      # The conditions of the minimum under sum w = 1; C may be singular.
      system = np.ones((count + 1, count + 1))
      system[:count, :count] = own
      system[count, count] = 0
      right = np.append(np.zeros(count), 1)
      weights = np.linalg.lstsq(system, right, rcond=None)[0][:count]
      if (weights >= 0).all():
        lowest = min(lowest, weights @ own @ weights / weights.sum() ** 2)
  return lowest


def errors_of(rng, kind, members):
  """Errors f - 1 of members on 200 held-out examples: [M, 200]."""
  errors = rng.beta(2, 1, size=(members, 200)) - 1
  if kind == "alike":
    errors = errors[:1] + 1e-3 * rng.normal(size=errors.shape)
  if kind == "badly scaled":
    errors *= 10 ** rng.uniform(-5, 0, size=(members, 1))
  if kind == "of both signs":
    errors = rng.normal(size=errors.shape)
  if kind == "singular":
    errors = -rng.uniform(size=(members, 2)) @ rng.uniform(size=(2, 200))
  if kind == "coinciding":
    errors = errors[rng.integers(0, 2, members)]
  return errors


@pytest.mark.parametrize("members", [2, 3, 4, 6])
def test_kdcl_optimal_weights_are_the_optimum(rng, members):
  find = jax.jit(targets.kdcl_optimal_weights)
  for kind in KINDS:
    for _ in range(4):
      errors = errors_of(rng, kind, members)
      moment = (errors @ errors.T / 200).astype(np.float32)
      weights = np.asarray(find(moment), np.float64)
      assert weights.min() >= 0
      np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
      exact = moment.astype(np.float64)
      found = weights @ exact @ weights / weights.sum() ** 2
      np.testing.assert_allclose(found, lowest_error(exact), rtol=1e-5, err_msg=kind)


def test_kdcl_optimal_weights_are_better_than_clipped_ones():
  # The third member is wrong where the others are, and more: equation 11 subtracts it,
  # and gives the others weights for that.
  errors = -np.array([[0.4, 0.1, 0.3], [0.1, 0.5, 0.3], [0.9, 0.2, 0.7]])
  moment = jnp.asarray(errors @ errors.T / 3, jnp.float32)

  def error(weights):
    return float(weights @ moment @ weights)

  optimal = jax.jit(targets.kdcl_optimal_weights)(moment)
  clipped = jax.jit(targets.kdcl_weights_from_errors)(moment)
  np.testing.assert_allclose(error(optimal), lowest_error(moment), rtol=1e-5)
  assert error(clipped) > 1.01 * error(optimal)


def test_kdcl_optimal_weights_of_many_members(rng):
  """No slope (C w)_i is below the mean w' C w: the condition of the optimum."""
  errors = rng.beta(1, 3, size=(16, 4000)) - 1
  errors *= rng.uniform(0.9, 1, size=(16, 1))
  moment = (errors @ errors.T / 4000).astype(np.float32)
  weights = np.asarray(targets.kdcl_optimal_weights(moment), np.float64)
  assert 1 < np.count_nonzero(weights) < 16
  slopes = moment.astype(np.float64) @ weights
  assert slopes.min() > (weights @ slopes) * (1 - 1e-5)


@pytest.mark.parametrize("case", ["general", "general2"])
def test_kdcl_optimal_weights_are_those_of_equation_11_above_zero(golden, case):
  g = golden("13_kdcl_reference")
  moment = g[f"{case}_C"]
  weights = targets.kdcl_optimal_weights(jnp.asarray(moment, jnp.float32))
  found = np.asarray(weights @ moment @ weights)
  np.testing.assert_allclose(found, lowest_error(moment), rtol=1e-5)
  equation_11 = np.linalg.solve(moment, np.ones(len(moment)))
  if equation_11.min() > 0:
    expected = equation_11 / equation_11.sum()
    np.testing.assert_allclose(weights, expected, atol=5e-4)


def lowest_margin(logits, label):
  """Solves equation 5 for one example in float64, from several starts.

  Args:
    logits: [M, C].
    label: of the example.

  Returns:
    The lowest log sum_{c != y} exp(w' z_c - w' z_y); the cross-entropy is its softplus.
  """
  members = len(logits)
  rivals = np.delete(logits - logits[:, label, None], label, axis=1)
  rivals = rivals.astype(np.float64)

  def margin(weights):
    scores = weights @ rivals
    exps = np.exp(scores - scores.max())
    gradient = rivals @ (exps / exps.sum())
    return scores.max() + np.log(exps.sum()), gradient

  corners = np.eye(members)
  starts = [corners.mean(axis=0), *(0.9 * corners + 0.1 / members)]
  sum_is_one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
  candidates = list(corners)
  for start in starts:
    found = optimize.minimize(
      margin,
      start,
      jac=True,
      bounds=[(0, 1)] * members,
      constraints=sum_is_one,
      method="SLSQP",
      options={"ftol": 1e-13, "maxiter": 300},
    )
    candidates.append(np.clip(found.x, 0, 1))
  return min(margin(weights / weights.sum())[0] for weights in candidates)


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("scale", [1, 5, 20])
def test_kdcl_linear_is_the_optimum(rng, members, scale):
  logits = (scale * rng.normal(size=(members, 16, 10))).astype(np.float32)
  labels = rng.integers(0, 10, 16)
  # Half of the members' predictions are right, as in training: cross-entropies next to
  # 0 count too.
  logits[:, np.arange(8), labels[:8]] += 2 * scale
  best = [lowest_margin(logits[:, b], labels[b]) for b in range(16)]
  rivals = np.arange(10) != labels[:, None]

  # The second way rounds otherwise, and computes a step of the solver more than once.
  for options in (None, settings.QUICK_STEP):
    find = jax.jit(targets.kdcl_linear, compiler_options=options)
    target = np.asarray(find(logits, labels), np.float64)
    margins = target - target[np.arange(16), labels, None]
    found = np.log(np.sum(np.exp(margins), axis=1, where=rivals))
    # The relative error of the cross-entropy is below the absolute error of the
    # margin's logarithm.
    np.testing.assert_allclose(found, np.array(best), rtol=0, atol=1e-4)


EXAMPLE_BY_EXAMPLE = [
  jax.jit(targets.kdcl_naive),
  jax.jit(targets.kdcl_min_logit),
  jax.jit(targets.kdcl_linear),
]


@pytest.mark.parametrize("make", EXAMPLE_BY_EXAMPLE)
def test_kdcl_targets_are_no_worse_than_any_member(rng, make):
  scales = rng.choice([0.1, 1, 30], size=(1, 64, 1))
  logits = jnp.asarray(rng.normal(size=(3, 64, 10)) * scales, jnp.float32)
  labels = rng.integers(0, 10, 64)
  members = jax.vmap(losses.cross_entropy, in_axes=(0, None))(logits, labels)
  ce = losses.cross_entropy(make(logits, labels), labels)
  assert (ce <= members.min(axis=0) * (1 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("make", EXAMPLE_BY_EXAMPLE)
def test_kdcl_targets_leave_diverged_members_out(rng, make):
  logits = rng.normal(size=(3, 8, 10)).astype(np.float32)
  labels = rng.integers(0, 10, 8)
  # Zeros beat most random logits: a diverged member that took part would show.
  logits[1] = 0
  without = make(logits[::2], labels)
  found = make(logits, labels, jnp.array([True, False, True]))
  np.testing.assert_allclose(found, without, **VALUE)
  assert not np.allclose(make(logits, labels), without)
  one = make(logits, labels, jnp.array([True, False, False]))
  np.testing.assert_allclose(one, make(logits[:1], labels), **VALUE)
  none = make(logits, labels, jnp.zeros(3, bool))
  np.testing.assert_array_equal(none, np.zeros((8, 10)))


@pytest.mark.parametrize("make", EXAMPLE_BY_EXAMPLE)
def test_kdcl_targets_are_float32(rng, make):
  logits = jnp.asarray(rng.normal(size=(3, 8, 10)), jnp.bfloat16)
  assert make(logits, rng.integers(0, 10, 8)).dtype == jnp.float32


@pytest.mark.parametrize("make", [targets.kdcl_naive, targets.kdcl_linear])
def test_kdcl_targets_of_one_member_are_its_logits(rng, make):
  logits = rng.normal(size=(1, 8, 10)).astype(np.float32)
  target = make(logits, rng.integers(0, 10, 8))
  np.testing.assert_array_equal(target, logits[0])
