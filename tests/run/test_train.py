"""Whole runs: what they write, that they resume exactly, and how they end when something is wrong."""

import csv
import json
import os
from pathlib import Path
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.errors import BusyError, ConfigError, DivergedError, Preempted
from jaxdistill.run import checkpoint
from tests.helpers import runs

MEMBERS = ("convnet.0", "convnet.1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """An uninterrupted run of the tiny config through the command line."""
  directory = tmp_path_factory.mktemp("finished")
  result = runs.run(runs.write_config(directory), f"--workdir={directory / 'run'}")
  assert result.returncode == 0, result.stderr
  return directory / "run", result.stdout


def final_arrays(workdir):
  tree, manifest = checkpoint.load(sorted((Path(workdir) / "checkpoints").iterdir())[-1])
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}, manifest


def assert_same_run(first, second):
  """Bit-identical parameters and equal metric lines, each step once."""
  (a, ma), (b, mb) = final_arrays(first), final_arrays(second)
  assert ma["step"] == mb["step"] and a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
  assert runs.metrics(first) == runs.metrics(second)
  assert ma["best"] == mb["best"] and ma["wins"] == mb["wins"]


def test_metrics_have_the_documented_form(finished):
  lines = runs.metrics(finished[0])
  train = [line for line in lines if line["split"] == "train"]
  test = [line for line in lines if line["split"] == "test"]
  assert [line["step"] for line in train] == [2, 4, 6, 8, 10, 12] and [line["step"] for line in test] == [4, 8, 12]
  names = {f"{m}/{name}" for name in MEMBERS for m in ("ce", "kl", "feature", "loss", "top1", "wins", "perturbed", "skipped")}
  assert set(train[0]) == {"step", "epoch", "split"} | names
  assert set(test[0]) == {"step", "epoch", "split"} | {f"{m}/{name}" for name in (*MEMBERS, "ensemble")
                                                       for m in ("top1", "top5", "nll", "ece", "aurc")}
  for line in train:
    assert sum(line[f"wins/{name}"] for name in MEMBERS) == pytest.approx(1)
    assert sum(line[f"perturbed/{name}"] for name in MEMBERS) == pytest.approx(0.5)
  assert all(0 <= line[f"top1/{name}"] <= line[f"top5/{name}"] <= 1 for line in test for name in MEMBERS)


def test_csv_and_tensorboard_say_the_same(finished):
  lines = runs.metrics(finished[0])
  with open(finished[0] / "metrics.csv") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == len(lines)
  for row, line in zip(rows, lines):
    assert {k: float(v) for k, v in row.items() if v and k != "split"} == {k: v for k, v in line.items() if k != "split"}
  assert list((finished[0] / "tensorboard").iterdir())


def test_summary_and_config(finished):
  workdir, _ = finished
  summary, last = json.loads((workdir / "summary.json").read_text()), runs.metrics(workdir)[-1]
  assert set(summary["members"]) == set(MEMBERS) and summary["steps"] == 12 and summary["method"] == "competitive"
  for name in MEMBERS:
    assert summary["members"][name]["last"]["top1"] == last[f"top1/{name}"]
    best = max(line[f"top1/{name}"] for line in runs.metrics(workdir) if line["split"] == "test")
    assert summary["members"][name]["best"]["top1"] == best
  assert summary["ensemble"]["last"]["nll"] == last["nll/ensemble"]
  saved = json.loads((workdir / "config.json").read_text())
  assert saved["config_digest"] == summary["config_digest"] and saved["config"]["method"]["alpha"] == 1.0
  assert saved["versions"]["jax"] == jax.__version__ and "git" in saved


def test_what_a_run_says(finished):
  workdir, out = finished
  assert "Compiling the train step (2 convnet, batch 64, 1 cpu device, 1 step per dispatch) ..." in out
  assert "test top-1 %  convnet.0" in out and "competitive, 12 steps" in out and str(workdir) in out
  assert "wins %" in out and "\x1b" not in out


def test_evaluation_is_exact(finished):
  """Saved weights of a member, applied by hand to the whole test split, give the logged numbers."""
  workdir, _ = finished
  variables, manifest = checkpoint.load(workdir / "members" / "convnet.1" / "last")
  name = manifest["model"].pop("model")
  model = registry.resolve("models", name, num_classes=manifest["num_classes"], dtype=np.float32, **manifest["model"])
  test = registry.resolve("data", "digits").test
  image = (test.image / 255.0 - np.array(manifest["mean"]).reshape(1, 1, 1, 3)) / np.array(manifest["std"]).reshape(1, 1, 1, 3)
  logits = np.asarray(model.apply(variables, image.astype(np.float32), train=False).logits, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  expected = runs.metrics(workdir)[-1]
  assert (logits.argmax(1) == test.label).mean() == pytest.approx(expected["top1/convnet.1"], abs=1e-6)
  top5 = [label in row for label, row in zip(test.label, np.argsort(-logits, 1)[:, :5])]
  assert np.mean(top5) == pytest.approx(expected["top5/convnet.1"], abs=1e-6)
  assert -log_p[np.arange(len(log_p)), test.label].mean() == pytest.approx(expected["nll/convnet.1"], rel=1e-4)


def steps_logged(workdir):
  path = Path(workdir) / "metrics.jsonl"
  return max((json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")), default=0) if path.exists() else 0


def start_and_signal(config, workdir, step, number, delay=0.0):
  """Starts a run and signals it once it has logged `step`; returns the exit code and what it said to stderr."""
  process = subprocess.Popen(runs.command(config, f"--workdir={workdir}"), stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True, cwd=runs.ROOT, env=runs.environment())
  deadline = time.time() + 200
  try:
    while steps_logged(workdir) < step and process.poll() is None and time.time() < deadline:
      time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    return process.wait(timeout=100), process.stderr.read()
  finally:
    process.kill()
    process.stderr.close()


def test_killed_and_run_again_ends_with_the_same_bits(finished, tmp_path):
  """SIGKILL at three places, some of them inside a save; the metrics file gets a torn last line as well."""
  config = runs.write_config(tmp_path)
  for step, delay in ((2, 0.0), (6, 0.02), (8, 0.05)):
    start_and_signal(config, tmp_path / "run", step, signal.SIGKILL, delay)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
      file.write('{"step": 9')
  result = runs.run(config, f"--workdir={tmp_path / 'run'}")
  assert result.returncode == 0, result.stderr
  assert "resuming from the checkpoint of step" in result.stdout
  assert_same_run(finished[0], tmp_path / "run")
  assert not [p for p in (tmp_path / "run").rglob("*") if "tmp" in p.name or "partial" in p.name]


def test_sigterm_saves_and_the_run_goes_on(finished, tmp_path):
  config = runs.write_config(tmp_path)
  code, said = start_and_signal(config, tmp_path / "run", 2, signal.SIGTERM)
  first, last = said.splitlines()
  assert code == 75 and first.startswith("jaxdistill: stopping:") and last.startswith("jaxdistill: stopped: stopped at step")
  assert runs.run(config, f"--workdir={tmp_path / 'run'}").returncode == 0
  for (name, a), b in zip(final_arrays(finished[0])[0].items(), final_arrays(tmp_path / "run")[0].values()):
    np.testing.assert_array_equal(a, b, err_msg=name)


def test_eight_devices_train_like_one(finished, tmp_path):
  config = runs.write_config(tmp_path)
  assert runs.run(config, f"--workdir={tmp_path / 'run'}", devices=8).returncode == 0
  for one, eight in zip(runs.metrics(finished[0]), runs.metrics(tmp_path / "run")):
    assert one.keys() == eight.keys()
    for key in one.keys() - {"split"}:
      assert one[key] == pytest.approx(eight[key], rel=0.02, abs=0.02), (one["step"], key)


def test_several_steps_per_dispatch_train_like_one(tmp_path):
  results = [jaxdistill.train(runs.config("competitive", f"steps_per_dispatch={count}", "steps=4"), tmp_path / str(count),
                              quiet=True) for count in (1, 2)]
  for name in MEMBERS:
    assert results[0]["members"][name]["last"]["nll"] == pytest.approx(results[1]["members"][name]["last"]["nll"], rel=1e-3)
  first, second = (runs.metrics(tmp_path / str(count)) for count in (1, 2))
  for a, b in zip(first, second):
    assert all(a[key] == pytest.approx(b[key], rel=1e-2, abs=1e-3) for key in a.keys() - {"split"})


def test_stop_and_finish_from_python(tmp_path):
  asked = iter([False, True])
  with pytest.raises(Preempted, match="stopped at step 2 of 12"):
    jaxdistill.train(runs.config(), tmp_path, stop=lambda: next(asked), quiet=True)
  summary = jaxdistill.train(runs.config(), tmp_path, quiet=True)
  again = jaxdistill.train(runs.config(), tmp_path, quiet=True)
  assert summary["steps"] == again["steps"] == 12
  assert summary["members"] == again["members"] and summary["ensemble"] == again["ensemble"]


def test_divergence_ends_the_run_and_keeps_a_finite_checkpoint(tmp_path, capsys):
  with pytest.raises(DivergedError, match="no member has a finite update any more: lower optimizer.learning_rate"):
    jaxdistill.train(runs.config("competitive", "optimizer.learning_rate=1e30", "optimizer.warmup=0 steps"), tmp_path)
  assert "skipped 100 % of the updates" in capsys.readouterr().out
  saved = [p for p in (tmp_path / "checkpoints").glob("*")] if (tmp_path / "checkpoints").exists() else []
  for path in saved:
    tree, _ = checkpoint.load(path)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree) if x.dtype.kind == "f")


def test_bfloat16_arithmetic_keeps_float32_state(tmp_path):
  summary = jaxdistill.train(runs.config("competitive", "steps=4", "dtype=bfloat16"), tmp_path, quiet=True)
  tree, _ = final_arrays(tmp_path)
  assert {leaf.dtype.name for name, leaf in tree.items() if "params" in name} == {"float32"}
  exact = jaxdistill.train(runs.config("competitive", "steps=4"), tmp_path / "exact", quiet=True)
  nll = lambda s: s["members"]["convnet.0"]["last"]["nll"]
  assert nll(summary) != nll(exact) and nll(summary) == pytest.approx(nll(exact), rel=0.1)


def test_a_workdir_belongs_to_one_config_and_one_process(finished, tmp_path):
  jaxdistill.train(runs.config("competitive", "steps=2"), tmp_path, quiet=True)
  with pytest.raises(ConfigError, match="belongs to another configuration: method.alpha: there 1.0, here 0.5; seed: there 0, here 3"):
    jaxdistill.train(runs.config("competitive", "steps=2", "method.alpha=0.5", "seed=3"), tmp_path, quiet=True)
  from jaxdistill.workdir import open_workdir
  lock = open_workdir(tmp_path)
  try:
    with pytest.raises(BusyError, match=f"in use by process {os.getpid()} on"):
      jaxdistill.train(runs.config("competitive", "steps=2"), tmp_path, quiet=True)
  finally:
    os.close(lock)
