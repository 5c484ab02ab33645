"""Faults of whole runs that one process can show."""

import itertools
import signal
import time

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill.errors import Preempted
from tests.helpers import runs

pytestmark = pytest.mark.slow


def test_killed_inside_a_save_goes_on_from_the_checkpoint_before(tmp_path):
  config = runs.write_config(tmp_path)
  whole = tmp_path / "whole"
  often = "--config.checkpoint_every=1 steps"
  assert runs.run(config, f"--workdir={whole}", often).returncode == 0
  path = tmp_path / "run"
  with runs.started(config, f"--workdir={path}", often) as process:
    deadline = time.time() + 200
    while not list(path.glob("checkpoints/.*.partial")):
      assert process.poll() is None and time.time() < deadline
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
  assert list(path.glob("checkpoints/.*.partial"))
  assert runs.run(config, f"--workdir={path}", often).returncode == 0
  runs.assert_same_run(whole, path)
  assert not [found for found in path.rglob("*") if "partial" in found.name]


def test_a_member_that_diverges_takes_no_other_along(tmp_path):
  config = runs.config(
    "competitive", "cohort.convnet.optimizer.learning_rate=1e30", "optimizer.warmup=0%"
  )
  other = runs.config()
  config.cohort.other = other.cohort.convnet
  jaxdistill.train(config, tmp_path, quiet=True)
  for line in runs.metrics(tmp_path):
    for name in ("other.0", "other.1"):
      assert line.get(f"skipped/{name}", 0) == 0
      for metric in ("ce", "loss", "nll"):
        value = line.get(f"{metric}/{name}", 1.0)
        assert value is not None and np.isfinite(value)
  tree, _ = runs.last_checkpoint(tmp_path)
  for name, leaf in tree.items():
    if "'other'" in name and leaf.dtype.kind == "f":
      assert np.isfinite(leaf).all(), name


@pytest.mark.parametrize(
  "devices, member", [(1, 1), (4, 1), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, devices, member):
  """Saved on two; the same examples in the same order, numbers but for rounding."""
  assert jax.device_count() >= 4
  whole = jaxdistill.train(
    runs.config("competitive", "mesh.devices=2"), tmp_path / "whole", quiet=True
  )
  steps = itertools.count(1)

  def stop():
    return next(steps) == 4

  path = tmp_path / "run"
  with pytest.raises(Preempted):
    two = runs.config("competitive", "mesh.devices=2")
    jaxdistill.train(two, path, stop=stop, quiet=True)
  mesh = (f"mesh.devices={devices}", f"mesh.member={member}")
  other = runs.config("competitive", *mesh)
  summary = jaxdistill.train(other, path, quiet=True)
  for name, member in whole["members"].items():
    found = summary["members"][name]["last"]["nll"]
    assert found == pytest.approx(member["last"]["nll"], rel=1e-3)
