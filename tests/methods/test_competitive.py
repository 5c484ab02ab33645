"""Competitive Distillation's rules on logits made by hand: contest, views of the perturbed member, features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core.method import Setup
from jaxdistill.core.types import ModelOutput, Outputs, Perturbation
from jaxdistill.errors import ConfigError
from jaxdistill.methods import competitive
from tests.helpers.on_logits import evaluate, method


def test_winner_is_trained_on_cross_entropy_alone(case):
  logits, labels, features = case
  loss = lambda which, z: evaluate(which, z, labels, features=features).member.sum()
  competitive, independent = (jax.grad(lambda z, m=m: loss(m, z))(logits)
                              for m in (method("competitive"), method("independent")))
  winner = int(np.argmax(evaluate(method("competitive"), logits, labels, features=features).metrics["wins"]))
  np.testing.assert_array_equal(competitive[winner], independent[winner])
  for student in {0, 1, 2} - {winner}:
    assert np.abs(competitive[student] - independent[student]).max() > 1e-3


def test_no_gradient_reaches_the_teachers_features(case):
  logits, labels, features = case
  loss = lambda f: evaluate(method("competitive"), logits, labels, features={"pooled": f}).member.sum()
  grad = jax.grad(loss)(features["pooled"])
  wins = evaluate(method("competitive"), logits, labels, features=features).metrics["wins"]
  np.testing.assert_array_equal(np.abs(grad).max((1, 2)) > 0, wins == 0)


def test_identical_members_have_nothing_to_learn_from_each_other(case):
  logits, labels, features = case
  same = jnp.repeat(logits[:1], 3, 0)
  for tie in ("strict", "first_only"):
    objective = evaluate(method("competitive", tie=tie), same, labels,
                         features={"pooled": jnp.repeat(features["pooled"][:1], 3, 0)})
    np.testing.assert_array_equal(objective.metrics["kl"], 0)
    np.testing.assert_array_equal(objective.metrics["wins"], [1, 0, 0])


def test_two_members_all_better_equals_winner_only(case):
  logits, labels, features = case
  pair = {"pooled": features["pooled"][:2]}
  losses = [evaluate(method("competitive", teachers=rule), logits[:2], labels, features=pair).member
            for rule in ("winner_only", "all_better")]
  np.testing.assert_array_equal(*losses)


def test_sample_scope_lets_every_example_choose_its_teacher(case):
  logits, labels, features = case
  objective = evaluate(method("competitive", scope="sample", beta=0.0), logits, labels, features=features)
  log_p = jax.nn.log_softmax(logits)
  ce = -np.take_along_axis(np.array(log_p), labels[None, :, None].repeat(3, 0), 2)[..., 0]
  best = ce.argmin(0)
  expected = [np.mean([np.sum(np.exp(log_p[best[b], b]) * (log_p[best[b], b] - log_p[i, b])) for b in range(8)])
              for i in range(3)]
  np.testing.assert_allclose(objective.metrics["kl"], expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(objective.metrics["wins"], np.bincount(best, minlength=3) / 8, rtol=1e-6)


def perturbed_case(case, weight):
  """Member 0 is perturbed by an operation that keeps `weight` of its images."""
  logits, labels, features = case
  perturbation = Perturbation(jnp.int32(0), jnp.int32(0), jnp.arange(8)[::-1], jnp.float32(weight))
  target = jax.nn.one_hot(labels, 5)[None].repeat(3, 0)
  target = target.at[0].set(weight * target[0] + (1 - weight) * target[0, ::-1])
  return dict(logits=logits, labels=labels, features=features, perturbation=perturbation, target=target)


def kl_of(name_kwargs, inputs, **extra):
  return np.array(evaluate(method("competitive", beta=0.0, **name_kwargs), **inputs, **extra).metrics["kl"])


def test_kl_view_skip_leaves_the_perturbed_member_out(case):
  inputs = perturbed_case(case, 1.0)
  skip, as_is = kl_of({"kl_view": "skip"}, inputs), kl_of({}, inputs)
  wins = evaluate(method("competitive", beta=0.0), **inputs).metrics["wins"]
  assert skip[0] == 0
  if wins[0]:
    np.testing.assert_array_equal(skip, 0)
  else:
    np.testing.assert_allclose(skip[1:], as_is[1:])
    assert as_is[0] > 0


def test_kl_view_mix_teaches_the_mixture(case):
  inputs = perturbed_case(case, 0.7)
  # Member 0 starts far behind, so that it is a student.
  inputs["logits"] = inputs["logits"].at[0].multiply(5)
  wins = np.array(evaluate(method("competitive", beta=0.0), **inputs).metrics["wins"])
  teacher = int(wins.argmax())
  assert teacher != 0
  p = np.array(jax.nn.softmax(inputs["logits"][teacher]))
  q, log_s = 0.7 * p + 0.3 * p[::-1], np.array(jax.nn.log_softmax(inputs["logits"][0]))
  expected = np.mean(np.sum(q * (np.log(q) - log_s), axis=1))
  mixed = kl_of({"kl_view": "mix"}, inputs)
  np.testing.assert_allclose(mixed[0], expected, rtol=1e-5)
  np.testing.assert_allclose(mixed[1:], kl_of({}, inputs)[1:], rtol=1e-6)


def test_kl_view_clean_compares_the_clean_outputs(case, rng):
  inputs = perturbed_case(case, 1.0)
  clean = inputs["logits"].at[0].set(jnp.asarray(rng.normal(size=(8, 5)), jnp.float32))
  own_contest = evaluate(method("competitive", beta=0.0), **inputs).metrics["wins"]
  teacher = int(np.argmax(own_contest))
  log_p = jax.nn.log_softmax(clean)
  expected = [np.mean(np.sum(np.exp(log_p[teacher]) * (log_p[teacher] - log_p[i]), axis=1)) for i in range(3)]
  np.testing.assert_allclose(kl_of({"kl_view": "clean"}, inputs, clean=clean), expected, rtol=1e-4, atol=1e-6)


def test_contest_metrics(case):
  logits, labels, _ = case
  inputs = perturbed_case(case, 0.5)
  wins = lambda **kw: int(np.argmax(evaluate(method("competitive", beta=0.0, **kw), **inputs,
                                             clean=jnp.stack([jax.nn.one_hot(labels, 5) * 9, *logits[1:]])).metrics["wins"]))
  assert wins(metric="ce_clean") == 0
  accuracy = [(np.argmax(z, -1) == np.argmax(t, -1)).mean() for z, t in zip(logits, inputs["target"])]
  assert wins(metric="accuracy") == int(np.argmax(accuracy))


def test_label_entropy_can_be_taken_off_the_contest(case):
  _, labels, features = case
  inputs = perturbed_case(case, 0.5)
  # Member 0 predicts its mixed label perfectly, the others their label almost perfectly.
  target = inputs["target"]
  inputs["logits"] = jnp.log(jnp.stack([target[0] + 1e-6, *(0.9 * target[1:] + 0.02)]))
  wins = lambda **kw: int(np.argmax(evaluate(method("competitive", beta=0.0, **kw), **inputs).metrics["wins"]))
  assert wins() != 0 and wins(subtract_label_entropy=True) == 0


@pytest.mark.parametrize("view, feature, weight, learns", [
    ("auto", "pooled", 1.0, True), ("auto", "pooled", 0.5, False), ("auto", "stage1", 1.0, False),
    ("as_is", "stage1", 0.5, True), ("skip", "pooled", 1.0, False)])
def test_feature_view(case, view, feature, weight, learns):
  inputs = perturbed_case(case, weight)
  inputs["logits"] = inputs["logits"].at[0].multiply(5)
  logged = evaluate(method("competitive", feature=feature, feature_view=view), **inputs).metrics
  assert logged["wins"][0] == 0
  assert (logged["feature"][0] > 0) == learns


def test_projection_between_feature_sizes(case):
  """One map per ordered pair of members, trained by the student's feature loss, and none where sizes agree."""
  which = method("competitive", feature="stage1")
  shape = lambda k, d, h: jax.ShapeDtypeStruct((k, 2, h, h, d), jnp.float32)
  out = lambda k, d, h: ModelOutput(jax.ShapeDtypeStruct((k, 2, 5), jnp.float32), {"stage1": shape(k, d, h)})
  setup = Setup((), 5, 10, 1, 1, Outputs(None, None, {"a": out(2, 4, 8), "b": out(1, 6, 4)}), {})
  params, _ = which.init(jax.random.key(0), setup)
  assert {k: v.shape for k, v in params.items()} == {"a>b": (2, 1, 4, 6), "b>a": (1, 2, 6, 4)}
  with pytest.raises(ConfigError, match="projector is 'none'"):
    method("competitive", feature="stage1", projector="none").init(jax.random.key(0), setup)
  with pytest.raises(ConfigError, match="'pooled' is not a feature of a"):
    method("competitive").init(jax.random.key(0), setup)
  with pytest.raises(ConfigError, match="cannot be compared"):
    which.init(jax.random.key(0), setup._replace(outputs=Outputs(None, None, {"a": out(1, 4, 3), "b": out(1, 4, 2)})))


def test_feature_maps_of_two_sizes_are_pooled_and_projected(rng):
  a = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
  b = rng.normal(size=(1, 3, 2, 2, 3)).astype(np.float32)
  params = {"a>b": rng.normal(size=(2, 1, 2, 3)).astype(np.float32), "b>a": rng.normal(size=(1, 2, 3, 2)).astype(np.float32)}
  outputs = Outputs(None, None, {"a": ModelOutput(None, {"f": jnp.asarray(a)}), "b": ModelOutput(None, {"f": jnp.asarray(b)})})
  distance, spatial = competitive._pairwise_feature(params, outputs, "f", "mean")
  assert spatial and distance.shape == (3, 3, 3)
  pooled = a.reshape(2, 3, 2, 2, 2, 2, 2).mean((3, 5))
  np.testing.assert_allclose(distance[1, 2], ((pooled[1] @ params["a>b"][1, 0] - b[0]) ** 2).mean((1, 2, 3)), rtol=1e-4)
  np.testing.assert_allclose(distance[2, 0], ((b[0] @ params["b>a"][0, 0] - pooled[0]) ** 2).mean((1, 2, 3)), rtol=1e-4)
