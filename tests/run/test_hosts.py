"""What processes are told by their environment, and what one of them does alone."""

import pytest

from jaxdistill.errors import ConfigError, StorageError
from jaxdistill.run import hosts

THREE = {
  hosts.ADDRESS: "host0:1234",
  hosts.PROCESSES: "3",
  hosts.PROCESS: "2",
}


def test_three_variables_name_a_process():
  assert hosts.named_in(THREE) == {
    "coordinator_address": "host0:1234",
    "num_processes": 3,
    "process_id": 2,
  }


def test_slurm_is_detected_by_jax_where_it_starts_several():
  step = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
  }
  with pytest.MonkeyPatch.context() as patch:
    for number, expected in (("1", None), ("2", {})):
      for name, value in {**step, "SLURM_NTASKS": number}.items():
        patch.setenv(name, value)
      assert hosts.named_in({}) == expected


@pytest.mark.parametrize("environment", [{}, {**THREE, hosts.PROCESSES: "1"}])
def test_a_single_process_joins_nobody(environment):
  assert hosts.named_in(environment) is None


@pytest.mark.parametrize(
  "changed, text",
  [
    ({hosts.PROCESSES: "many"}, "JAXDISTILL_PROCESSES is 'many'"),
    ({hosts.PROCESSES: "0"}, "JAXDISTILL_PROCESSES is 0: it must be at least 1"),
    ({hosts.PROCESS: "3"}, "JAXDISTILL_PROCESS is 3: it must be from 0 to 2"),
    ({hosts.PROCESS: ""}, "JAXDISTILL_PROCESS is ''"),
    ({hosts.ADDRESS: "host0"}, "JAX_COORDINATOR_ADDRESS is 'host0': set it to host:"),
    ({hosts.ADDRESS: ""}, "JAX_COORDINATOR_ADDRESS is ''"),
  ],
)
def test_variables_that_make_no_sense_are_refused(changed, text):
  with pytest.raises(ConfigError, match=text):
    hosts.named_in({**THREE, **changed})


def test_one_process_agrees_with_itself():
  assert hosts.first() and not hosts.several()
  assert hosts.from_first((1, 2)) == (1, 2)
  assert hosts.gather("a") == ["a"]
  assert hosts.on_first(lambda: 5) == 5
  hosts.require_same("data", "digest")
  hosts.barrier("here")
  with pytest.raises(StorageError, match="full"):
    hosts.on_first(_fail)
  with pytest.raises(ConfigError, match="process 0 on .* has no eyes: buy some"):
    hosts.require_all("has no eyes", "buy some")


def _fail():
  raise StorageError("full")


@pytest.mark.parametrize(
  "text, expected",
  [
    ("Gloo all-reduce failed: Connection closed by peer", True),
    ("NCCL operation failed: remote process exited", True),
    ("No space left on device", False),
  ],
)
def test_errors_of_other_processes_are_told_apart(text, expected):
  assert hosts.is_of_others(ValueError(text)) == expected
