"""Whole runs whose images are read when they are needed: the bits of resident ones."""

import json
import signal
import time

import pytest

import jaxdistill
from jaxdistill.errors import Preempted
from jaxdistill.run import hosts
from tests.helpers import processes, runs, streams

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("streams")]

DATA = "data.name=tests.helpers.streams:digits"


@pytest.mark.parametrize(
  "method, keys",
  [("competitive", ()), ("ps_kd", ()), ("kdcl.general", ("holdout=0.1",))],
)
def test_a_streamed_run_is_a_resident_one(method, keys, tmp_path):
  """Stopped in the middle of an epoch, and gone on beyond its end."""
  keys = ("batch_size=128", "steps=14", "eval_every=7 steps", *keys)
  arrays = tmp_path / "arrays"
  jaxdistill.train(runs.config(method, *keys), arrays, quiet=True)

  streamed = tmp_path / "streamed"
  config = runs.config(method, *keys, DATA, "resident_bytes=0")

  def stop():
    return runs.logged_step(streamed) >= 6

  with pytest.raises(Preempted):
    jaxdistill.train(config, streamed, stop=stop, quiet=True)
  summary = jaxdistill.train(config, streamed, quiet=True)
  runs.assert_same_run(arrays, streamed)
  splits = ["train", "test"]
  if method == "kdcl.general":
    splits.append("holdout")
  assert summary["streamed"] == splits
  assert 0 <= summary["waiting"] < 1
  line = next(line for line in runs.metrics(streamed) if line["split"] == "train")
  assert tuple(line)[-3:] == ("seconds", "images_per_second", "waiting")


def test_what_fits_becomes_resident(tmp_path, capsys):
  """The training split has 276,096 bytes, the test split 68,928."""
  keys = ("steps=2", "eval_every=2 steps", "resident_bytes=300000")
  config = runs.config("independent", DATA, *keys)
  summary = jaxdistill.train(config, tmp_path)
  said = capsys.readouterr().out
  assert (
    "Reading train into memory (1,438 images of 8 x 8 pixels, 270 KiB) took" in said
  )
  assert "note: test is streamed: 359 images of 8 x 8 pixels, 67.3 KiB" in said
  assert "note: train is streamed" not in said
  assert summary["streamed"] == ["test"]
  assert "waiting" not in summary
  assert jaxdistill.train(config, tmp_path, quiet=True) == summary | {}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """A config of streams, of whose test images three are damaged."""
  lines = (
    "from jaxdistill.run.config import component",
    'config.data = component("data", "tests.helpers.streams:digits", damaged=3)',
    "config.resident_bytes = 0",
  )
  return runs.write_config(tmp_path_factory.mktemp("config"), *lines)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
  """The run of one process with two devices, whose training images are resident."""
  path = tmp_path_factory.mktemp("whole")
  arguments = (f"--workdir={path}", "--config.resident_bytes=-1")
  result = runs.run(config, *arguments, devices=2)
  assert result.returncode == 0, result.stderr
  assert "note: not all images of test can be read: it is streamed" in result.stdout
  assert "3 examples of test could not be read and are left out" in result.stdout
  return path


def assert_three_are_left_out(path):
  summary = json.loads((path / "summary.json").read_text())
  assert summary["faulty"]["test"]["count"] == 3
  assert summary["faulty"]["test"]["first"]["image 0"] == "damaged"
  lines = [line for line in runs.metrics(path) if line["split"] == "test"]
  assert [line["left_out"] for line in lines] == [3, 3, 3]


def test_a_run_whose_images_do_not_come_ends_and_goes_on(config, whole, tmp_path):
  """It stalls, is stopped while it waits, and goes on to the bits of a whole run."""
  workdir = f"--workdir={tmp_path}"
  hanging = {streams.HANG_AT: "4", hosts.STALL_SECONDS: "2"}
  with runs.started(config, workdir, devices=2, **hanging) as process:
    assert process.wait(timeout=500) == 82
    last = process.stderr.read().splitlines()[-1]
  assert last.startswith("jaxdistill: error: no image of train (batch 4, from example")
  assert runs.last_checkpoint(tmp_path)[1]["step"] == 4

  with runs.started(config, workdir, devices=2, **{streams.HANG_AT: "2"}) as process:
    deadline = time.time() + 200
    while runs.logged_step(tmp_path) < 6:
      assert time.time() < deadline and process.poll() is None
      time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert "stopped at step 6 of 12, state saved" in process.stderr.read()
  result = runs.run(config, workdir, devices=2)
  assert result.returncode == 0, result.stderr
  runs.assert_same_run(whole, tmp_path)
  assert_three_are_left_out(tmp_path)


def test_two_processes_read_what_one_reads(config, whole, tmp_path):
  """Each reads its own rows, and what neither can read counts in no mean."""
  ended = processes.run(config, f"--workdir={tmp_path}")
  assert [process.code for process in ended] == [0, 0], ended
  runs.assert_same_run(whole, tmp_path)
  assert_three_are_left_out(tmp_path)


def test_a_process_that_waits_for_images_ends_all(config, tmp_path):
  command = runs.command(config, f"--workdir={tmp_path}")
  # Who waits for images has nine tenths of it to say so. On a machine at work one
  # process may be seconds ahead of the other.
  patience = {hosts.STALL_SECONDS: "60"}
  hanging = {**patience, streams.HANG_AT: "3"}
  with processes.Group([command] * 2, environments=[patience, hanging]) as group:
    ended = group.ends()
  for process in ended:
    assert process.code == 82, process
    assert "no image of train (batch 3, from example" in process.last, process
