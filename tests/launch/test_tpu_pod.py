"""launch/tpu_pod.sh, with a gcloud that records what it is told and runs it here."""

import pytest

from tests.launch.play import PROGRAM, Play

ARGUMENTS = ("--config=a file.py", "--workdir=/mnt/run")

QUEUED = "compute tpus queued-resources"
LIST = (
  f"{QUEUED} list --zone=us-west4-a --filter=name~/pod$ --format=value(state.state)"
)
CREATE = (
  f"{QUEUED} create pod --node-id=pod --zone=us-west4-a "
  "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"
)
DELETE = f"{QUEUED} delete pod --zone=us-west4-a --force --quiet"
SSH = "compute tpus tpu-vm ssh pod --zone=us-west4-a --worker=all"
PREPARE = f"{SSH} --command=echo prepared"
TRAIN = (
  f"{SSH} --command=flock --timeout=300 --conflict-exit-code=82 ~/.jaxdistill.lock "
  f"{PROGRAM} --config=a\\ file.py --workdir=/mnt/run; "
  'code=$?; echo "jaxdistill: exit code $code"; exit $code'
)


def run(play, *arguments, **variables):
  """Runs the script without waiting between looks at the state."""
  given = {
    "JAXDISTILL_POLL": "0",
    "JAXDISTILL_PREPARE": "echo prepared",
    **variables,
  }
  return play.run("tpu_pod.sh", *arguments, **given)


def test_a_slice_is_requested_used_and_deleted(tmp_path):
  play = Play(tmp_path, "0 0")
  play.write("states", "", "error", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  code, _ = run(play, "pod", *ARGUMENTS)
  assert code == 0
  waiting = [LIST, CREATE, LIST, LIST, LIST, LIST]
  assert play.read("gcloud") == [*waiting, PREPARE, TRAIN, DELETE]
  for worker in range(2):
    assert play.told(worker)[1] == list(ARGUMENTS)


def test_a_slice_that_is_taken_away_is_requested_again(tmp_path):
  play = Play(tmp_path, "75 255", "82 killed", "0 0")
  play.write("states", "ACTIVE", "SUSPENDING", "SUSPENDED", "", "ACTIVE")
  code, _ = run(play, "pod", *ARGUMENTS)
  assert code == 0
  again = [LIST, LIST, DELETE, LIST, CREATE, LIST, PREPARE, TRAIN]
  assert play.read("gcloud") == [LIST, PREPARE, TRAIN, *again, LIST, TRAIN, DELETE]


@pytest.mark.parametrize(
  "plan, expected, starts",
  [("2 2", 2, 1), ("82 4", 4, 1), ("134 255", 82, 2), ("75 75", 75, 2)],
)
def test_restarts_by_exit_code(plan, expected, starts, tmp_path):
  play = Play(tmp_path, plan)
  play.write("states", "ACTIVE")
  code, _ = run(play, "pod", *ARGUMENTS, JAXDISTILL_RESTARTS="1")
  assert code == expected
  assert play.starts() == starts
  assert play.read("gcloud")[-1] == DELETE


def test_machines_that_cannot_be_prepared_end_it(tmp_path):
  play = Play(tmp_path, "0 0")
  play.write("states", "ACTIVE")
  code, said = run(play, "pod", *ARGUMENTS, JAXDISTILL_PREPARE="exit 3")
  assert code == 2
  assert "could not be prepared" in said
  assert not play.starts()
  assert play.read("gcloud")[-1] == DELETE


def test_a_request_that_fails_ends_it(tmp_path):
  play = Play(tmp_path, "0 0")
  play.write("states", "FAILED")
  code, said = run(play, "pod", *ARGUMENTS)
  assert code == 2
  assert "request failed" in said
  assert play.read("gcloud") == [LIST, DELETE]


@pytest.mark.parametrize(
  "arguments", [["", *ARGUMENTS], ARGUMENTS, ["pod", "--config=a"]]
)
def test_a_name_and_a_workdir_are_needed(arguments, tmp_path):
  play = Play(tmp_path, "0 0")
  code, said = run(play, *arguments)
  assert code == 2
  assert "error:" in said
  assert not play.read("gcloud")
