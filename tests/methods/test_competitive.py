"""Competitive Distillation's rules on logits made by hand.

The contest, views of the perturbed member, features.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core.method import Setup
from jaxdistill.core.types import ModelOutput, Outputs
from jaxdistill.errors import ConfigError
from tests.helpers.on_logits import evaluate, method, mixing


def competitive(logits, labels, *, features, **kwargs):
  """The objective of the method with these keywords."""
  which = method("competitive", **kwargs)
  return evaluate(which, logits, labels, features=features)


def test_winner_is_trained_on_cross_entropy_alone(case):
  logits, labels, features = case

  def gradient(name):
    def total(z):
      return evaluate(method(name), z, labels, features=features).member.sum()

    return jax.grad(total)(logits)

  wins = competitive(logits, labels, features=features).metrics["wins"]
  winner = int(np.argmax(wins))
  with_contest = gradient("competitive")
  alone = gradient("independent")
  np.testing.assert_array_equal(with_contest[winner], alone[winner])
  for student in {0, 1, 2} - {winner}:
    assert np.abs(with_contest[student] - alone[student]).max() > 1e-3


def test_no_gradient_reaches_the_teachers_features(case):
  logits, labels, features = case

  def total(pooled):
    return competitive(logits, labels, features={"pooled": pooled}).member.sum()

  grad = jax.grad(total)(features["pooled"])
  wins = competitive(logits, labels, features=features).metrics["wins"]
  np.testing.assert_array_equal(np.abs(grad).max((1, 2)) > 0, wins == 0)


@pytest.mark.parametrize("tie", ["strict", "first_only"])
def test_identical_members_have_nothing_to_learn_from_each_other(case, tie):
  logits, labels, features = case
  same = jnp.repeat(logits[:1], 3, 0)
  pooled = jnp.repeat(features["pooled"][:1], 3, 0)
  objective = competitive(same, labels, features={"pooled": pooled}, tie=tie)
  np.testing.assert_array_equal(objective.metrics["kl"], 0)
  np.testing.assert_array_equal(objective.metrics["wins"], [1, 0, 0])


def test_two_members_all_better_equals_winner_only(case):
  logits, labels, features = case
  pair = {"pooled": features["pooled"][:2]}
  members = []
  for rule in ("winner_only", "all_better"):
    objective = competitive(logits[:2], labels, features=pair, teachers=rule)
    members.append(objective.member)
  np.testing.assert_array_equal(*members)


def test_sample_scope_lets_every_example_choose_its_teacher(case):
  logits, labels, features = case
  objective = competitive(logits, labels, features=features, scope="sample", beta=0.0)
  log_p = np.array(jax.nn.log_softmax(logits))
  index = labels[None, :, None].repeat(3, 0)
  ce = -np.take_along_axis(log_p, index, 2)[..., 0]
  best = ce.argmin(0)
  teacher = log_p[best, np.arange(8)]
  expected = (np.exp(teacher) * (teacher - log_p)).sum(-1).mean(-1)
  np.testing.assert_allclose(objective.metrics["kl"], expected, rtol=1e-4, atol=1e-6)
  wins = np.bincount(best, minlength=3) / 8
  np.testing.assert_allclose(objective.metrics["wins"], wins, rtol=1e-6)


def perturbed_case(case, weight, *, mix_labels=True):
  """Member 0 is perturbed by an operation that keeps `weight` of its images."""
  logits, labels, features = case
  perturbation = mixing(0, weight, labels=mix_labels)
  target = jax.nn.one_hot(labels, 5)[None].repeat(3, 0)
  mixed = perturbation.mix_labels(jnp.asarray(labels), 5)
  return {
    "logits": logits,
    "labels": labels,
    "features": features,
    "perturbation": perturbation,
    "target": target.at[0].set(mixed),
  }


def logged(inputs, *, clean=None, **kwargs):
  """The metrics of the method with these keywords."""
  return evaluate(method("competitive", **kwargs), **inputs, clean=clean).metrics


def test_kl_view_skip_leaves_the_perturbed_member_out(case):
  inputs = perturbed_case(case, 1.0)
  skip = logged(inputs, beta=0.0, kl_view="skip")["kl"]
  as_is = logged(inputs, beta=0.0)["kl"]
  wins = logged(inputs, beta=0.0)["wins"]
  assert skip[0] == 0
  if wins[0]:
    np.testing.assert_array_equal(skip, 0)
  else:
    np.testing.assert_allclose(skip[1:], as_is[1:])
    assert as_is[0] > 0


@pytest.mark.parametrize("mix_labels", [True, False])
def test_kl_view_mix_teaches_the_mixture(case, mix_labels):
  inputs = perturbed_case(case, 0.7, mix_labels=mix_labels)
  # Member 0 starts far behind, so that it is a student.
  inputs["logits"] = inputs["logits"].at[0].multiply(5)
  as_is = logged(inputs, beta=0.0)
  teacher = int(as_is["wins"].argmax())
  assert teacher != 0
  p = np.array(jax.nn.softmax(inputs["logits"][teacher]))
  mixture = 0.7 * p + 0.3 * p[::-1]
  log_student = np.array(jax.nn.log_softmax(inputs["logits"][0]))
  expected = np.mean(np.sum(mixture * (np.log(mixture) - log_student), axis=1))
  mixed = logged(inputs, beta=0.0, kl_view="mix")["kl"]
  np.testing.assert_allclose(mixed[0], expected, rtol=1e-5)
  np.testing.assert_allclose(mixed[1:], as_is["kl"][1:], rtol=1e-6)


def test_kl_view_clean_compares_the_clean_outputs(case, rng):
  inputs = perturbed_case(case, 1.0)
  other = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
  clean = inputs["logits"].at[0].set(other)
  teacher = int(np.argmax(logged(inputs, beta=0.0)["wins"]))
  log_p = np.array(jax.nn.log_softmax(clean))
  ratio = log_p[teacher] - log_p
  expected = (np.exp(log_p[teacher]) * ratio).sum(-1).mean(-1)
  kl = logged(inputs, clean=clean, beta=0.0, kl_view="clean")["kl"]
  np.testing.assert_allclose(kl, expected, rtol=1e-4, atol=1e-6)


def test_contest_metrics(case):
  logits, labels, _ = case
  inputs = perturbed_case(case, 0.5)
  clean = jnp.stack([jax.nn.one_hot(labels, 5) * 9, *logits[1:]])

  def winner(metric):
    return int(np.argmax(logged(inputs, clean=clean, beta=0.0, metric=metric)["wins"]))

  assert winner("ce_clean") == 0
  hits = np.argmax(logits, -1) == np.argmax(inputs["target"], -1)
  assert winner("accuracy") == int(np.argmax(hits.mean(axis=1)))


def test_label_entropy_can_be_taken_off_the_contest(case):
  inputs = perturbed_case(case, 0.5)
  # Member 0 predicts its mixed label perfectly, the others their label almost
  # perfectly.
  target = inputs["target"]
  probabilities = jnp.stack([target[0] + 1e-6, *(0.9 * target[1:] + 0.02)])
  inputs["logits"] = jnp.log(probabilities)
  assert np.argmax(logged(inputs, beta=0.0)["wins"]) != 0
  wins = logged(inputs, beta=0.0, subtract_label_entropy=True)["wins"]
  assert np.argmax(wins) == 0


@pytest.mark.parametrize(
  "view, feature, weight, mix_labels, learns",
  [
    ("auto", "pooled", 1.0, True, True),
    ("auto", "pooled", 0.5, True, False),
    ("auto", "pooled", 0.5, False, False),
    ("auto", "stage1", 1.0, True, False),
    ("as_is", "stage1", 0.5, True, True),
    ("skip", "pooled", 1.0, True, False),
  ],
)
def test_feature_view(case, view, feature, weight, mix_labels, learns):
  inputs = perturbed_case(case, weight, mix_labels=mix_labels)
  inputs["logits"] = inputs["logits"].at[0].multiply(5)
  metrics = logged(inputs, feature=feature, feature_view=view)
  assert metrics["wins"][0] == 0
  assert (metrics["feature"][0] > 0) == learns


def setup_of(**sizes):
  """The setup of groups with these numbers of members, channels and sides of a map."""
  groups = {}
  for name, (members, channels, side) in sizes.items():
    logits = jax.ShapeDtypeStruct((members, 2, 5), jnp.float32)
    shape = (members, 2, side, side, channels)
    features = {"stage1": jax.ShapeDtypeStruct(shape, jnp.float32)}
    groups[name] = ModelOutput(logits, features)
  return Setup(
    specs=(),
    num_classes=5,
    num_examples=10,
    steps_per_epoch=1,
    total_steps=1,
    outputs=Outputs(None, None, groups),
    cohort={},
  )


def test_projectors_between_feature_sizes():
  """A map for each ordered pair of members that differ, none where sizes agree."""
  setup = setup_of(a=(2, 4, 8), b=(1, 6, 4))
  key = jax.random.key(0)
  modules, _ = method("competitive", feature="stage1").init(key, setup)
  shapes = jax.tree.map(
    jnp.shape, {name: params for name, (params, _) in modules.items()}
  )
  assert shapes == {"a": {"b": (2, 1, 4, 6)}, "b": {"a": (1, 2, 6, 4)}}
  with pytest.raises(ConfigError, match="projector is 'none'"):
    method("competitive", feature="stage1", projector="none").init(key, setup)
  with pytest.raises(ConfigError, match="'pooled' is not a feature of a"):
    method("competitive").init(key, setup)
  with pytest.raises(ConfigError, match="cannot be compared"):
    unequal = setup_of(a=(1, 4, 3), b=(1, 4, 2))
    method("competitive", feature="stage1").init(key, unequal)


def test_feature_maps_of_two_sizes_are_pooled_and_projected(rng):
  """Member 1 learns from the other group's, and that one from member 0."""
  a = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
  b = rng.normal(size=(1, 3, 2, 2, 3)).astype(np.float32)
  a_to_b = rng.normal(size=(2, 1, 2, 3)).astype(np.float32)
  b_to_a = rng.normal(size=(1, 2, 3, 2)).astype(np.float32)
  modules = {"a": ({"b": a_to_b}, {}), "b": ({"a": b_to_a}, {})}
  groups = {
    "a": ModelOutput(None, {"f": jnp.asarray(a)}),
    "b": ModelOutput(None, {"f": jnp.asarray(b)}),
  }
  labels = np.zeros(3, int)

  def distance_to(winner):
    # Only the winner is right.
    logits = jnp.zeros((3, 3, 5)).at[winner, :, 0].set(3)
    which = method("competitive", feature="f")
    objective = evaluate(which, logits, labels, groups=groups, modules=modules)
    return objective.metrics["feature"]

  pooled = a.reshape(2, 3, 2, 2, 2, 2, 2).mean((3, 5))
  expected = ((pooled[1] @ a_to_b[1, 0] - b[0]) ** 2).mean()
  np.testing.assert_allclose(distance_to(2)[1], expected, rtol=1e-4)
  expected = ((b[0] @ b_to_a[0, 0] - pooled[0]) ** 2).mean()
  np.testing.assert_allclose(distance_to(0)[2], expected, rtol=1e-4)


def test_tokens_of_two_numbers_are_pooled(rng):
  a = rng.normal(size=(1, 3, 4, 2)).astype(np.float32)
  b = rng.normal(size=(1, 3, 2, 2)).astype(np.float32)
  groups = {
    "a": ModelOutput(None, {"f": jnp.asarray(a)}),
    "b": ModelOutput(None, {"f": jnp.asarray(b)}),
  }
  logits = jnp.zeros((2, 3, 5)).at[1, :, 0].set(3)
  which = method("competitive", feature="f")
  objective = evaluate(which, logits, np.zeros(3, int), groups=groups)
  pooled = a[0].reshape(3, 2, 2, 2).mean(2)
  expected = ((pooled - b[0]) ** 2).mean()
  np.testing.assert_allclose(objective.metrics["feature"], [expected, 0], rtol=1e-4)


@pytest.mark.parametrize("bad", [1e20, 3e38, jnp.inf])
def test_a_feature_that_overflows_harms_no_other_member(case, bad):
  """Its logits are finite, so that it takes part; the others do not see its feature."""
  logits, labels, features = case
  which = method("competitive", teachers="all_better")

  def run(pooled):
    objective = evaluate(which, logits, labels, features={"pooled": pooled})
    return objective.member.sum(), objective

  pooled = features["pooled"].at[1, 0, 0].set(bad)
  gradient = jax.grad(run, has_aux=True)
  found, objective = gradient(pooled)
  assert jnp.isfinite(objective.member).all()
  assert jnp.isfinite(found).all()
  assert not found[1].any()
  expected, plain = gradient(features["pooled"])
  # The others learn from each other as before, and only from each other.
  np.testing.assert_array_equal(objective.metrics["kl"], plain.metrics["kl"])
  assert expected[1].any() or plain.metrics["wins"][1]


def test_the_contest_on_clean_images_has_the_labels_that_are_mixed_for_all(case):
  """Clean images are those before one member's were perturbed."""
  _, labels, _ = case
  mixture = mixing(0, 0.25)
  mixed = mixture.mix_labels(jnp.asarray(labels), 5)
  # The first member knows the labels alone, the last one what was mixed.
  certain = 20 * jax.nn.one_hot(labels, 5)
  logits = jnp.stack([certain, jnp.zeros((8, 5)), jnp.log(mixed + 1e-4)])
  which = method("competitive", beta=0.0, metric="ce_clean")
  for seen, winner in ((None, 0), (mixture, 2)):
    objective = evaluate(which, logits, labels, mixture=seen)
    assert objective.metrics["wins"].argmax() == winner
