"""launch/slurm.sbatch, with commands of SLURM that start processes here."""

import os
import re
import signal

import pytest

from tests.launch.play import LAUNCH, Play

WORKDIR = "--workdir=runs/none"


def variables(tasks=2, **others):
  """What SLURM gives to the script."""
  return {"FAKE_TASKS": str(tasks), "SLURM_JOB_ID": "77", **others}


def test_every_task_runs_the_program(tmp_path):
  play = Play(tmp_path, "0 0 0")
  arguments = ["--config=a file.py", WORKDIR]
  code, said = play.run("slurm.sbatch", *arguments, **variables(tasks=3))
  assert (code, said) == (0, "")
  for process in range(3):
    assert play.told(process)[1] == arguments
  assert play.read("srun") == ["--kill-on-bad-exit=1"]
  assert not play.read("scontrol")


@pytest.mark.parametrize(
  "plan, expected, requeued",
  [
    ("75 75", 75, True),
    ("82 killed", 82, True),
    ("4 134", 4, False),
    ("141 0", 141, False),
  ],
)
def test_requeues_by_exit_code(plan, expected, requeued, tmp_path):
  play = Play(tmp_path, plan)
  code, _ = play.run("slurm.sbatch", WORKDIR, **variables())
  assert code == expected
  calls = []
  if requeued:
    calls = ["requeue 77"]
  assert play.read("scontrol") == calls


def test_the_error_of_one_counts_where_others_are_killed_for_it(tmp_path):
  play = Play(tmp_path, "4 deaf")
  code, _ = play.run("slurm.sbatch", WORKDIR, **variables(FAKE_KILL_WAIT="0"))
  assert code == 4
  assert not play.read("scontrol")
  assert not play.left()


def test_requeues_are_bounded(tmp_path):
  play = Play(tmp_path, "75 75")
  code, said = play.run("slurm.sbatch", WORKDIR, **variables(SLURM_RESTART_COUNT="10"))
  assert code == 75
  assert "after 10 requeues" in said
  assert not play.read("scontrol")


def test_the_signal_before_the_time_limit_is_waited_for(tmp_path):
  play = Play(tmp_path, "save save")
  # The shell of the script is not signalled, nor is anything but the step's tasks.
  process = play.start("slurm.sbatch", WORKDIR, **variables())
  play.wait_until_ready(2)
  os.kill(int(play.read("srun.pid")[0]), signal.SIGTERM)
  process.communicate(timeout=20)
  assert process.returncode == 75
  assert play.read("signals0") == play.read("signals1") == ["TERM"]
  assert play.read("scontrol") == ["requeue 77"]


def test_a_job_without_a_workdir_is_refused(tmp_path):
  play = Play(tmp_path, "0 0")
  code, said = play.run("slurm.sbatch", "--config=a", **variables())
  assert code == 2
  assert "--workdir" in said
  assert not play.read("srun")


def test_the_options_of_the_job():
  text = (LAUNCH / "slurm.sbatch").read_text()
  options = re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE)
  assert len(options) == text.count("#SBATCH ")
  # All steps get it, unlike with B:, and the job may start again.
  assert "--signal=TERM@180" in options
  assert "--requeue" in options
  # JAX wants to see all GPUs of the node and takes one by the task's number there.
  assert "--ntasks-per-node=8" in options and "--gres=gpu:8" in options
  assert not any("gpus-per-task" in option for option in options)
  # sbatch reads no options after the first command.
  assert text.index("set -uo") > text.rindex("#SBATCH ")
