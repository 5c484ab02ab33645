"""launch/local.sh: several processes here, as one."""

import signal
import time

import pytest

from tests.launch.play import Play

WORKDIR = "--workdir=runs/none"


def test_processes_are_told_who_they_are(tmp_path):
  play = Play(tmp_path, "0 0 0")
  arguments = ("--config=a file.py", WORKDIR)
  code, said = play.run("local.sh", "3", *arguments)
  assert (code, said) == (0, "")
  addresses = set()
  for process in range(3):
    keys, got = play.told(process)
    assert got == list(arguments)
    assert keys["processes"] == "3"
    addresses.add(keys["address"])
  (address,) = addresses
  host, _, port = address.partition(":")
  assert host == "127.0.0.1" and 20000 <= int(port) < 32768


@pytest.mark.parametrize(
  "plan, expected, starts",
  [
    pytest.param(["2 2"], 2, 1, id="an error"),
    pytest.param(["141 0"], 141, 1, id="another code"),
    pytest.param(["75 75", "0 0"], 0, 2, id="stopped and saved"),
    pytest.param(["82 killed", "0 0"], 0, 2, id="killed"),
    pytest.param(["82 4"], 4, 1, id="an error of one"),
    pytest.param(["82 134"], 82, 4, id="again and again"),
  ],
)
def test_restarts_by_exit_code(plan, expected, starts, tmp_path):
  play = Play(tmp_path, *plan)
  code, _ = play.run("local.sh", "2", WORKDIR)
  assert code == expected
  assert play.starts(0) == starts


def test_a_process_that_outlives_a_failed_one_is_killed(tmp_path):
  play = Play(tmp_path, "4 deaf")
  code, _ = play.run("local.sh", "2", WORKDIR, JAXDISTILL_GRACE="0")
  assert code == 4
  assert play.starts(0) == 1
  assert not play.left()


@pytest.mark.parametrize(
  "arguments, variables",
  [([WORKDIR], {"JAXDISTILL_RESTARTS": "0"}), (["--config=a"], {})],
  ids=["none allowed", "no workdir"],
)
def test_what_cannot_go_on_is_not_restarted(arguments, variables, tmp_path):
  play = Play(tmp_path, "75 75")
  code, said = play.run("local.sh", "2", *arguments, **variables)
  assert code == 75
  assert "after 0 restarts" in said
  assert play.starts() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_once(number, tmp_path):
  play = Play(tmp_path, "save save")
  process = play.start("local.sh", "2", WORKDIR)
  play.wait_until_ready(2)
  process.send_signal(number)
  _, said = process.communicate(timeout=20)
  assert process.returncode == 75
  assert "stopping" in said
  assert play.read("signals0") == play.read("signals1") == ["TERM"]
  # It was meant: the run does not go on by itself.
  assert play.starts() == 1


def test_a_second_signal_leaves_nothing_behind(tmp_path):
  play = Play(tmp_path, "deaf deaf")
  process = play.start("local.sh", "2", WORKDIR)
  play.wait_until_ready(2)
  process.send_signal(signal.SIGTERM)
  while not play.read("signals1"):
    time.sleep(0.01)
  assert len(play.left()) == 4
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=20)
  assert process.returncode == 82
  assert not play.left()


@pytest.mark.parametrize(
  "variables, gpus",
  [
    ({"FAKE_GPUS": "2", "CUDA_VISIBLE_DEVICES": ""}, ["0", "1"]),
    ({"CUDA_VISIBLE_DEVICES": "3,5"}, ["3", "5"]),
  ],
  ids=["all", "those named"],
)
def test_each_process_has_a_gpu(variables, gpus, tmp_path):
  play = Play(tmp_path, "0 0")
  code, _ = play.run("local.sh", "2", JAX_PLATFORMS="", **variables)
  assert code == 0
  assert [play.told(process)[0]["gpus"] for process in range(2)] == gpus
  code, said = play.run("local.sh", "3", JAX_PLATFORMS="", **variables)
  assert code == 2
  assert "3 processes, 2 GPUs" in said
  assert play.starts() == 1


@pytest.mark.parametrize("number", ["", "0", "two", "--config=a"])
def test_a_number_of_processes_is_needed(number, tmp_path):
  play = Play(tmp_path, "0")
  code, said = play.run("local.sh", number)
  assert code == 2
  assert "number of processes" in said
  assert not play.starts()
