"""The scripts of `launch/` train with two processes here."""

import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import runs
from tests.launch.play import FAKES, LAUNCH

pytestmark = pytest.mark.slow

TRAIN = f"{sys.executable} -m jaxdistill.main"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return runs.write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
  """A run of one process with two devices, which nothing has disturbed."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  result = runs.run(config, f"--workdir={workdir}", devices=2)
  assert result.returncode == 0, result.stderr
  return workdir


def start(script, *arguments, **variables):
  environment = {
    **runs.environment(),
    "JAXDISTILL_PROGRAM": TRAIN,
    "PATH": f"{FAKES}:{os.environ['PATH']}",
    **variables,
  }
  return subprocess.Popen(
    ["bash", str(LAUNCH / script), *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=runs.ROOT,
    env=environment,
  )


def finish(process):
  """The exit code, and what was said to stderr."""
  try:
    _, said = process.communicate(timeout=560)
  finally:
    process.kill()
  return process.returncode, said


def run(script, *arguments, **variables):
  return finish(start(script, *arguments, **variables))


def trainers(process):
  """The processes that a running script has started."""
  children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
  return [int(pid) for pid in children.read_text().split()]


def wait_for_step(process, workdir, step):
  deadline = time.monotonic() + 200
  while runs.logged_step(workdir) < step:
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline, "the run logs nothing"
    time.sleep(0.005)


def test_two_processes_are_one_with_two_devices(config, whole, tmp_path):
  workdir = tmp_path / "run"
  code, said = run("local.sh", "2", f"--config={config}", f"--workdir={workdir}")
  assert code == 0, said
  runs.assert_same_run(whole, workdir)


def test_slurm_s_variables_are_found(config, whole, tmp_path):
  workdir = tmp_path / "run"
  code, said = run(
    "slurm.sbatch",
    f"--config={config}",
    f"--workdir={workdir}",
    PLAY=str(tmp_path),
    FAKE_TASKS="2",
    # JAX makes the coordinator's port of it.
    SLURM_JOB_ID=str(random.randrange(10**6)),
  )
  assert code == 0, said
  runs.assert_same_run(whole, workdir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_survives_a_signal_to_one_process(number, config, whole, tmp_path):
  workdir = tmp_path / "run"
  process = start("local.sh", "2", f"--config={config}", f"--workdir={workdir}")
  wait_for_step(process, workdir, 4)
  os.kill(trainers(process)[1], number)
  code, said = finish(process)
  assert code == 0, said
  assert "restart 1 of 3" in said
  runs.assert_same_run(whole, workdir)


def test_a_stopped_run_goes_on_with_another_number_of_processes(
  config, whole, tmp_path
):
  workdir = tmp_path / "run"
  arguments = (f"--config={config}", f"--workdir={workdir}")
  process = start("local.sh", "2", *arguments)
  wait_for_step(process, workdir, 4)
  process.send_signal(signal.SIGTERM)
  code, said = finish(process)
  assert code == 75, said
  code, said = run("local.sh", "1", *arguments)
  assert code == 0, said
  steps = [line["step"] for line in runs.metrics(workdir)]
  assert steps == [line["step"] for line in runs.metrics(whole)]
