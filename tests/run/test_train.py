"""Whole runs: what they write, that they resume exactly, and how they end."""

import csv
import json
import os
import re
import signal

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.engine.measures import MEASURES
from jaxdistill.errors import BusyError, ConfigError, DivergedError, Preempted
from jaxdistill.run import checkpoint
from jaxdistill.run.logs import TIMING
from jaxdistill.run.workdir import locked
from tests.helpers import runs

# One process makes the run that most of these tests read.
pytestmark = pytest.mark.xdist_group("train")

MEMBERS = ("convnet.0", "convnet.1")
TRAINING = (
  "ce",
  "kl",
  "feature",
  "loss",
  "top1",
  "wins",
  "perturbed",
  "skipped",
  "gradient_norm",
  "learning_rate",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """An uninterrupted run of the tiny config through the command line."""
  directory = tmp_path_factory.mktemp("finished")
  config = runs.write_config(directory)
  result = runs.run(config, f"--workdir={directory / 'run'}")
  assert result.returncode == 0, result.stderr
  return directory / "run", result.stdout


def lines_of(workdir, split):
  return [line for line in runs.metrics(workdir) if line["split"] == split]


def names_of(metrics, owners):
  return {f"{metric}/{owner}" for metric in metrics for owner in owners}


def test_metrics_have_the_documented_form(finished):
  train = lines_of(finished[0], "train")
  test = lines_of(finished[0], "test")
  assert [line["step"] for line in train] == [2, 4, 6, 8, 10, 12]
  assert [line["step"] for line in test] == [4, 8, 12]
  common = {"step", "epoch", "split"}
  assert set(train[0]) == common | names_of(TRAINING, MEMBERS) | set(TIMING)
  # What differs from run to run stands last.
  assert tuple(train[0])[-2:] == TIMING == ("seconds", "images_per_second")
  seconds = [line["seconds"] for line in train]
  assert seconds == sorted(seconds) and 0 < seconds[0] < seconds[-1]
  assert all(line["images_per_second"] > 0 for line in train)
  measured = [measure.name for measure in MEASURES]
  assert set(test[0]) == common | names_of(measured, (*MEMBERS, "ensemble"))
  for line in train:
    assert sum(line[f"wins/{name}"] for name in MEMBERS) == pytest.approx(1)
    assert sum(line[f"perturbed/{name}"] for name in MEMBERS) == pytest.approx(0.5)
  for line in test:
    for name in MEMBERS:
      assert 0 <= line[f"top1/{name}"] <= line[f"top5/{name}"] <= 1


def test_csv_and_tensorboard_say_the_same(finished):
  lines = runs.metrics(finished[0])
  with open(finished[0] / "metrics.csv") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == len(lines)
  for row, line in zip(rows, lines, strict=True):
    numbers = {k: float(v) for k, v in row.items() if v and k != "split"}
    assert numbers == {k: v for k, v in line.items() if k != "split"}
  assert list((finished[0] / "tensorboard").iterdir())


def test_summary_and_config(finished):
  workdir, _ = finished
  summary = json.loads((workdir / "summary.json").read_text())
  last = runs.metrics(workdir)[-1]
  assert set(summary["members"]) == set(MEMBERS)
  assert summary["steps"] == 12
  assert summary["method"] == "competitive"
  assert (summary["seed"], summary["data"]) == (0, "digits")
  assert summary["class_names"] == list("0123456789")
  assert summary["seconds"] == lines_of(workdir, "train")[-1]["seconds"]
  for name in MEMBERS:
    member = summary["members"][name]
    assert member["model"] == "small.convnet"
    assert member["last"]["top1"] == last[f"top1/{name}"]
    test = lines_of(workdir, "test")
    assert member["best"]["top1"] == max(line[f"top1/{name}"] for line in test)
    train = lines_of(workdir, "train")
    wins = np.mean([line[f"wins/{name}"] for line in train])
    assert member["wins"] == pytest.approx(wins)
  assert summary["ensemble"]["last"]["nll"] == last["nll/ensemble"]
  saved = json.loads((workdir / "config.json").read_text())
  assert saved["config_digest"] == summary["config_digest"]
  assert saved["config"]["method"]["alpha"] == 1.0
  assert saved["versions"]["jax"] == jax.__version__
  assert "git" in saved


def test_what_a_run_says(finished):
  workdir, out = finished
  compiling = "(2 convnet, batch 64, 1 cpu device, 1 step per dispatch)"
  assert f"Compiling the train step {compiling} ..." in out
  assert "step 4/12 epoch 0.18  test top-1 %  convnet.0" in out
  assert re.search(r"\(loss \d\.\d{4}, [\d,]+ images/s\)\n", out)
  assert "competitive, 12 steps" in out
  assert str(workdir) in out
  assert "wins %" in out
  assert "\x1b" not in out


def test_evaluation_is_exact(finished):
  """Saved weights of a member, applied by hand to the whole test split."""
  workdir, _ = finished
  member = jaxdistill.load(workdir / "members" / "convnet.1" / "last")
  test = registry.resolve("data", "digits").test
  mean = np.array(member.manifest["mean"]).reshape(1, 1, 1, 3)
  std = np.array(member.manifest["std"]).reshape(1, 1, 1, 3)
  image = ((test.image / 255.0 - mean) / std).astype(np.float32)
  output = member.model.apply(member.variables, image, train=False)
  logits = np.asarray(output.logits, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))

  expected = runs.metrics(workdir)[-1]
  top1 = (logits.argmax(1) == test.label).mean()
  assert top1 == pytest.approx(expected["top1/convnet.1"], abs=1e-6)
  five = np.argsort(-logits, 1)[:, :5]
  top5 = (five == test.label[:, None]).any(axis=1).mean()
  assert top5 == pytest.approx(expected["top5/convnet.1"], abs=1e-6)
  nll = -log_p[np.arange(len(log_p)), test.label].mean()
  assert nll == pytest.approx(expected["nll/convnet.1"], rel=1e-4)


def test_a_member_loads_as_a_function_of_images(finished):
  workdir, _ = finished
  member = jaxdistill.load(workdir / "members" / "convnet.0" / "best")
  assert member.class_names == tuple("0123456789")
  test = registry.resolve("data", "digits").test
  logits = member(test.image)
  assert logits.shape == (len(test.label), 10)
  top1 = (np.asarray(logits).argmax(1) == test.label).mean()
  assert top1 == pytest.approx(member.manifest["metrics"]["top1"], abs=1e-6)


@pytest.mark.slow
def test_killed_and_run_again_ends_with_the_same_bits(finished, tmp_path):
  """SIGKILL at three places, some inside a save; the last line is torn as well."""
  config = runs.write_config(tmp_path)
  workdir = tmp_path / "run"
  for step, delay in ((2, 0.0), (6, 0.02), (8, 0.05)):
    runs.start_and_signal(config, workdir, step, signal.SIGKILL, delay)
    with open(workdir / "metrics.jsonl", "a") as file:
      file.write('{"step": 9')
  result = runs.run(config, f"--workdir={workdir}")
  assert result.returncode == 0, result.stderr
  assert "resuming from the checkpoint of step" in result.stdout
  runs.assert_same_run(finished[0], workdir)
  for path in workdir.rglob("*"):
    assert "tmp" not in path.name and "partial" not in path.name


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(finished, tmp_path):
  config = runs.write_config(tmp_path)
  workdir = tmp_path / "run"
  code, said = runs.start_and_signal(config, workdir, 2, signal.SIGTERM)
  first, last = said.splitlines()
  assert code == 75
  assert first.startswith("jaxdistill: stopping:")
  assert last.startswith("jaxdistill: stopped: stopped at step")
  assert runs.run(config, f"--workdir={workdir}").returncode == 0
  expected, _ = runs.last_checkpoint(finished[0])
  found, _ = runs.last_checkpoint(workdir)
  for name, array in expected.items():
    np.testing.assert_array_equal(array, found[name], err_msg=name)


@pytest.mark.slow
def test_eight_devices_train_like_one(finished, tmp_path):
  config = runs.write_config(tmp_path)
  result = runs.run(config, f"--workdir={tmp_path / 'run'}", devices=8)
  assert result.returncode == 0, result.stderr
  first = runs.repeatable_metrics(finished[0])
  second = runs.repeatable_metrics(tmp_path / "run")
  for one, eight in zip(first, second, strict=True):
    assert one.keys() == eight.keys()
    for key in one.keys() - {"split"}:
      close = pytest.approx(eight[key], rel=0.02, abs=0.02)
      assert one[key] == close, (one["step"], key)


@pytest.mark.slow
def test_several_steps_per_dispatch_train_like_one(tmp_path):
  summaries = []
  for count in (1, 2):
    config = runs.config("competitive", f"steps_per_dispatch={count}", "steps=4")
    summaries.append(jaxdistill.train(config, tmp_path / str(count), quiet=True))
  first, second = (summary["members"] for summary in summaries)
  for name in MEMBERS:
    close = pytest.approx(second[name]["last"]["nll"], rel=1e-3)
    assert first[name]["last"]["nll"] == close
  one, two = (runs.repeatable_metrics(tmp_path / count) for count in "12")
  for a, b in zip(one, two, strict=True):
    for key in a.keys() - {"split"}:
      assert a[key] == pytest.approx(b[key], rel=1e-2, abs=1e-3)


def test_stop_and_finish_from_python(tmp_path):
  answers = iter([False, True])
  with pytest.raises(Preempted, match="stopped at step 2 of 12"):
    jaxdistill.train(runs.config(), tmp_path, stop=lambda: next(answers), quiet=True)
  (before,) = lines_of(tmp_path, "train")
  summary = jaxdistill.train(runs.config(), tmp_path, quiet=True)
  again = jaxdistill.train(runs.config(), tmp_path, quiet=True)
  assert summary["steps"] == 12
  assert summary == again
  # The time goes on where the stopped process left it.
  seconds = [line["seconds"] for line in lines_of(tmp_path, "train")]
  assert seconds[0] == before["seconds"] and seconds == sorted(seconds)


def test_divergence_ends_the_run_and_keeps_a_finite_checkpoint(tmp_path, capsys):
  diverging = ["optimizer.learning_rate=1e30", "optimizer.warmup=0 steps"]
  told = "no member has a finite update any more: lower optimizer.learning_rate"
  with pytest.raises(DivergedError, match=told):
    jaxdistill.train(runs.config("competitive", *diverging), tmp_path)
  assert "skipped 100 % of the updates" in capsys.readouterr().out
  for path in (tmp_path / "checkpoints").glob("*"):
    tree, _ = checkpoint.load(path)
    for leaf in jax.tree.leaves(tree):
      assert leaf.dtype.kind != "f" or np.isfinite(leaf).all()


@pytest.mark.slow
def test_bfloat16_computation_keeps_float32_state(tmp_path):
  half = runs.config("competitive", "steps=4", "dtype=bfloat16")
  summary = jaxdistill.train(half, tmp_path, quiet=True)
  tree, _ = runs.last_checkpoint(tmp_path)
  dtypes = {leaf.dtype.name for name, leaf in tree.items() if "params" in name}
  assert dtypes == {"float32"}
  whole = runs.config("competitive", "steps=4")
  exact = jaxdistill.train(whole, tmp_path / "exact", quiet=True)
  found, expected = (s["members"]["convnet.0"]["last"]["nll"] for s in (summary, exact))
  assert found != expected
  assert found == pytest.approx(expected, rel=0.1)


def test_a_workdir_belongs_to_one_config_and_one_process(tmp_path):
  config = runs.config("competitive", "steps=2")
  jaxdistill.train(config, tmp_path, quiet=True)
  other = runs.config("competitive", "steps=2", "method.alpha=0.5", "seed=3")
  differing = "method.alpha: there 1.0, here 0.5; seed: there 0, here 3"
  told = f"belongs to another configuration: {differing}"
  with pytest.raises(ConfigError, match=told):
    jaxdistill.train(other, tmp_path, quiet=True)
  holder = f"in use by process {os.getpid()} on"
  with locked(tmp_path), pytest.raises(BusyError, match=holder):
    jaxdistill.train(config, tmp_path, quiet=True)
