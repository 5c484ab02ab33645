"""Faults of a run of two processes: either ends in one line, and the run goes on."""

import shutil
import signal
import time

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill import errors
from jaxdistill.run import hosts
from tests.helpers import processes, runs

pytestmark = pytest.mark.slow

LOST = errors.PeerLostError.exit_code
# How JAX ends a process whose coordinator, the first process, is gone.
ABORTED = -signal.SIGABRT
# So long that no signal comes after its end, however busy the machine is.
LONG = "--config.steps=1000"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  own_data = 'config.data = component("data", "tests.helpers.processes:data")'
  imported = "from jaxdistill.run.config import component"
  directory = tmp_path_factory.mktemp("config")
  return runs.write_config(directory, imported, own_data, *runs.WILD)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
  """The run of one process with two devices."""
  path = tmp_path_factory.mktemp("whole")
  result = runs.run(config, f"--workdir={path}", devices=2)
  assert result.returncode == 0, result.stderr
  return path


def start(config, path, *args, **keywords):
  """Starts two processes in one workdir."""
  command = runs.command(config, f"--workdir={path}", *args)
  return processes.Group([command] * 2, **keywords)


def assert_all_end(ended, code, *texts):
  """Every process has ended with a code and one line that says why."""
  for process in ended:
    assert process.code == code, process
    assert "Traceback" not in process.err, process
    for text in texts:
      assert text in process.last, process


def test_two_processes_are_one_with_two_devices(config, whole, tmp_path):
  first, second = processes.run(config, f"--workdir={tmp_path}")
  assert (first.code, second.code) == (0, 0), (first, second)
  runs.assert_same_run(whole, tmp_path)
  # One speaks, and one writes.
  assert "step 12/12" in first.out
  assert not second.out.replace("\n", "") or "step" not in second.out
  assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_four_devices_may_be_in_any_number_of_processes(config, tmp_path):
  """Bit for bit in several; one process adds up four numbers in another order."""
  paths = {}
  for number, devices in ((1, 4), (2, 2), (4, 1)):
    path = tmp_path / str(number)
    ended = processes.run(config, f"--workdir={path}", number=number, devices=devices)
    assert [process.code for process in ended] == [0] * number, ended
    paths[number] = path
  runs.assert_same_run(paths[2], paths[4])
  expected, _ = runs.last_checkpoint(paths[1])
  found, _ = runs.last_checkpoint(paths[2])
  for name, array in expected.items():
    np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_members_may_be_in_processes_of_their_own(tmp_path):
  """They train, are killed, go on and are exported; as on one device but for rounding.

  A member of either process diverges and is restarted.
  """
  wild = [line.replace("width=4", "members=2, width=4") for line in runs.WILD]
  config = runs.write_config(tmp_path, *wild)
  one = tmp_path / "one"
  result = runs.run(config, f"--workdir={one}")
  assert result.returncode == 0, result.stderr

  two = tmp_path / "two"
  spread = "--config.mesh.member=2"
  with start(config, two, spread) as group:
    group.wait_until(lambda: runs.logged_step(two) >= 6)
  ended = processes.run(config, f"--workdir={two}", spread)
  assert [process.code for process in ended] == [0, 0], ended
  assert "resuming from the checkpoint" in ended[0].out

  for member in ("convnet.0", "convnet.1"):
    for which in ("best", "last"):
      expected = jaxdistill.load(one / "members" / member / which)
      found = jaxdistill.load(two / "members" / member / which)
      assert found.manifest["metrics"]["nll"] == pytest.approx(
        expected.manifest["metrics"]["nll"], rel=1e-3
      )

      def check(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)

      jax.tree.map(check, found.variables, expected.variables)
  restarted = [line for line in runs.metrics(two) if "restarted/wild.1" in line]
  assert restarted


def test_two_processes_fork_as_one_does(config, whole, tmp_path):
  """From a run of one process, for more steps and with another learning rate."""
  changes = [
    f"--fork={whole}",
    "--config.steps=16",
    "--config.optimizer.learning_rate=0.02",
  ]
  ended = processes.run(config, f"--workdir={tmp_path / 'two'}", *changes)
  assert [process.code for process in ended] == [0, 0], ended
  result = runs.run(config, f"--workdir={tmp_path / 'one'}", *changes, devices=2)
  assert result.returncode == 0, result.stderr
  runs.assert_same_run(tmp_path / "one", tmp_path / "two")


def test_stopped_killed_and_gone_on_with_another_number(config, whole, tmp_path):
  """A signal to one of two, a kill of one, then one process, then two again."""

  def step():
    return runs.logged_step(tmp_path)

  with start(config, tmp_path) as group:
    group.wait_until(lambda: step() >= 2)
    group.send(1, signal.SIGTERM)
    ended = group.ends()
  assert_all_end(ended, 75, "state saved")
  assert ended[0].last == ended[1].last

  with start(config, tmp_path) as group:
    group.wait_until(lambda: step() >= 6)
    group.send(1, signal.SIGKILL)
    since = time.time()
    survivor = group.ends(0)
    # At once in a step; where it saves, when the other one has been silent for long.
    assert time.time() - since < 45
  assert_all_end(survivor, LOST)

  code, said = runs.start_and_signal(config, tmp_path, 8, signal.SIGTERM, devices=2)
  assert code == 75, said
  ended = processes.run(config, f"--workdir={tmp_path}")
  assert [process.code for process in ended] == [0, 0], ended
  runs.assert_same_run(whole, tmp_path)


def test_sigterm_while_all_compile_stops_all(config, tmp_path):
  """When it is compiled: none may stop alone."""
  compiling = {"JAX_COMPILATION_CACHE_DIR": "", "PYTHONUNBUFFERED": "1"}
  with start(config, tmp_path, LONG, environments=[compiling] * 2) as group:
    said = group.wait_for("Compiling the train step")
    group.send(1, signal.SIGTERM)
    ended = group.ends()
  assert_all_end(ended, 75, "stopped at step")
  # Before any process could be late.
  assert any("is connected to 1 peer" in line for line in said), said
  assert ended[0].last == ended[1].last


@pytest.mark.parametrize("interrupted", [(1,), (0, 1)])
def test_ctrl_c_in_any_of_them_saves_and_stops_all(config, tmp_path, interrupted):
  with start(config, tmp_path, LONG) as group:
    group.wait_until(lambda: runs.logged_step(tmp_path) >= 2)
    for process in interrupted:
      group.send(process, signal.SIGINT)
    since = time.time()
    ended = group.ends()
    assert time.time() - since < 20
  assert_all_end(ended, 75, "state saved")
  assert ended[0].last == ended[1].last
  assert "stopping: the state is saved" in ended[1].err


def test_a_process_that_fails_in_the_second_epoch_ends_all(config, tmp_path):
  fails = {processes.FAILING_EPOCH: "1"}
  # Two steps an epoch.
  large = "--config.batch_size=512"
  with start(config, tmp_path, large, environments=[{}, fails]) as group:
    first, second = group.ends()
  assert (first.code, second.code) == (1, 1), (first, second)
  assert "process 1: failed: RuntimeError: no order can be drawn" in first.last, first
  assert "RuntimeError: no order can be drawn" in second.err, second
  assert runs.logged_step(tmp_path) > 0


def test_the_first_process_is_killed(config, tmp_path):
  with start(config, tmp_path, LONG) as group:
    group.wait_until(lambda: runs.logged_step(tmp_path) >= 2)
    group.send(0, signal.SIGKILL)
    since = time.time()
    (survivor,) = group.ends(1)
    assert time.time() - since < 10
  assert survivor.code in (LOST, ABORTED), survivor


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_is_stopped_is_lost(config, tmp_path, stopped):
  with start(config, tmp_path, LONG) as group:
    group.wait_until(lambda: runs.logged_step(tmp_path) >= 2)
    group.send(stopped, signal.SIGSTOP)
    since = time.time()
    survivor = group.ends(1 - stopped)
    assert time.time() - since < 45
  assert_all_end(survivor, LOST, f"process {stopped} has not been heard of")


def test_a_process_that_stands_still_ends_all_with_its_stack(config, tmp_path):
  patience = {hosts.STALL_SECONDS: "5"}
  with start(config, tmp_path, LONG, environments=[patience] * 2) as group:
    group.wait_until(lambda: runs.logged_step(tmp_path) >= 2)
    group.send(1, signal.SIGUSR1)
    since = time.time()
    ended = group.ends()
    assert time.time() - since < 30
  # Either may notice first, and nobody is blamed.
  assert_all_end(ended, LOST, "error: the run stood still for 5 s")
  for process in ended:
    assert "Current thread" in process.err, process.err
  assert "processes.py" in ended[1].err, ended[1].err


def test_a_full_disk_of_the_first_process_ends_all(config, tmp_path):
  command = runs.command(config, f"--workdir={tmp_path}", "--config.steps=1000")
  small = ["bash", "-c", 'ulimit -f 12; exec "$@"', "bash", *command]
  with processes.Group([small, command]) as group:
    ended = group.ends()
  for process in ended:
    # Threads of orbax say more than the one line.
    assert process.code == 4, process
    assert "File too large" in process.last, process


def test_an_unwritable_workdir_ends_all(config, tmp_path):
  path = tmp_path / "file"
  path.write_text("")
  assert_all_end(processes.run(config, f"--workdir={path}"), 4, "cannot be written")


@pytest.mark.parametrize(
  "own, text",
  [
    ("--config.seed=1", "seed: there 0, here 1"),
    ("--config.log_every=3 steps", "log_every: there '2 steps', here '3 steps'"),
    ("--config.seeed=1", "seeed"),
  ],
)
def test_another_config_ends_all(config, tmp_path, own, text):
  path = tmp_path / "run"
  command = runs.command(config, f"--workdir={path}")
  with processes.Group([command, [*command, own]]) as group:
    ended = group.ends()
  assert_all_end(ended, 2, text)
  assert "process 1" in ended[0].last
  assert not path.exists()


def test_other_data_ends_all(config, tmp_path):
  path = tmp_path / "run"
  with start(config, path, environments=[{}, {processes.ODD_DATA: "1"}]) as group:
    ended = group.ends()
  assert_all_end(ended, 2, "process 1 on", "another data set (digits)")
  assert not path.exists()


def test_other_code_ends_all(config, tmp_path):
  for name in ("jaxdistill", "tests"):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(runs.ROOT / name, tmp_path / "code" / name, ignore=ignored)
  changed = tmp_path / "code" / "jaxdistill" / "metrics.py"
  changed.write_text(changed.read_text() + "\n# Another line.\n")
  command = runs.command(config, f"--workdir={tmp_path / 'run'}")
  there = ["env", "-C", str(tmp_path / "code"), *command]
  other = {"PYTHONPATH": str(tmp_path / "code")}
  with processes.Group([command, there], [{}, other]) as group:
    ended = group.ends()
  assert_all_end(ended, 2, "process 1 on", "other code", "files of jaxdistill")


def test_a_workdir_that_is_not_shared_ends_all(config, tmp_path):
  commands = [runs.command(config, f"--workdir={tmp_path / name}") for name in "ab"]
  with processes.Group(commands) as group:
    ended = group.ends()
  assert_all_end(ended, 2, "process 1 on", "does not see the workdir")


@pytest.mark.parametrize("process", [0, 1])
def test_who_is_alone_says_where_it_has_waited(config, tmp_path, process):
  own = {hosts.PROCESS: str(process), hosts.CONNECT_SECONDS: "4"}
  command = runs.command(config, f"--workdir={tmp_path / 'run'}")
  with processes.Group([command], [own], number=2) as group:
    ended = group.ends(timeout=60)
    assert_all_end(ended, LOST, group.address, "within 4 s")


def test_a_process_without_a_device_ends_all(config, tmp_path):
  none = {"JAX_PLATFORMS": "cuda"}
  with start(config, tmp_path / "run", environments=[{}, none]) as group:
    ended = group.ends(timeout=120)
  assert_all_end(ended, 2, "process 1 on", "has no device")


def test_a_mesh_that_leaves_a_process_out_ends_all(config, tmp_path):
  ended = processes.run(
    config, f"--workdir={tmp_path / 'run'}", "--config.mesh.devices=1"
  )
  assert_all_end(ended, 2, "mesh.devices=1")
