"""Averaged weights and smoothed labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.core.types import Group
from jaxdistill.engine import evaluate
from jaxdistill.inputs.views import make_views
from jaxdistill.run import checkpoint
from tests.helpers import on_logits, runs, toy


def test_the_average_follows_the_weights_of_every_member():
  trial = toy.Trial(registry.resolve("methods", "independent"), [s._replace(average=0.15) for s in toy.cohort("same")])
  parts = lambda state: jax.tree.leaves((state.cohort["net"].params, state.cohort["net"].stats))
  expected, state = toy.arrays(parts(trial.initial)), trial.initial
  for step, decay in enumerate((0.1, 0.15, 0.15)):  # (1 + n) / (10 + n) is 0.1, 0.18, ...
    state, _ = trial.run(step + 1, state=state, start=step)
    expected = [decay * old + (1 - decay) * new for old, new in zip(expected, toy.arrays(parts(state)))]
  average = state.cohort["net"].average
  for found, wanted, raw in zip(jax.tree.leaves((average["params"], average["stats"])), expected, parts(state), strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
  assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(expected, parts(state)))
  assert state.cohort["net"].evaluated == (average["params"], average["stats"])


def test_the_average_is_what_is_evaluated():
  trial = toy.Trial(registry.resolve("methods", "independent"), toy.cohort("pair"))
  group, image = trial.initial.cohort["net"], toy.data()[0][:4]
  swapped = jax.tree.map(lambda x: x[::-1], {"params": group.params, "stats": group.stats})
  averaged = {"net": Group(group.params, group.stats, group.opt, swapped)}
  forward = lambda cohort, deployed: evaluate.make_forward(trial.specs, mean=(0.5,) * 3, std=(0.2,) * 3, evaluated=deployed)(cohort, image).logits
  plain = forward({"net": group}, True)
  np.testing.assert_array_equal(forward(averaged, True), plain[::-1])
  np.testing.assert_array_equal(forward(averaged, False), plain)


def test_a_run_keeps_the_averaged_weights(tmp_path):
  config = runs.config("independent", "steps=4", "ema_decay=0.5", "label_smoothing=0.1", "optimizer.no_decay=scale,bias")
  jaxdistill.train(config, tmp_path, quiet=True)
  state = checkpoint.load(tmp_path / "checkpoints" / "000000004")[0]
  group = state["cohort"]["convnet"]
  kept = checkpoint.load(tmp_path / "members" / "convnet.1" / "last")[0]
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), group["average"]["params"], kept["params"])
  assert np.abs(group["params"]["fc"]["kernel"][1] - kept["params"]["fc"]["kernel"]).max() > 1e-5


def test_labels_are_smoothed_for_training_and_plain_for_comparing():
  views = make_views(lambda key, image: jnp.zeros((16, 8, 8, 3)), lambda key, step, image: (image[0], on_logits.nobody(16)),
                               mean=(0.5,) * 3, std=(0.2,) * 3, members=["a", "b"], num_classes=toy.CLASSES, smoothing=0.2)
  batch = next(toy.batches(0, 1))
  found, _ = views(jax.random.key(0), 0, batch)
  one_hot = np.broadcast_to(np.eye(toy.CLASSES)[batch.label], (2, 16, toy.CLASSES))
  np.testing.assert_allclose(found.target, 0.8 * one_hot + 0.2 / toy.CLASSES, rtol=1e-6)
  np.testing.assert_allclose(found.label, one_hot, atol=1e-6)


def test_smoothing_does_not_decide_who_wins():
  # Member 0 is right and very sure of it, which smoothed labels punish; member 1 is right and less sure.
  logits = jnp.zeros((2, 4, 5)).at[0, :, 0].set(30.0).at[1, :, 0].set(5.0)
  target = jnp.broadcast_to(jax.nn.one_hot(jnp.zeros(4, int), 5), (2, 4, 5))
  method = registry.resolve("methods", "competitive", beta=0.0)
  for smoothing in (0.0, 0.3):
    smoothed = (1 - smoothing) * target + smoothing / 5
    objective = on_logits.evaluate(method, logits, np.zeros(4, int), target=smoothed, smoothing=smoothing)
    np.testing.assert_array_equal(objective.metrics["wins"], [1, 0])
    ce = -(smoothed * jax.nn.log_softmax(logits)).sum(axis=-1).mean(axis=1)
    assert float(objective.member[0]) == pytest.approx(float(ce[0]), rel=1e-5, abs=1e-9)
