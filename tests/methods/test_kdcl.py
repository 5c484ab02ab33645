"""KDCL's methods: reference numbers, who is left out, and the held-out weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import losses, targets
from jaxdistill.core import registry
from jaxdistill.core.method import variables_of
from jaxdistill.engine.cohort import forward
from jaxdistill.errors import ConfigError
from jaxdistill.inputs import normalize
from jaxdistill.run import build
from tests.helpers import runs, toy
from tests.helpers.on_logits import evaluate, method, mixing

NAMES = [
  name for name in registry.list_available("methods") if name.startswith("kdcl.")
]


def memory_of(name, count):
  return {"weights": jnp.full(count, 1 / count)} if name == "kdcl.general" else {}


@pytest.mark.parametrize(
  "name, kwargs, expected, rtol",
  [
    ("kdcl.naive", {}, "naive_sample_kd", 2e-5),
    ("kdcl.naive", {"scope": "batch"}, "naive_batch_kd", 2e-5),
    ("kdcl.min_logit", {}, "minlogit_kd", 2e-5),
    ("kdcl.linear", {}, "linear_kd", 1e-3),
  ],
)
def test_kd_terms_match_the_reference(golden, name, kwargs, expected, rtol):
  g = golden("13_kdcl_reference")
  objective = evaluate(method(name, **kwargs), g["z"], g["labels"])
  kl = objective.metrics["kl"]
  np.testing.assert_allclose(kl, g[expected], rtol=rtol, atol=1e-6)
  ce = losses.cross_entropy(g["z"], jnp.stack([g["labels"]] * 3)).mean(axis=1)
  np.testing.assert_allclose(objective.member, ce + kl, rtol=1e-6)


def test_general_matches_the_reference(golden):
  g = golden("13_kdcl_reference")
  memory = {"weights": g["general_w_clipped"].astype(np.float32)}
  objective = evaluate(method("kdcl.general"), g["z"], g["labels"], memory=memory)
  np.testing.assert_allclose(objective.metrics["kl"], g["general_kd"], rtol=2e-5)


def test_naive_wins_are_the_fraction_of_samples(golden):
  g = golden("13_kdcl_reference")
  wins = evaluate(method("kdcl.naive"), g["z"], g["labels"]).metrics["wins"]
  expected = np.bincount(g["naive_sample_winner"], minlength=3) / 8
  np.testing.assert_allclose(wins, expected)


@pytest.mark.parametrize("name", NAMES)
def test_one_target_is_detached(case, name):
  """The gradient of the KD terms is that of KL to a constant.

  It is zero for members that equal the target.
  """
  logits, labels, _ = case
  which = method(name)

  def kd(z):
    objective = evaluate(which, z, labels, memory=memory_of(name, 3))
    return objective.metrics["kl"].sum()

  same = jnp.stack([logits[0]] * 3)
  tolerance = 1e-6 if name != "kdcl.linear" else 1e-4
  np.testing.assert_allclose(jax.grad(kd)(same), 0, atol=tolerance)
  assert np.abs(jax.grad(kd)(logits)).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [0, 1])
def test_a_member_that_is_not_finite_is_in_no_target(case, name, bad):
  logits, labels, _ = case
  others = np.array([m for m in range(3) if m != bad])
  which = method(name)

  def members(z):
    return evaluate(which, z, labels, memory=memory_of(name, len(z))).member

  poisoned = members(logits.at[bad, 3, 2].set(jnp.nan))
  alone = members(logits[others])
  np.testing.assert_allclose(poisoned[others], alone, rtol=1e-5)
  all_diverged = members(jnp.full_like(logits, jnp.nan))
  assert np.isfinite(all_diverged).all()


@pytest.mark.parametrize(
  "name",
  [
    pytest.param("kdcl.linear", marks=pytest.mark.slow),
    "kdcl.naive",
    "kdcl.min_logit",
    "kdcl.general",
  ],
)
def test_a_member_with_mixed_images_learns_the_mixture_and_is_in_no_target(case, name):
  logits, labels, _ = case
  # It would win every contest.
  logits = logits.at[1].add(9 * jax.nn.one_hot(labels, 5))
  which = method(name)
  # Whether its labels are mixed does not matter.
  mixed = mixing(1, 0.7, labels=False)
  unmixed = mixing(1, 1.0)

  @jax.jit
  def kl(z, perturbation):
    memory = memory_of(name, 3)
    objective = evaluate(which, z, labels, memory=memory, perturbation=perturbation)
    return objective.metrics["kl"]

  without = kl(logits.at[1].set(jnp.nan), unmixed)
  np.testing.assert_allclose(kl(logits, mixed)[::2], without[::2], rtol=1e-5)
  assert np.abs(kl(logits, unmixed) - without)[::2].max() > 1e-3

  # Its logits being the mixture, it has nothing left to learn.
  same = jnp.stack([logits[0]] * 3)
  p = jax.nn.softmax(logits[0] / 2)
  mixture = 2 * jnp.log(0.7 * p + 0.3 * p[::-1])
  learned = kl(same.at[1].set(mixture), mixed)
  np.testing.assert_allclose(learned, 0, atol=1e-5)
  assert kl(same, mixed)[1] > 1e-3

  # Without a member that it could learn from there is no target.
  others_diverged = logits.at[::2].set(jnp.nan)
  np.testing.assert_array_equal(kl(others_diverged, mixed), 0)


@pytest.mark.parametrize("name", ["kdcl.naive", "kdcl.min_logit", "kdcl.general"])
def test_images_mixed_for_all_are_what_they_show_most(case, name):
  logits, labels, _ = case

  def kl(labels, mixture=None):
    objective = evaluate(
      method(name), logits, labels, memory=memory_of(name, 3), mixture=mixture
    )
    return objective.metrics["kl"]

  np.testing.assert_array_equal(kl(labels, mixing(0, 0.7)), kl(labels))
  np.testing.assert_array_equal(kl(labels, mixing(0, 0.3)), kl(labels[::-1]))


@pytest.mark.slow
def test_general_measures_its_weights_on_the_held_out_examples():
  """Equal in the first epoch; then those of equation 11 for the twenty examples."""
  trial = toy.Trial(method("kdcl.general"), toy.cohort("mixed"))
  state, history = trial.run(toy.STEPS_PER_EPOCH)
  weights = [metrics["weight"] for metrics in history]
  np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)

  image, label = (part[:20] for part in toy.data())
  pixels = normalize.to_float(jnp.asarray(image))
  image = normalize.normalize(pixels, toy.MEAN, toy.STD)
  outputs, _ = forward(
    trial.specs,
    variables_of(state.cohort),
    jnp.stack([image] * 3),
    jax.random.key(0),
    train=False,
  )
  probabilities = jax.nn.softmax(outputs.logits)
  index = jnp.stack([label] * 3)[..., None]
  true_class = jnp.take_along_axis(probabilities, index, axis=2)[..., 0]
  error = true_class - 1
  expected = targets.kdcl_optimal_weights(error @ error.T / 20)
  assert np.ptp(expected) > 0.01

  _, history = trial.run(
    toy.STEPS_PER_EPOCH + 2, state=state, start=toy.STEPS_PER_EPOCH
  )
  for metrics in history:
    np.testing.assert_allclose(metrics["weight"], expected, rtol=1e-2, atol=1e-3)


def test_general_without_held_out_examples_is_refused():
  message = "method kdcl.general needs examples that are not trained on: set holdout"
  with pytest.raises(ConfigError, match=message):
    build.build(runs.config("kdcl.general"))


@pytest.mark.slow
def test_a_run_with_held_out_examples(tmp_path):
  """144 of the 1,438 digits are held out, and weights are logged.

  The second half of the run uses measured ones.
  """
  config = runs.config(
    "kdcl.general", "holdout=144", "views=per_member", "batch_size=128", "steps=20"
  )
  jaxdistill.train(config, tmp_path, quiet=True)
  assert config.batch_size * 10 <= 1438 - 144 < config.batch_size * 11
  weights = []
  for line in runs.metrics(tmp_path):
    if line["split"] == "train":
      weights.append([line[f"weight/convnet.{k}"] for k in (0, 1)])
  np.testing.assert_allclose(weights[:5], 0.5, rtol=1e-6)
  assert all(abs(first - 0.5) > 1e-3 for first, _ in weights[5:])
  np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-5)
