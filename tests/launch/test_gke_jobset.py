"""launch/gke_jobset.yaml: the fields that Kubernetes knows, and what they say."""

import json
from pathlib import Path

import pytest

from tests.launch.play import LAUNCH, RETRIED, all_codes

jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")

SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())


@pytest.fixture
def jobset():
  return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


@pytest.fixture
def hosts(jobset):
  """The one replicated job of the set."""
  (hosts,) = jobset["spec"]["replicatedJobs"]
  return hosts


@pytest.fixture
def job(hosts):
  return hosts["template"]["spec"]


@pytest.fixture
def pod(job):
  return job["template"]["spec"]


@pytest.fixture
def container(pod):
  (container,) = pod["containers"]
  return container


def test_fields_and_types_are_those_published(jobset):
  jsonschema.Draft202012Validator.check_schema(SCHEMA)
  jsonschema.validate(jobset, SCHEMA)


def test_a_field_that_does_not_exist_would_be_found(jobset, job):
  job["podFailurePolicy"]["rules"][0]["onExitCode"] = {}
  with pytest.raises(jsonschema.ValidationError, match="onExitCode"):
    jsonschema.validate(jobset, SCHEMA)


def test_final_codes_fail_the_set_and_all_others_restart_it(
  jobset, job, pod, container
):
  # Kubernetes accepts a policy by exit codes with this one alone.
  assert pod["restartPolicy"] == "Never"
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob"
  by_codes = rule["onExitCodes"]
  assert by_codes["containerName"] == container["name"]
  assert by_codes["operator"] == "In"
  assert set(by_codes["values"]) == all_codes() - RETRIED
  # Any other failure of a pod fails the job at once, for another reason.
  assert job["backoffLimit"] == 0
  policy = jobset["spec"]["failurePolicy"]
  assert 1 <= policy["maxRestarts"] <= 20
  (on_failure,) = policy["rules"]
  assert on_failure["action"] == "FailJobSet"
  assert on_failure["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_every_machine_is_told_who_it_is(jobset, hosts, job, container):
  variables = {variable["name"]: variable for variable in container["env"]}
  names = {"JAX_COORDINATOR_ADDRESS", "JAXDISTILL_PROCESSES", "JAXDISTILL_PROCESS"}
  assert set(variables) == names

  # As many as there are machines, all at once, each with a number.
  machines = job["completions"]
  assert job["parallelism"] == machines
  assert variables["JAXDISTILL_PROCESSES"]["value"] == str(machines)
  assert job["completionMode"] == "Indexed"
  index = variables["JAXDISTILL_PROCESS"]["valueFrom"]["fieldRef"]["fieldPath"]
  assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"

  # The first pod by the name that the set's headless service gives it.
  assert hosts["replicas"] == 1
  network = jobset["spec"]["network"]
  assert network["enableDNSHostnames"] and network["publishNotReadyAddresses"]
  assert "subdomain" not in network
  name = jobset["metadata"]["name"]
  host, _, port = variables["JAX_COORDINATOR_ADDRESS"]["value"].partition(":")
  assert host == f"{name}-{hosts['name']}-0-0.{name}"
  assert [int(port)] == [entry["containerPort"] for entry in container["ports"]]


def test_the_slice_has_the_chips_that_the_machines_ask_for(job, pod, container):
  resources = container["resources"]
  # Kubernetes takes no other request of such a resource than its limit.
  assert resources["requests"] == resources["limits"]
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  rows, columns = topology.split("x")
  chips = job["completions"] * resources["limits"]["google.com/tpu"]
  assert int(rows) * int(columns) == chips


def test_the_run_is_kept_where_all_machines_see_it(pod, container):
  assert container["command"] == ["python", "-m", "jaxdistill.main"]
  (workdir,) = [a for a in container["args"] if a.startswith("--workdir=")]
  (mount,) = container["volumeMounts"]
  assert workdir.startswith(f"--workdir={mount['mountPath']}/")
  (volume,) = pod["volumes"]
  assert volume["name"] == mount["name"]
  assert "persistentVolumeClaim" in volume
