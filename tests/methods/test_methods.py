"""Methods against numbers of their released code and against each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill.core.durations import Clock
from jaxdistill.core.method import GroupSpec
from jaxdistill.core.types import Batch, ModelOutput, Perturbation, Views
from jaxdistill.engine.train_step import init_state, make_train_step
from jaxdistill.errors import ConfigError
from tests.helpers import toy
from tests.helpers.on_logits import evaluate, method

# The members of toy.cohort("mixed"): group and place in it.
MIXED = (("net", 0), ("net", 1), ("wide", 0))


def params_of(state):
  """The parameters of every member of toy.cohort("mixed"), as lists of arrays."""
  members = []
  for group, k in MIXED:
    leaves = jax.tree.leaves(toy.arrays(state.cohort[group].params))
    members.append([leaf[k] for leaf in leaves])
  return members


def gaps(first, second):
  """The largest difference of parameters between two states, for every member."""
  result = []
  for a, b in zip(params_of(first), params_of(second), strict=True):
    result.append(max(np.abs(x - y).max() for x, y in zip(a, b, strict=True)))
  return np.array(result)


def test_dml_matches_released_code(golden):
  g = golden("10_dml")

  def member(z):
    return evaluate(method("dml"), z, g["labels"]).member

  np.testing.assert_allclose(member(g["z"]), g["paper_L"], rtol=2e-5)
  grads = jax.grad(lambda z: member(z).sum())(g["z"])
  np.testing.assert_allclose(grads, g["grads"], rtol=1e-4, atol=1e-6)


def test_dml_sum_matches_released_tensorflow_code(golden):
  g = golden("10_dml")
  objective = evaluate(method("dml", reduce="sum"), g["z"], g["labels"])
  # The TensorFlow code adds 1e-8 inside its logarithms.
  np.testing.assert_allclose(objective.member, g["tf_release_L"], rtol=1e-4)


class Linear(nn.Module):
  """The classifier that the released competitive code was run with.

  One dense layer on pixels in NCHW order.
  """

  @nn.compact
  def __call__(self, x, train):
    pixels = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
    return ModelOutput(nn.Dense(5)(pixels), {})


def nhwc(x):
  return jnp.transpose(x, (0, 2, 3, 1))


def mixed_labels(g):
  first = jax.nn.one_hot(g["labels"], 5)
  second = jax.nn.one_hot(g["labels_b"], 5)
  return g["lam"] * first + (1 - g["lam"]) * second


@pytest.mark.parametrize("case", ["clean", "mixup", "noise"])
@pytest.mark.parametrize("rule", ["comp", "dml"])
def test_one_step_equals_a_step_of_the_released_code(golden, rule, case):
  """Weights after one step of its `train_one_epoch`, perturbed member included."""
  g = golden("15_competitive_official_step")
  if rule == "comp":
    which = method("competitive", teachers="all_better", beta=0.0)
  else:
    which = method("dml")

  # What the members see: one of them perturbed images.
  images = nhwc(g["images"])
  perturbed = images if case == "clean" else nhwc(g[f"images_{case}"])
  target = jax.nn.one_hot(g["labels"], 5)
  perturbed_target = mixed_labels(g) if case == "mixup" else target
  own = jnp.arange(3)[:, None, None] == int(g["random_idx"])
  views = Views(
    image=jnp.where(own[..., None, None], perturbed[None], images[None]),
    target=jnp.where(own, perturbed_target[None], target[None]),
    perturbation=Perturbation.none(8),
  )

  # The cohort: the released code's initial weights.
  tx = optax.sgd(0.1)
  clock = Clock(steps_per_epoch=1, total_steps=1)
  specs = (GroupSpec("net", Linear(), 3, tx),)
  state = init_state(
    0,
    specs,
    which,
    lambda owner: tx,
    image_shape=(2, 2, 3),
    num_classes=5,
    num_examples=8,
    clock=clock,
  )
  start = {
    "Dense_0": {
      "kernel": jnp.swapaxes(g["w0"], 1, 2),
      "bias": jnp.asarray(g["b0"]),
    }
  }
  state = state.replace(cohort={"net": state.cohort["net"].replace(params=start)})

  step = make_train_step(
    specs,
    which,
    lambda key, step, batch: (views, images),
    optimizers=lambda owner: tx,
    clock=clock,
  )
  batch = Batch(
    image=None,
    label=jnp.asarray(g["labels"]),
    index=jnp.arange(8),
    mask=jnp.ones(8),
  )
  state, metrics = jax.jit(step)(state, batch)

  name = f"{rule}_{case}"
  params = state.cohort["net"].params["Dense_0"]
  kernel = jnp.swapaxes(params["kernel"], 1, 2)
  np.testing.assert_allclose(kernel, g[f"{name}_w"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(params["bias"], g[f"{name}_b"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(metrics["ce"].value(), g[f"{name}_ce"], rtol=2e-5)
  np.testing.assert_allclose(metrics["loss"].value(), g[f"{name}_loss"], rtol=2e-5)


@pytest.mark.parametrize("case", ["clean", "mixup"])
def test_paper_rule_matches_reference(golden, case):
  g = golden("15_competitive_official_step")
  expected = golden("15b_competitive_paper_winner")

  def logits_of(x):
    scores = jnp.einsum("bd,mcd->mbc", x.reshape(8, -1), g["w0"], precision="highest")
    return scores + g["b0"][:, None]

  logits = logits_of(g["images"])
  target = jax.nn.one_hot(g["labels"], 5)[None].repeat(3, 0)
  if case == "mixup":
    logits = logits.at[1].set(logits_of(g["images_mixup"])[1])
    target = target.at[1].set(mixed_labels(g))
  which = method("competitive", beta=0.0)
  objective = evaluate(which, logits, g["labels"], target=target)
  winner = int(expected[f"{case}_winner"])
  np.testing.assert_array_equal(objective.metrics["wins"], np.eye(3)[winner])
  kl = objective.metrics["kl"]
  np.testing.assert_allclose(kl, expected[f"{case}_kl"], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(objective.member, expected[f"{case}_loss"], rtol=2e-5)


def test_dml_of_two_is_the_same_for_mean_sum_and_mean_logits(case):
  logits, labels, _ = case
  expected = evaluate(method("dml"), logits[:2], labels).member
  for kwargs in ({"reduce": "sum"}, {"target": "mean_logits"}):
    member = evaluate(method("dml", **kwargs), logits[:2], labels).member
    np.testing.assert_allclose(expected, member, rtol=1e-6)


@pytest.mark.parametrize("reduce, share", [("mean", 1 / 2), ("sum", 1)])
def test_the_feature_term_of_dml_is_the_distance_to_every_peer(case, reduce, share):
  logits, labels, features = case
  pooled = np.asarray(features["pooled"])

  def objective_of(pooled, weight):
    which = method("dml", reduce=reduce, feature_weight=weight)
    return evaluate(which, logits, labels, features={"pooled": pooled})

  without = objective_of(pooled, 0.0)
  assert "feature" not in without.metrics
  found = objective_of(pooled, 0.5)
  differences = pooled[:, None] - pooled[None, :]
  expected = share * np.square(differences).mean(axis=(2, 3)).sum(axis=1)
  np.testing.assert_allclose(found.metrics["feature"], expected, rtol=1e-5)
  np.testing.assert_allclose(found.member, without.member + 0.5 * expected, rtol=1e-5)

  # Peers are detached.
  gradient = jax.grad(lambda pooled: objective_of(pooled, 0.5).member.sum())(pooled)
  size = pooled.shape[1] * pooled.shape[2]
  expected = 0.5 * share * 2 * differences.sum(axis=1) / size
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("target", ["pairwise", "mean_logits"])
def test_dml_of_one_is_independent(case, target):
  logits, labels, features = case
  own = {key: value[:1] for key, value in features.items()}
  dml = evaluate(
    method("dml", target=target, feature_weight=1.0), logits[:1], labels, features=own
  )
  alone = evaluate(method("independent"), logits[:1], labels)
  np.testing.assert_array_equal(dml.member, alone.member)


@pytest.mark.parametrize(
  "name, kwargs",
  [
    ("competitive", {}),
    ("competitive", {"teachers": "all_better"}),
    ("competitive", {"scope": "sample"}),
    ("dml", {}),
    ("dml", {"target": "mean_logits"}),
    ("dml", {"feature_weight": 1.0}),
  ],
)
def test_a_member_that_is_not_finite_neither_teaches_nor_harms(case, name, kwargs):
  logits, labels, features = case
  which = method(name, **kwargs)
  others = np.array([0, 2])

  # The step replaces features of such a member by zeros.
  zeroed = {key: value.at[1].set(0) for key, value in features.items()}
  nan_logits = logits.at[1, 3, 2].set(jnp.nan)
  poisoned = evaluate(which, nan_logits, labels, features=zeroed)

  own = {key: value[others] for key, value in features.items()}
  alone = evaluate(which, logits[others], labels, features=own)
  np.testing.assert_allclose(poisoned.member[others], alone.member, rtol=1e-6)
  if "wins" in poisoned.metrics:
    assert poisoned.metrics["wins"][1] == 0


HUGE = 3e38


@pytest.mark.parametrize(
  "name, kwargs",
  [
    ("competitive", {"beta": 0.0, "temperature": 0.5}),
    ("dml", {"temperature": 0.5}),
    ("dml", {"target": "mean_logits"}),
    ("kdcl.naive", {"scope": "batch"}),
    pytest.param("kdcl.linear", {}, marks=pytest.mark.slow),
    ("kdcl.min_logit", {}),
    ("kdcl.general", {"temperature": 0.5}),
  ],
)
def test_a_member_with_huge_logits_leaves_the_others_finite(case, name, kwargs):
  """Two such members, right and wrong: sums and differences of theirs overflow."""
  logits, labels, _ = case
  own = jax.nn.one_hot(labels, 5)
  right = jnp.where(own > 0, HUGE, -HUGE)
  logits = jnp.concatenate([logits, right[None], -right[None]])
  which = method(name, **kwargs)
  memory = {}
  if name == "kdcl.general":
    memory = {"weights": jnp.eye(5)[3]}

  def total(z):
    objective = evaluate(which, z, labels, memory=memory)
    return objective.member.sum(), objective

  grads, objective = jax.jit(jax.grad(total, has_aux=True))(logits)
  assert np.isfinite(grads).all()
  assert np.isfinite(objective.member).all()
  for value in objective.metrics.values():
    assert np.isfinite(value).all()
  assert np.abs(objective.member[:3]).max() < 1e3


@pytest.mark.parametrize(
  "name, kwargs, message",
  [
    (
      "competitive",
      {"temperature": 0.0},
      "temperature must be a finite number above 0, got 0.0",
    ),
    (
      "competitive",
      {"alpha": -1.0},
      "alpha must be a finite number of at least 0, got -1.0",
    ),
    (
      "competitive",
      {"teachers": "best"},
      "teachers must be one of winner_only, all_better, got 'best'",
    ),
    (
      "competitive",
      {"tempreature": 1.0},
      "no key 'tempreature'; did you mean 'temperature'",
    ),
    (
      "dml",
      {"temperature": float("nan")},
      "temperature must be a finite number above 0, got nan",
    ),
    ("dml", {"reduce": "max"}, "reduce must be one of mean, sum"),
    (
      "dml",
      {"feature_weight": -1.0},
      "feature_weight must be a finite number of at least 0, got -1.0",
    ),
    ("dml", {"projector": "mine"}, "projector must be one of auto, none, got 'mine'"),
  ],
)
def test_bad_arguments_are_refused(name, kwargs, message):
  with pytest.raises(ConfigError, match=message):
    method(name, **kwargs)


def gaps_between_orders(name):
  """How far the two orders of updates are apart after a step, for every member."""
  states = []
  for order in ("simultaneous", "sequential"):
    trial = toy.Trial(method(name), toy.cohort("mixed"), update_order=order)
    state, _ = trial.run(1)
    states.append(state)
  return gaps(*states)


@pytest.mark.slow
def test_sequential_update_lets_later_members_see_earlier_updates():
  """Member 0 steps as in the simultaneous update, the others do not."""
  coupled = gaps_between_orders("dml")
  assert coupled[0] < 1e-6
  assert coupled[1:].min() > 1e-5


@pytest.mark.slow
def test_without_coupling_the_order_of_updates_does_not_matter():
  assert gaps_between_orders("independent").max() < 1e-6


def test_the_winner_of_a_step_moves_as_if_it_were_alone():
  """Its parameters after one step are those of plain cross-entropy training.

  The students' are not.
  """
  state, history = toy.Trial(method("competitive"), toy.cohort("mixed")).run(1)
  alone, _ = toy.Trial(method("independent"), toy.cohort("mixed")).run(1)
  found = gaps(state, alone)
  winner = int(history[0]["wins"].argmax())
  assert found[winner] < 1e-6
  assert np.delete(found, winner).min() > 1e-4


@pytest.mark.slow
def test_a_cohort_of_two_independents_is_two_cohorts_of_one():
  pair, _ = toy.Trial(method("independent"), toy.cohort("pair")).run(3)
  alone, _ = toy.Trial(method("independent"), toy.cohort("one")).run(3)

  def check(a, b):
    np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-5)

  jax.tree.map(check, toy.arrays(pair.cohort["net"]), toy.arrays(alone.cohort["net"]))


def test_adding_members_does_not_change_the_others():
  def initial_params(kind):
    trial = toy.Trial(method("independent"), toy.cohort(kind))
    return toy.arrays(trial.initial.cohort["net"].params)

  reference = initial_params("pair")

  def check(a, b):
    np.testing.assert_array_equal(a, b[:2])

  for kind in ("same", "mixed"):
    jax.tree.map(check, reference, initial_params(kind))
  kernels = [x for x in jax.tree.leaves(reference) if x.ndim == 5]
  assert kernels
  for kernel in kernels:
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01
