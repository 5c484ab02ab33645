"""Whole runs: what they write, that they resume exactly, and how they end."""

import csv
import json
import os
import re
import signal
import threading
import time

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.engine.measures import MEASURES
from jaxdistill.engine.survey import Surveyor
from jaxdistill.errors import (
  BusyError,
  CheckpointError,
  ConfigError,
  DivergedError,
  Preempted,
  StorageError,
)
from jaxdistill.run import checkpoint, manifest
from jaxdistill.run.build import build
from jaxdistill.run.config import group, load_config
from jaxdistill.run.console import Console
from jaxdistill.run.jax_settings import matmul_precision
from jaxdistill.run.lineage import is_beginning
from jaxdistill.run.logs import TIMING
from jaxdistill.run.workdir import at_rest, locked
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


def stop_at(workdir, step):
  """A request to stop that comes when a step has been logged."""
  return lambda: runs.logged_step(workdir) >= step


@pytest.fixture
def fetches(monkeypatch):
  """Step -> how often the host had fetched something from the devices until then.

  On a CPU only what `jax.device_get`, float and bool fetch is counted, in the main
  thread; accelerators refuse whatever is fetched just before the second step ends.
  """
  guard = "jax_transfer_guard_device_to_host"
  array = type(jax.numpy.zeros(()))
  original = array._value
  counted = []
  at_step = {}

  def value(self):
    if threading.current_thread() is threading.main_thread():
      counted.append(self.shape)
    return original.fget(self)

  def advance(console, step, images_per_second, loss):
    del console, images_per_second, loss
    at_step[step] = len(counted)
    jax.config.update(guard, "disallow_explicit" if step == 1 else "allow")

  monkeypatch.setattr(array, "_value", property(value))
  monkeypatch.setattr(Console, "advance", advance)
  yield at_step
  jax.config.update(guard, "allow")


def test_stop_and_finish_from_python(tmp_path, fetches):
  config = runs.config("competitive", "log_every=3 steps", "checkpoint_every=3 steps")
  stop = stop_at(tmp_path, 3)
  with pytest.raises(Preempted, match="stopped at step 3 of 12, state saved"):
    jaxdistill.train(config, tmp_path, stop=stop, quiet=True)
  # Metrics stay on the devices from one line to the next.
  assert fetches[1] == fetches[2] < fetches[3]
  (before,) = lines_of(tmp_path, "train")
  summary = jaxdistill.train(config, tmp_path, quiet=True)
  again = jaxdistill.train(config, tmp_path, quiet=True)
  assert summary["steps"] == 12
  assert summary == again
  # The time goes on where the stopped process left it.
  seconds = [line["seconds"] for line in lines_of(tmp_path, "train")]
  assert seconds[0] == before["seconds"] and seconds == sorted(seconds)


@pytest.mark.parametrize(
  "keys, told",
  [
    (["patience=2 steps"], "step 4: no member has had a finite update for 2 steps"),
    pytest.param(
      ["patience=5 steps", "log_every=1 steps"],
      "step 10: no member has had a finite update for 5 steps",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_divergence_ends_the_run_and_keeps_a_finite_checkpoint(
  tmp_path, capsys, keys, told
):
  diverging = ["optimizer.learning_rate=1e30", "optimizer.warmup=0 steps", *keys]
  with pytest.raises(DivergedError, match=f"{told}: lower optimizer.learning_rate"):
    jaxdistill.train(runs.config("competitive", *diverging), tmp_path)
  assert "skipped 100 % of the updates" in capsys.readouterr().out
  for path in (tmp_path / "checkpoints").glob("*"):
    tree, _ = checkpoint.load(path)
    for leaf in jax.tree.leaves(tree):
      assert leaf.dtype.kind != "f" or np.isfinite(leaf).all()


@pytest.mark.slow
def test_a_profile_of_some_steps_is_written(tmp_path, capsys):
  config = runs.config("competitive", "profile_steps=3")
  jaxdistill.train(config, tmp_path)
  told = f"\na profile of step 3 to step 5 is in {tmp_path / 'profile'}: "
  assert capsys.readouterr().out.count(told) == 1
  for kind in ("*.xplane.pb", "*.trace.json.gz"):
    (file,) = (tmp_path / "profile").rglob(kind)
    assert file.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("what", ["file", "short"])
def test_a_profile_that_cannot_be_written_is_told(tmp_path, capsys, what):
  if what == "file":
    (tmp_path / "profile").write_text("")
    steps, told = 4, "warning: no profile: "
  else:
    steps, told = 2, "note: the run has ended before its profile began"
  config = runs.config("competitive", "profile_steps=1", f"steps={steps}")
  assert jaxdistill.train(config, tmp_path)["steps"] == steps
  assert told in capsys.readouterr().out


@pytest.mark.slow
def test_checkpoints_that_take_long_change_nothing(tmp_path, monkeypatch):
  """While each is written, the run goes on and gives up the state that it holds."""
  config = load_config(str(runs.write_config(tmp_path)), ["mesh.devices=1"])
  # In this process as well: one with fewer simulated devices has fewer threads, and
  # XLA adds up in another order.
  jaxdistill.train(config, tmp_path / "prompt", quiet=True)
  save = checkpoint.save

  def slow(directory, tree, **extra):
    time.sleep(0.5)
    save(directory, tree, **extra)

  monkeypatch.setattr(checkpoint, "save", slow)
  jaxdistill.train(config, tmp_path / "slow", quiet=True)
  runs.assert_same_run(tmp_path / "prompt", tmp_path / "slow")


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch):
  """It is told at the next step, though the thread that wrote it knew before."""
  commit = manifest.commit

  def full(directory, tree, extra):
    if extra.get("step") == 6:
      raise OSError(28, "No space left on device")
    commit(directory, tree, extra)

  monkeypatch.setattr(manifest, "commit", full)
  told = r"cannot write checkpoint .*/000000006: No space left on device \("
  with pytest.raises(StorageError, match=told):
    jaxdistill.train(runs.config(), tmp_path, quiet=True)
  saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
  assert saved == ["000000002", "000000004"]
  assert lines_of(tmp_path, "train")[-1]["step"] <= 8


@pytest.mark.slow
def test_all_products_have_the_precision_of_the_config():
  experiment = build(runs.config())
  products = ("stablehlo.convolution", "stablehlo.dot_general")
  with matmul_precision("float32"):
    lines = experiment.program().splitlines()
  found = [line for line in lines if any(name in line for name in products)]
  assert len(found) > 10
  for line in found:
    assert line.count("HIGHEST") == 2, line


def with_a_diverging_member(*overrides):
  """Two members that train, and one whose second step is not finite."""
  config = runs.config("competitive", "optimizer.warmup=0 steps", *overrides)
  config.cohort.wild = group(
    "small.convnet", width=4, optimizer={"learning_rate": 1e30}
  )
  return config


@pytest.mark.slow
@pytest.mark.parametrize(
  "action, events",
  [
    ("hold", []),
    ("quarantine", [(6, "quarantined/wild.0")]),
    ("restart", [(6, "restarted/wild.0"), (12, "restarted/wild.0")]),
  ],
)
def test_one_member_diverges_and_the_run_resumes_alike(
  tmp_path, capsys, action, events
):
  config = with_a_diverging_member("patience=3 steps", f"on_divergence={action}")
  summary = jaxdistill.train(config, tmp_path / "whole")
  said = capsys.readouterr().out
  found = []
  for line in lines_of(tmp_path / "whole", "events"):
    found += [(line["step"], key) for key in line if "/" in key]
  assert found == events
  for step, event in events:
    told = f"warning: step {step}: wild.0 had no finite update for 3 steps and is "
    assert told + event.partition("/")[0] in said

  quarantined = action == "quarantine"
  assert summary["members"]["wild.0"].get("quarantined") == (6 if quarantined else None)
  marked = "* wild.0 diverged and was quarantined at step 6" in said
  assert marked == quarantined
  last = tmp_path / "whole" / "members" / "wild.0" / "last"
  assert last.exists() != quarantined
  # It warns no more.
  assert ("step 8: wild.0 skipped" in said) != quarantined
  assert lines_of(tmp_path / "whole", "train")[-1]["wins/wild.0"] == 0

  stop = stop_at(tmp_path / "stopped", 8)
  with pytest.raises(Preempted, match="step 8"):
    jaxdistill.train(config, tmp_path / "stopped", stop=stop, quiet=True)
  jaxdistill.train(config, tmp_path / "stopped", quiet=True)
  runs.assert_same_run(tmp_path / "whole", tmp_path / "stopped")


CONSTANT = ("optimizer.schedule=constant", "optimizer.warmup=0 steps")


@pytest.mark.slow
def test_a_finished_run_goes_on_as_a_longer_one(tmp_path):
  keys = (*CONSTANT, "holdout=100")
  jaxdistill.train(runs.config("competitive", "steps=4", *keys), tmp_path / "a")
  longer = runs.config("competitive", "steps=8", *keys)
  jaxdistill.train(longer, tmp_path / "a", quiet=True)
  summary = jaxdistill.train(longer, tmp_path / "b", quiet=True)
  runs.assert_same_run(tmp_path / "a", tmp_path / "b")

  # What is best is chosen on the held-out split, and shown on the test split.
  assert summary["select_on"] == "holdout"
  rows = {"test": {}, "holdout": {}}
  for split, steps in rows.items():
    for line in lines_of(tmp_path / "b", split):
      steps[line["step"]] = line["top1/convnet.0"]
  best = summary["members"]["convnet.0"]["best"]
  assert rows["holdout"][best["step"]] == max(rows["holdout"].values())
  assert best["holdout"]["top1"] == rows["holdout"][best["step"]]
  assert best["top1"] == rows["test"][best["step"]]
  member = jaxdistill.load(tmp_path / "b" / "members" / "convnet.0" / "best")
  assert member.manifest["step"] == best["step"]
  assert member.manifest["select_on"] == "holdout"


@pytest.mark.slow
@pytest.mark.parametrize(
  "method, keys, begins",
  [
    ("competitive", CONSTANT, True),
    ("competitive", ("optimizer.warmup=0 steps",), False),
    ("competitive", (*CONSTANT, "optimizer.warmup=10%"), False),
    ("competitive", (*CONSTANT, "eval_every=50%"), False),
    ("ps_kd", (*CONSTANT, "method.schedule=constant"), True),
    ("ps_kd", CONSTANT, False),
  ],
)
def test_which_runs_are_the_beginning_of_longer_ones(method, keys, begins):
  short = runs.config(method, "steps=30", *keys)
  long = runs.config(method, "steps=60", *keys)
  found = is_beginning(short.to_dict(), long, build(long))
  assert found == begins
  assert not is_beginning(long.to_dict(), short, build(short))


@pytest.mark.slow
def test_a_fork_starts_a_new_run_and_leaves_the_other_alone(tmp_path):
  first = runs.config("competitive", "steps=4")
  jaxdistill.train(first, tmp_path / "a", quiet=True)
  before = {path: path.read_bytes() for path in files_in(tmp_path / "a")}
  second = runs.config("competitive", "steps=8", "method.alpha=0.5", "seed=3")
  stop = stop_at(tmp_path / "b", 6)
  with pytest.raises(Preempted, match="step 6 of 8"):
    jaxdistill.train(second, tmp_path / "b", fork=tmp_path / "a", stop=stop, quiet=True)
  # From here on it needs the other one no more.
  (tmp_path / "a").rename(tmp_path / "moved")
  summary = jaxdistill.train(second, tmp_path / "b", quiet=True)
  (tmp_path / "moved").rename(tmp_path / "a")
  assert {path: path.read_bytes() for path in files_in(tmp_path / "a")} == before

  record = json.loads((tmp_path / "a" / "config.json").read_text())
  origin = {
    "path": str(tmp_path / "a"),
    "step": 4,
    "config_digest": record["config_digest"],
  }
  assert summary["forked_from"] == origin
  record = json.loads((tmp_path / "b" / "config.json").read_text())
  assert record["forked_from"] == origin
  assert [line["step"] for line in lines_of(tmp_path / "b", "train")] == [6, 8]
  tree, _ = runs.last_checkpoint(tmp_path / "b")
  np.testing.assert_array_equal(tree["['key']"], jax.random.key_data(jax.random.key(3)))

  wider = runs.config("competitive", "steps=8", "cohort.convnet.width=8")
  with pytest.raises(CheckpointError, match="holds another state: .*float32"):
    jaxdistill.train(wider, tmp_path / "c", fork=tmp_path / "a", quiet=True)
  with pytest.raises(ConfigError, match="is at step 4, and this run would end at 4"):
    jaxdistill.train(first, tmp_path / "c", fork=tmp_path / "a", quiet=True)
  assert not (tmp_path / "c").exists()
  with pytest.raises(ConfigError, match="holds a run that does not come from"):
    jaxdistill.train(first, tmp_path / "a", fork=tmp_path / "b", quiet=True)


def files_in(directory):
  return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("what", ["train step", "evaluation"])
def test_a_signal_while_it_compiles_is_honoured_at_once(
  finished, tmp_path, number, what
):
  config = runs.write_config(tmp_path)
  workdir = tmp_path / "run"
  code, said, seconds = runs.start_and_signal_when(
    f"Compiling the {what}", config, workdir, number
  )
  step = {"train step": "0", "evaluation": "4"}[what]
  assert code == 75
  assert f"stopped at step {step} of 12" in said
  assert seconds < 10
  assert runs.run(config, f"--workdir={workdir}").returncode == 0
  # The evaluation that was due is made up for.
  runs.assert_same_run(finished[0], workdir)


@pytest.mark.slow
def test_a_stop_during_a_survey_keeps_the_state_before_it(tmp_path, monkeypatch):
  config = runs.config(
    "interval",
    "batch_size=128",
    "steps=22",
    "log_every=1 steps",
    "eval_every=22 steps",
    "checkpoint_every=100 steps",
    "method.independent_epochs=1",
    "method.distillation_epochs=1",
  )
  jaxdistill.train(config, tmp_path / "whole", quiet=True)
  surveying = threading.Event()
  run = Surveyor.run

  def run_slowly(self, state, splits, epoch):
    new_state = run(self, state, splits, epoch)
    if epoch == 1:
      surveying.set()
      time.sleep(2)
    return new_state

  with monkeypatch.context() as patch:
    patch.setattr(Surveyor, "run", run_slowly)
    with pytest.raises(Preempted, match="stopped at step 11 of 22, state saved"):
      jaxdistill.train(config, tmp_path / "run", stop=surveying.is_set, quiet=True)
  jaxdistill.train(config, tmp_path / "run", quiet=True)
  runs.assert_same_run(tmp_path / "whole", tmp_path / "run")


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
  with locked(tmp_path), pytest.raises(BusyError, match="in use"), at_rest(tmp_path):
    raise AssertionError("read while it is written")
  with at_rest(tmp_path), at_rest(tmp_path):
    pass
