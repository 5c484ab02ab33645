"""Methods against numbers of their released code and against each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill.core.method import GroupSpec
from jaxdistill.core.types import Batch, ModelOutput, Views
from jaxdistill.engine.train_step import init_state, make_train_step
from jaxdistill.errors import ConfigError
from tests.helpers import toy
from tests.helpers.on_logits import evaluate, method, nobody


def test_dml_matches_released_code(golden):
  g = golden("10_dml")
  objective = evaluate(method("dml"), g["z"], g["labels"])
  np.testing.assert_allclose(objective.member, g["paper_L"], rtol=2e-5)
  grads = jax.grad(lambda z: evaluate(method("dml"), z, g["labels"]).member.sum())(g["z"])
  np.testing.assert_allclose(grads, g["grads"], rtol=1e-4, atol=1e-6)


def test_dml_sum_matches_released_tensorflow_code(golden):
  g = golden("10_dml")
  objective = evaluate(method("dml", reduce="sum"), g["z"], g["labels"])
  # The TensorFlow code adds 1e-8 inside its logarithms.
  np.testing.assert_allclose(objective.member, g["tf_release_L"], rtol=1e-4)


class Linear(nn.Module):
  """The classifier the released competitive code was run with: one dense layer on pixels in NCHW order."""

  @nn.compact
  def __call__(self, x, train):
    return ModelOutput(nn.Dense(5)(jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)), {})


@pytest.mark.parametrize("case", ["clean", "mixup", "noise"])
@pytest.mark.parametrize("rule", ["comp", "dml"])
def test_one_step_equals_a_step_of_the_released_competitive_code(golden, rule, case):
  """Weights after one step of `train_one_epoch`, its perturbed member included."""
  g = golden("15_competitive_official_step")
  images = {k: jnp.transpose(g[k], (0, 2, 3, 1)) for k in ("images", "images_mixup", "images_noise")}
  perturbed = images["images" if case == "clean" else f"images_{case}"]
  own = jnp.arange(3)[:, None] == int(g["random_idx"])
  target = jax.nn.one_hot(g["labels"], 5)
  mixed = g["lam"] * target + (1 - g["lam"]) * jax.nn.one_hot(g["labels_b"], 5) if case == "mixup" else target
  views = Views(jnp.where(own[:, :, None, None, None], perturbed[None], images["images"][None]),
                jnp.where(own[:, :, None], mixed[None], target[None]), nobody(8))
  which = method("competitive", teachers="all_better", beta=0.0) if rule == "comp" else method("dml")
  tx = optax.sgd(0.1)
  specs = (GroupSpec("net", Linear(), 3, tx),)
  state = init_state(0, specs, which, tx, (2, 2, 3), 5, 8, steps_per_epoch=1, total_steps=1)
  start = {"Dense_0": {"kernel": jnp.swapaxes(g["w0"], 1, 2), "bias": jnp.asarray(g["b0"])}}
  state = state.replace(cohort={"net": state.cohort["net"].replace(params=start)})
  step = make_train_step(specs, which, lambda key, step, batch: (views, images["images"]), method_tx=tx,
                                  steps_per_epoch=1, num_epochs=1)
  batch = Batch(None, jnp.asarray(g["labels"]), jnp.arange(8), jnp.ones(8))
  state, metrics = jax.jit(step)(state, batch)
  name = f"{rule}_{case}"
  params = state.cohort["net"].params["Dense_0"]
  np.testing.assert_allclose(jnp.swapaxes(params["kernel"], 1, 2), g[f"{name}_w"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(params["bias"], g[f"{name}_b"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(metrics["ce"].value(), g[f"{name}_ce"], rtol=2e-5)
  np.testing.assert_allclose(metrics["loss"].value(), g[f"{name}_loss"], rtol=2e-5)


@pytest.mark.parametrize("case", ["clean", "mixup"])
def test_paper_rule_matches_reference(golden, case):
  g, expected = golden("15_competitive_official_step"), golden("15b_competitive_paper_winner")
  logits_of = lambda x: jnp.einsum("bd,mcd->mbc", x.reshape(8, -1), g["w0"], precision="highest") + g["b0"][:, None]
  logits = logits_of(g["images"])
  target = jax.nn.one_hot(g["labels"], 5)[None].repeat(3, 0)
  if case == "mixup":
    logits = logits.at[1].set(logits_of(g["images_mixup"])[1])
    target = target.at[1].set(g["lam"] * target[1] + (1 - g["lam"]) * jax.nn.one_hot(g["labels_b"], 5))
  objective = evaluate(method("competitive", beta=0.0), logits, g["labels"], target=target)
  winner = int(expected[f"{case}_winner"])
  np.testing.assert_array_equal(objective.metrics["wins"], np.eye(3)[winner])
  np.testing.assert_allclose(objective.metrics["kl"], expected[f"{case}_kl"], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(objective.member, expected[f"{case}_loss"], rtol=2e-5)


def test_dml_of_two_is_the_same_for_mean_sum_and_mean_logits(case):
  logits, labels, _ = case
  first, *others = (evaluate(method("dml", **kw), logits[:2], labels).member
                    for kw in ({}, {"reduce": "sum"}, {"target": "mean_logits"}))
  for other in others:
    np.testing.assert_allclose(first, other, rtol=1e-6)


def test_dml_of_one_is_independent(case):
  logits, labels, _ = case
  for target in ("pairwise", "mean_logits"):
    dml, alone = (evaluate(m, logits[:1], labels) for m in (method("dml", target=target), method("independent")))
    np.testing.assert_array_equal(dml.member, alone.member)


@pytest.mark.parametrize("name, kwargs", [
    ("competitive", {}), ("competitive", {"teachers": "all_better"}), ("competitive", {"scope": "sample"}), ("dml", {}),
    ("dml", {"target": "mean_logits"})])
def test_a_member_that_is_not_finite_neither_teaches_nor_harms(case, name, kwargs):
  logits, labels, features = case
  which = method(name, **kwargs)
  loss = lambda z, f: evaluate(which, z, labels, features=f)
  alone = {k: f[jnp.array([0, 2])] for k, f in features.items()}
  poisoned = loss(logits.at[1, 3, 2].set(jnp.nan), {k: f.at[1].set(0) for k, f in features.items()})
  np.testing.assert_allclose(poisoned.member[np.array([0, 2])], loss(logits[np.array([0, 2])], alone).member, rtol=1e-6)
  if "wins" in poisoned.metrics:
    assert poisoned.metrics["wins"][1] == 0


@pytest.mark.parametrize("name, kwargs, message", [
    ("competitive", {"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
    ("competitive", {"alpha": -1.0}, "alpha must be a finite number of at least 0, got -1.0"),
    ("competitive", {"teachers": "best"}, "teachers must be one of winner_only, all_better, got 'best'"),
    ("competitive", {"tempreature": 1.0}, "no key 'tempreature'; did you mean 'temperature'"),
    ("dml", {"temperature": float("nan")}, "temperature must be a finite number above 0, got nan"),
    ("dml", {"reduce": "max"}, "reduce must be one of mean, sum")])
def test_bad_arguments_are_refused(name, kwargs, message):
  with pytest.raises(ConfigError, match=message):
    method(name, **kwargs)


def test_sequential_update_lets_later_members_see_earlier_updates():
  """Member 0 steps as in the simultaneous update, the others do not; without coupling nothing changes."""
  first = {}
  for name in ("dml", "independent"):
    for update in ("simultaneous", "sequential"):
      state, _ = toy.Trial(method(name), toy.cohort("mixed"), update_order=update).run(1)
      first[name, update] = toy.arrays([jax.tree.map(lambda x, k=k: x[k], state.cohort[g].params)
                                        for g, k in (("net", 0), ("net", 1), ("wide", 0))])
  gap = lambda name: [max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
                      for a, b in zip(first[name, "simultaneous"], first[name, "sequential"])]
  assert max(gap("independent")) < 1e-6
  assert gap("dml")[0] < 1e-6 and min(gap("dml")[1:]) > 1e-5


def test_the_winner_of_a_step_moves_as_if_it_were_alone():
  """Its parameters after one step are those of plain cross-entropy training, the students' are not."""
  (state, history), (alone, _) = (toy.Trial(method(name), toy.cohort("mixed")).run(1)
                                  for name in ("competitive", "independent"))
  gaps = [max(np.abs(x[k] - y[k]).max() for x, y in zip(*(jax.tree.leaves(toy.arrays(s.cohort[group].params))
                                                           for s in (state, alone))))
          for group, k in (("net", 0), ("net", 1), ("wide", 0))]
  winner = int(history[0]["wins"].argmax())
  assert gaps[winner] < 1e-6 and min(gap for m, gap in enumerate(gaps) if m != winner) > 1e-4


def test_a_cohort_of_two_independents_is_two_cohorts_of_one():
  pair, _ = toy.Trial(method("independent"), toy.cohort("pair")).run(3)
  alone, _ = toy.Trial(method("independent"), toy.cohort("one")).run(3)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-5),
               toy.arrays(pair.cohort["net"]), toy.arrays(alone.cohort["net"]))


def test_adding_members_does_not_change_the_others():
  initial = {kind: toy.Trial(method("independent"), toy.cohort(kind)).initial.cohort for kind in ("pair", "same", "mixed")}
  reference = toy.arrays(initial["pair"]["net"].params)
  for kind in ("same", "mixed"):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), reference, toy.arrays(initial[kind]["net"].params))
  kernels = [x for x in jax.tree.leaves(reference) if x.ndim == 5]
  assert all(np.abs(k[0] - k[1]).max() > 0.01 for k in kernels)
