"""Interval distillation: reference numbers, the cycle, its teachers, and killing it in the middle of one."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.engine.cohort import forward
from jaxdistill.errors import ConfigError
from jaxdistill.methods import _tables
from jaxdistill.run import build
from tests.helpers import runs, toy
from tests.helpers.on_logits import evaluate, method
from tests.run.test_train import assert_same_run, start_and_signal

SHORT = dict(independent_epochs=1, distillation_epochs=1)


def memory_with(soft):
  table = _tables.create(len(soft), soft.shape[1])
  return {"accuracy": jnp.ones(1), "soft": _tables.write(table, jnp.arange(len(soft)), soft, jnp.ones(len(soft)))}


@pytest.mark.parametrize("r", [0, 1, 15, 29])
@pytest.mark.parametrize("scale_kl, expected", [(False, "total_paper"), (True, "total_with_T2")])
def test_distillation_epochs_match_the_reference(golden, r, scale_kl, expected):
  g = golden("14_md_reference")
  loss = lambda epoch: evaluate(method("interval", scale_kl=scale_kl), g["z_student"][None], g["labels"],
                                memory=memory_with(jnp.asarray(g["Se"], jnp.float32)), epoch=epoch, num_epochs=80)
  for cycle in (0, 1):
    np.testing.assert_allclose(loss(40 * cycle + 10 + r).member, [g[expected][r]], rtol=2e-5)
  independent = loss(40 + r % 10)
  np.testing.assert_allclose(independent.member, [g["ce"]], rtol=2e-5)
  assert not independent.metrics["distilling"] and np.isnan(independent.metrics["kl"]).all()


def test_fixed_weights(golden):
  g = golden("14_md_reference")
  for epoch in (10, 39):
    objective = evaluate(method("interval", weights="fixed"), g["z_student"][None], g["labels"],
                         memory=memory_with(jnp.asarray(g["Se"], jnp.float32)), epoch=epoch, num_epochs=40)
    np.testing.assert_allclose(objective.member, [g["ce"] + 2 * g["kl"]], rtol=2e-5)


@pytest.mark.parametrize("teacher", ["table", "snapshot"])
def test_the_teacher_is_the_cohort_at_the_end_of_the_independent_epochs(teacher):
  """Its soft labels, weighted with accuracies on the training set, stay what they were through the distillation."""
  trial = toy.Trial(method("interval", teacher=teacher, **SHORT), toy.cohort("mixed"))
  end = toy.STEPS_PER_EPOCH
  state, history = trial.run(end)
  assert not any(h["distilling"] for h in history)
  before = toy.arrays(state.cohort)
  state, history = trial.run(2 * end, state=state, start=end)
  assert all(h["distilling"] for h in history) and np.isfinite([h["kl"] for h in history]).all()
  from jaxdistill import metrics, targets
  from jaxdistill.inputs import augment
  image, label = toy.data()
  image = augment.normalize(augment.to_float(jnp.asarray(image)), (0.5,) * 3, (0.25,) * 3)
  params, stats = ({n: getattr(g, part) for n, g in before.items()} for part in ("params", "stats"))
  outputs, _ = forward(trial.specs, params, stats, jnp.stack([image] * 3), jax.random.key(0), train=False)
  accuracy = metrics.top_k(outputs.logits, jnp.stack([label] * 3), 1).mean(axis=1)
  np.testing.assert_allclose(state.method.memory["accuracy"], accuracy, atol=1e-6)
  if teacher == "table":
    expected = targets.accuracy_weighted(jax.nn.softmax(outputs.logits / 3), accuracy)
    stored = _tables.read(state.method.memory["soft"], jnp.arange(toy.EXAMPLES), toy.CLASSES)
    np.testing.assert_allclose(stored, expected, atol=1e-4)
  else:
    kept = toy.arrays(state.method.memory["cohort"])
    for name, (params, stats) in kept.items():
      jax.tree.map(np.testing.assert_array_equal, (params, stats), (before[name].params, before[name].stats))


def test_table_and_snapshot_agree_without_augmentation():
  results = [toy.Trial(method("interval", teacher=teacher, **SHORT), toy.cohort("mixed")).run(2 * toy.STEPS_PER_EPOCH)
             for teacher in ("table", "snapshot")]
  for table, snapshot in zip(*(history for _, history in results)):
    np.testing.assert_allclose(table["loss"], snapshot["loss"], rtol=1e-3)


def test_compressed_tables_teach_nearly_the_same():
  full, half, few = (toy.Trial(method("interval", **SHORT, **kwargs), toy.cohort("same")).run(6)[1][-1]["kl"]
                     for kwargs in ({}, {"dtype": "float16"}, {"dtype": "float16", "top_k": 3}))
  np.testing.assert_allclose(half, full, rtol=1e-2)
  np.testing.assert_allclose(few, full, rtol=0.3, atol=0.02)
  assert (few != half).any()


def test_accuracy_of_held_out_examples():
  trial = toy.Trial(method("interval", accuracy="holdout", **SHORT), toy.cohort("same"))
  state, _ = trial.run(toy.STEPS_PER_EPOCH + 1)
  accuracy = np.asarray(state.method.memory["accuracy"])
  np.testing.assert_allclose(accuracy * 20, np.round(accuracy * 20), atol=1e-5)
  assert (accuracy > 0).all()


@pytest.mark.parametrize("overrides, message", [
    (["steps=0", "epochs=30"], "method: cycles of 10 \\+ 30 epochs do not fit a run of 30 epochs: set epochs to 40 or 80"),
    (["steps=0", "epochs=100"], "do not fit a run of 100 epochs: set epochs to 80 or 120"),
    (["steps=12"], "do not fit a run of 0.5455 epochs"),
    (["method.independent_epochs=0"], "independent_epochs and distillation_epochs must be whole numbers of at least 1"),
    (["method.accuracy=holdout", "steps=0", "epochs=40"], "method interval needs examples that are not trained on: set holdout"),
    (["method.top_k=10", "steps=0", "epochs=40"], "method: top_k must lie in 0..9, got 10"),
    (["method.dtype=float8", "steps=0", "epochs=40"], "method: dtype must be one of float32, float16, bfloat16")])
def test_what_does_not_fit_is_refused(overrides, message):
  with pytest.raises(ConfigError, match=message):
    build.build(runs.config("interval", *overrides))


CYCLES = ('config.method.update(dict(independent_epochs=1, distillation_epochs=2))\n'
          '  config.epochs, config.steps = 6.0, 0\n'
          '  config.batch_size = 256\n'  # five steps an epoch
          '  config.cohort.convnet')


def test_killed_within_a_cycle_and_run_again_ends_with_the_same_bits(tmp_path):
  """SIGKILL in the distillation epochs of the second cycle; soft labels, accuracies and the position come back."""
  source = runs.CONFIG.replace('digits("competitive")', 'digits("interval")').replace("config.cohort.convnet", CYCLES)
  (tmp_path / "cycles.py").write_text(source)
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  result = runs.run(tmp_path / "cycles.py", f"--workdir={whole}")
  assert result.returncode == 0, result.stderr
  phases = [line["distilling"] for line in runs.metrics(whole) if line["split"] == "train"]
  assert phases[0] == 0 and max(phases) == 1 and phases.count(0) >= 2
  start_and_signal(tmp_path / "cycles.py", broken, 22, signal.SIGKILL, 0.02)
  assert runs.run(tmp_path / "cycles.py", f"--workdir={broken}").returncode == 0
  assert_same_run(whole, broken)
