"""Averaged weights and smoothed labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import optim
from jaxdistill.core import registry
from jaxdistill.core.types import Perturbation
from jaxdistill.engine.evaluate import make_forward
from jaxdistill.inputs.views import make_views
from jaxdistill.run import build, checkpoint, recipes
from jaxdistill.run.config import apply_overrides, group
from tests.helpers import on_logits, runs, toy


def trained_leaves(state):
  group = state.cohort["net"]
  return jax.tree.leaves((group.params, group.stats))


def test_the_average_follows_the_weights_of_every_member():
  specs = [spec._replace(average=0.15) for spec in toy.cohort("same")]
  trial = toy.Trial(registry.resolve("methods", "independent"), specs)
  state = trial.initial
  expected = toy.arrays(trained_leaves(state))
  # The n-th step keeps min(0.15, (1 + n) / (10 + n)) of the average.
  for step, decay in enumerate((0.1, 0.15, 0.15)):
    state, _ = trial.run(step + 1, state=state, start=step)
    weights = toy.arrays(trained_leaves(state))
    pairs = zip(expected, weights, strict=True)
    expected = [decay * old + (1 - decay) * new for old, new in pairs]
  average = state.cohort["net"].average
  found = jax.tree.leaves((average["params"], average["stats"]))
  for leaf, wanted in zip(found, expected, strict=True):
    np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-7)
  pairs = zip(expected, trained_leaves(state), strict=True)
  assert any(np.abs(a - b).max() > 1e-4 for a, b in pairs)
  assert state.cohort["net"].evaluated == (average["params"], average["stats"])


def test_the_average_is_what_is_evaluated():
  method = registry.resolve("methods", "independent")
  trial = toy.Trial(method, toy.cohort("pair"))
  group = trial.initial.cohort["net"]
  images = toy.data()[0][:4]
  weights = {"params": group.params, "stats": group.stats}
  swapped = jax.tree.map(lambda x: x[::-1], weights)
  averaged = group.replace(average=swapped)

  def logits(group, evaluated):
    forward = make_forward(trial.specs, mean=toy.MEAN, std=toy.STD, evaluated=evaluated)
    return forward({"net": group}, images).logits

  plain = logits(group, True)
  np.testing.assert_array_equal(logits(averaged, True), plain[::-1])
  np.testing.assert_array_equal(logits(averaged, False), plain)


@pytest.mark.slow
def test_a_run_keeps_the_averaged_weights(tmp_path):
  config = runs.config(
    "independent",
    "steps=4",
    "ema_decay=0.5",
    "label_smoothing=0.1",
    "optimizer.no_decay=scale,bias",
  )
  jaxdistill.train(config, tmp_path, quiet=True)
  state, _ = checkpoint.load(tmp_path / "checkpoints" / "000000004")
  group = state["cohort"]["convnet"]
  kept = jaxdistill.load(tmp_path / "members" / "convnet.1" / "last").variables

  def assert_same(averaged, kept):
    np.testing.assert_array_equal(averaged[1], kept)

  jax.tree.map(assert_same, group["average"]["params"], kept["params"])
  trained = group["params"]["fc"]["kernel"][1]
  assert np.abs(trained - kept["params"]["fc"]["kernel"]).max() > 1e-5


def test_the_learning_rate_of_transformers_follows_an_overridden_batch_size(
  monkeypatch,
):
  config = recipes.transformer(runs.config("independent"))
  config.cohort.own = group("small.convnet", optimizer={"learning_rate": 1e-3})
  apply_overrides(config, ["batch_size=256", "optimizer.no_decay="])
  rates = []

  def make_optimizer(keys, *args, **kwargs):
    rates.append(keys["learning_rate"])
    return optim.make_optimizer(keys, *args, **kwargs)

  monkeypatch.setattr(build, "make_optimizer", make_optimizer)
  experiment = build.build(config)
  # Of the method's recipe and of the two groups.
  np.testing.assert_allclose(sorted(set(rates)), [2.5e-4, 5e-4])
  assert experiment.notes[0] == (
    "convnet has the learning rate 0.00025, which is 0.0005 * 256 / 512 (batch_size / "
    "optimizer.learning_rate_per)"
  )
  assert experiment.notes[1].startswith("own has the learning rate 0.0005, which")


def test_labels_are_smoothed_for_training_and_plain_for_comparing():
  def augment(key, image):
    return jnp.zeros((16, 8, 8, 3))

  def perturb(key, step, image):
    return image[0], Perturbation.none(16)

  views = make_views(
    augment,
    perturb,
    mean=toy.MEAN,
    std=toy.STD,
    members=["a", "b"],
    num_classes=toy.CLASSES,
    smoothing=0.2,
  )
  batch = next(toy.batches(0, 1))
  found, _ = views(jax.random.key(0), 0, batch)
  one_hot = np.broadcast_to(np.eye(toy.CLASSES)[batch.label], (2, 16, toy.CLASSES))
  smoothed = 0.8 * one_hot + 0.2 / toy.CLASSES
  np.testing.assert_allclose(found.target, smoothed, rtol=1e-6)
  np.testing.assert_allclose(found.label, one_hot, atol=1e-6)


def test_smoothing_does_not_decide_who_wins():
  # Member 0 is right and very sure of it, which smoothed labels punish; member 1 is
  # right and less sure.
  logits = jnp.zeros((2, 4, 5)).at[0, :, 0].set(30.0).at[1, :, 0].set(5.0)
  labels = np.zeros(4, int)
  target = jnp.broadcast_to(jax.nn.one_hot(labels, 5), (2, 4, 5))
  method = registry.resolve("methods", "competitive", beta=0.0)
  for smoothing in (0.0, 0.3):
    smoothed = (1 - smoothing) * target + smoothing / 5
    objective = on_logits.evaluate(
      method, logits, labels, target=smoothed, smoothing=smoothing
    )
    np.testing.assert_array_equal(objective.metrics["wins"], [1, 0])
    per_example = -(smoothed * jax.nn.log_softmax(logits)).sum(axis=-1)
    winner_loss = float(per_example.mean(axis=1)[0])
    assert float(objective.member[0]) == pytest.approx(winner_loss, rel=1e-5, abs=1e-9)


def test_a_members_modules_have_the_optimiser_of_its_group():
  """Adam keeps moments of what it moves; the run's SGD has a single velocity."""
  own = ["cohort.convnet.optimizer.name=adamw", "cohort.convnet.members=1"]
  modules = build.build(runs.config("byot", *own)).state.method.modules
  names = jax.tree_util.tree_flatten_with_path(modules["convnet"].opt)[0]
  moments = {part.name for path, _ in names for part in path if hasattr(part, "name")}
  assert {"mu", "nu"} <= moments and "trace" not in moments
