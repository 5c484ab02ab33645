"""Interval distillation: reference numbers, the cycle, its teachers, and a kill."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import metrics, targets
from jaxdistill.core.method import variables_of
from jaxdistill.engine.cohort import forward
from jaxdistill.errors import ConfigError
from jaxdistill.inputs import normalize
from jaxdistill.methods import _tables
from jaxdistill.run import build
from tests.helpers import runs, toy
from tests.helpers.on_logits import evaluate, method, mixing, step_on

SHORT = {"independent_epochs": 1, "distillation_epochs": 1}


def memory_with(soft):
  soft = jnp.asarray(soft, jnp.float32)
  size, num_classes = soft.shape
  table = _tables.create(size, num_classes)
  table = _tables.write(table, jnp.arange(size), soft, jnp.ones(size))
  return {"accuracy": jnp.ones(1), "soft": table}


@pytest.mark.parametrize("r", [0, 1, 15, 29])
@pytest.mark.parametrize(
  "scale_kl, expected", [(False, "total_paper"), (True, "total_with_T2")]
)
def test_distillation_epochs_match_the_reference(golden, r, scale_kl, expected):
  g = golden("14_md_reference")

  def objective(epoch):
    return evaluate(
      method("interval", scale_kl=scale_kl),
      g["z_student"][None],
      g["labels"],
      memory=memory_with(g["Se"]),
      epoch=epoch,
      num_epochs=80,
    )

  for cycle in (0, 1):
    member = objective(40 * cycle + 10 + r).member
    np.testing.assert_allclose(member, [g[expected][r]], rtol=2e-5)
  independent = objective(40 + r % 10)
  np.testing.assert_allclose(independent.member, [g["ce"]], rtol=2e-5)
  assert not independent.metrics["distilling"]
  assert np.isnan(independent.metrics["kl"]).all()


@pytest.mark.parametrize("epoch", [10, 39])
def test_fixed_weights(golden, epoch):
  g = golden("14_md_reference")
  objective = evaluate(
    method("interval", weights="fixed"),
    g["z_student"][None],
    g["labels"],
    memory=memory_with(g["Se"]),
    epoch=epoch,
    num_epochs=40,
  )
  np.testing.assert_allclose(objective.member, [g["ce"] + 2 * g["kl"]], rtol=2e-5)


@pytest.mark.parametrize("labels", [True, False])
def test_soft_labels_are_mixed_as_images_are(golden, labels):
  g = golden("14_md_reference")
  soft = g["Se"]
  size, num_classes = soft.shape
  logits = jnp.stack([g["z_student"]] * 2)

  def kl(**kwargs):
    objective = evaluate(
      method("interval"), logits, g["labels"], epoch=10, num_epochs=40, **kwargs
    )
    return objective.metrics["kl"]

  mixed = kl(
    memory=memory_with(soft),
    perturbation=mixing(0, 0.7, labels=labels, batch_size=size),
  )
  mixture = kl(memory=memory_with(0.7 * soft + 0.3 * soft[::-1]))
  plain = kl(memory=memory_with(soft))
  np.testing.assert_allclose(mixed, [mixture[0], plain[1]], rtol=1e-5)
  assert abs(mixture[0] - plain[0]) > 1e-3
  for_all = kl(
    memory=memory_with(soft),
    mixture=mixing(0, 0.7, labels=labels, batch_size=size),
  )
  np.testing.assert_allclose(for_all, mixture, rtol=1e-5)


def test_a_snapshot_predicts_for_no_mixed_images(case):
  """The others' soft labels teach: as they are, and mixed to whom images were."""
  logits, labels, _ = case
  which = method("interval", teacher="snapshot")
  accuracy = jnp.array([0.9, 0.5, 0.7])

  def kl(perturbation, accuracy, mixture=None):
    memory = {"cohort": {}, "accuracy": accuracy}
    step = step_on(
      logits,
      labels,
      perturbation=perturbation,
      mixture=mixture,
      memory=memory,
      epoch=10,
      num_epochs=40,
    )
    context = step.context._replace(forward=lambda variables, image: step.outputs)
    return which.loss(step._replace(context=context)).metrics["kl"]

  mixed = kl(mixing(0, 0.7), accuracy)
  without = kl(mixing(0, 1.0), accuracy.at[0].set(0))
  np.testing.assert_allclose(mixed[1:], without[1:], rtol=1e-5)

  p = jax.nn.softmax(logits / 3)
  soft = (0.5 * p[1] + 0.7 * p[2]) / 1.2
  mixture = 0.7 * soft + 0.3 * soft[::-1]
  expected = jnp.sum(mixture * (jnp.log(mixture) - jnp.log(p[0])), axis=1).mean()
  np.testing.assert_allclose(mixed[0], expected, rtol=1e-4)

  # What is predicted for images that are mixed for all is what all are taught.
  for_all = kl(mixing(0, 0.7), accuracy, mixture=mixing(0, 0.6))
  np.testing.assert_array_equal(for_all, mixed)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["table", "snapshot"])
def test_the_teacher_is_the_cohort_at_the_end_of_the_independent_epochs(teacher):
  """It stays what it was through the distillation.

  Its soft labels are weighted with accuracies on the training set.
  """
  trial = toy.Trial(method("interval", teacher=teacher, **SHORT), toy.cohort("mixed"))
  end = toy.STEPS_PER_EPOCH
  state, history = trial.run(end)
  assert not any(step["distilling"] for step in history)
  before = toy.arrays(state.cohort)

  state, history = trial.run(2 * end, state=state, start=end)
  assert all(step["distilling"] for step in history)
  assert np.isfinite([step["kl"] for step in history]).all()

  image, label = toy.data()
  pixels = normalize.to_float(jnp.asarray(image))
  image = normalize.normalize(pixels, toy.MEAN, toy.STD)
  outputs, _ = forward(
    trial.specs,
    variables_of(before),
    jnp.stack([image] * 3),
    jax.random.key(0),
    train=False,
  )
  accuracy = metrics.top_k(outputs.logits, jnp.stack([label] * 3), 1).mean(axis=1)
  memory = state.method.memory
  np.testing.assert_allclose(memory["accuracy"], accuracy, atol=1e-6)
  if teacher == "table":
    expected = targets.accuracy_weighted(jax.nn.softmax(outputs.logits / 3), accuracy)
    stored = _tables.read(memory["soft"], jnp.arange(toy.EXAMPLES), toy.CLASSES)
    np.testing.assert_allclose(stored, expected, atol=1e-4)
  else:
    kept = toy.arrays(memory["cohort"])
    jax.tree.map(np.testing.assert_array_equal, kept, variables_of(before))


@pytest.mark.slow
def test_table_and_snapshot_agree_without_augmentation():
  losses = {}
  for teacher in ("table", "snapshot"):
    which = method("interval", teacher=teacher, **SHORT)
    _, history = toy.Trial(which, toy.cohort("mixed")).run(2 * toy.STEPS_PER_EPOCH)
    losses[teacher] = [step["loss"] for step in history]
  np.testing.assert_allclose(losses["table"], losses["snapshot"], rtol=1e-3)


@pytest.mark.slow
def test_compressed_tables_teach_nearly_the_same():
  def last_kl(**kwargs):
    trial = toy.Trial(method("interval", **SHORT, **kwargs), toy.cohort("same"))
    _, history = trial.run(6)
    return history[-1]["kl"]

  full = last_kl()
  half = last_kl(dtype="float16")
  few = last_kl(dtype="float16", top_k=3)
  np.testing.assert_allclose(half, full, rtol=1e-2)
  np.testing.assert_allclose(few, full, rtol=0.3, atol=0.02)
  assert (few != half).any()


def test_accuracy_of_held_out_examples():
  which = method("interval", accuracy="holdout", **SHORT)
  state, _ = toy.Trial(which, toy.cohort("same")).run(toy.STEPS_PER_EPOCH + 1)
  accuracy = np.asarray(state.method.memory["accuracy"])
  np.testing.assert_allclose(accuracy * 20, np.round(accuracy * 20), atol=1e-5)
  assert (accuracy > 0).all()


@pytest.mark.parametrize(
  "overrides, message",
  [
    (
      ["steps=0", "epochs=30"],
      r"method: cycles of 10 \+ 30 epochs do not fit a run of 30 epochs: "
      "set epochs to 40 or 80",
    ),
    (
      ["steps=0", "epochs=100"],
      "do not fit a run of 100 epochs: set epochs to 80 or 120",
    ),
    (["steps=12"], "do not fit a run of 0.5455 epochs"),
    (
      ["method.independent_epochs=0"],
      "independent_epochs and distillation_epochs must be whole numbers of at least 1",
    ),
    (
      ["method.accuracy=holdout", "steps=0", "epochs=40"],
      "method interval needs examples that are not trained on: set holdout",
    ),
    (
      ["method.top_k=10", "steps=0", "epochs=40"],
      "method: top_k must lie in 0..9, got 10",
    ),
    (
      ["method.dtype=float8", "steps=0", "epochs=40"],
      "method: dtype must be one of float32, float16, bfloat16",
    ),
  ],
)
def test_what_does_not_fit_is_refused(overrides, message):
  with pytest.raises(ConfigError, match=message):
    build.build(runs.config("interval", *overrides))


# Five steps are an epoch.
CYCLES = """\
config.method.update(dict(independent_epochs=1, distillation_epochs=2))
  config.epochs, config.steps = 6.0, 0
  config.batch_size = 256
  config.cohort.convnet"""


@pytest.mark.slow
def test_killed_within_a_cycle_and_run_again_ends_with_the_same_bits(tmp_path):
  """Killed in the distillation epochs of the second cycle.

  Soft labels, accuracies and the position come back.
  """
  source = runs.CONFIG.replace('digits("competitive")', 'digits("interval")')
  source = source.replace("config.cohort.convnet", CYCLES)
  config = tmp_path / "cycles.py"
  config.write_text(source)
  whole = tmp_path / "whole"
  broken = tmp_path / "broken"

  result = runs.run(config, f"--workdir={whole}")
  assert result.returncode == 0, result.stderr
  phases = []
  for line in runs.metrics(whole):
    if line["split"] == "train":
      phases.append(line["distilling"])
  assert phases[0] == 0 and max(phases) == 1 and phases.count(0) >= 2

  runs.start_and_signal(config, broken, 22, signal.SIGKILL, 0.02)
  assert runs.run(config, f"--workdir={broken}").returncode == 0
  runs.assert_same_run(whole, broken)
