"""Small runs for the tests: configs, and the command line in a process of its own."""

import contextlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import jax
import numpy as np

from jaxdistill.run import checkpoint, recipes
from jaxdistill.run.config import apply_overrides, group
from jaxdistill.run.logs import TIMING, WAITING
from tests.helpers import settings

ROOT = Path(__file__).parent.parent.parent

CONFIG = """
from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.digits("competitive")
  config.batch_size = 64
  config.steps = 12
  config.log_every = "2 steps"
  config.eval_every = "4 steps"
  config.checkpoint_every = "2 steps"
  config.perturb = perturbation(ops=("mixup", "noise"), every=2)
  config.cohort.convnet = group("small.convnet", members=2, width=4)
  return config
"""

TINY = (
  "batch_size=64",
  "steps=12",
  "log_every=2 steps",
  "eval_every=4 steps",
  "checkpoint_every=2 steps",
  "mesh.devices=1",
)


def config(method="competitive", *overrides):
  """A pair of tiny networks on digits for twelve steps."""
  result = recipes.digits(method)
  result.cohort.convnet = group("small.convnet", members=2, width=4)
  apply_overrides(result, [*TINY, *overrides])
  return result


WILD = (
  'config.on_divergence = "restart"',
  'config.patience = "3 steps"',
  'config.optimizer.warmup = "0 steps"',
  'wild = {"learning_rate": 1e30}',
  'config.cohort.wild = group("small.convnet", width=4, optimizer=wild)',
)
"""Lines of a config file: a third member that diverges and is restarted."""


def write_config(directory, *lines):
  """Writes the same, perturbed in every other step, as a config file.

  Args:
    directory: where.
    *lines: put before the end of `get_config`.
  """
  path = Path(directory) / "tiny.py"
  end = "  return config"
  added = "".join(f"  {line}\n" for line in lines)
  path.write_text(CONFIG.replace(end, added + end))
  return path


def command(path, *args):
  """The command line that trains from a config file."""
  return [sys.executable, "-m", "jaxdistill.main", f"--config={path}", *args]


def environment(devices=1):
  """One device unless told otherwise, and the compile cache of the tests."""
  flags = f"{settings.FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
  return {
    **os.environ,
    "XLA_FLAGS": flags,
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": settings.CACHE,
    "PYTHONPATH": str(ROOT),
    "COLUMNS": "200",
  }


def run_module(*args, cwd=None, devices=1):
  """Runs `python -m ...` to its end; returns the finished process."""
  return subprocess.run(
    [sys.executable, "-m", *args],
    capture_output=True,
    text=True,
    timeout=600,
    cwd=cwd or ROOT,
    env=environment(devices),
  )


def run(path, *args, cwd=None, devices=1):
  """Trains from a config file in a process of its own; returns it when it has ended."""
  arguments = command(path, *args)[2:]
  return run_module(*arguments, cwd=cwd, devices=devices)


def metrics(workdir):
  """The lines of a run's metrics."""
  text = (Path(workdir) / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def repeatable_metrics(workdir):
  """The same, but for what was measured by the clock."""
  lines = []
  by_the_clock = {*TIMING, WAITING}
  for line in metrics(workdir):
    repeatable = {key: line[key] for key in line if key not in by_the_clock}
    lines.append(repeatable)
  return lines


def last_checkpoint(workdir):
  """(path of a leaf -> array, manifest) of a run's last checkpoint."""
  path = sorted((Path(workdir) / "checkpoints").iterdir())[-1]
  tree, manifest = checkpoint.load(path)
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(key): leaf for key, leaf in leaves}, manifest


def assert_same_run(first, second):
  """Bit-identical parameters and equal metric lines, each step once."""
  first_arrays, first_manifest = last_checkpoint(first)
  second_arrays, second_manifest = last_checkpoint(second)
  assert first_manifest["step"] == second_manifest["step"]
  assert first_arrays.keys() == second_arrays.keys()
  for name, array in first_arrays.items():
    np.testing.assert_array_equal(array, second_arrays[name], err_msg=name)
  assert repeatable_metrics(first) == repeatable_metrics(second)
  assert first_manifest["history"] == second_manifest["history"]


def logged_step(workdir):
  """The last step that a running process has logged."""
  path = Path(workdir) / "metrics.jsonl"
  if not path.exists():
    return 0
  lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
  return max((json.loads(line)["step"] for line in lines), default=0)


@contextlib.contextmanager
def started(path, *args, out=subprocess.DEVNULL, devices=1, **variables):
  """Starts training from a config file; the process is killed when the block ends.

  Args:
    path: of the config.
    *args: of the command line.
    out: where stdout goes; stderr is a pipe.
    devices: number of devices.
    **variables: of the environment.
  """
  with subprocess.Popen(
    command(path, *args),
    stdout=out,
    stderr=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env=environment(devices) | variables,
  ) as process:
    try:
      yield process
    finally:
      process.kill()


def start_and_signal(
  config, workdir, step, number=signal.SIGKILL, delay=0.0, devices=1
):
  """Starts a run and signals it once it has logged `step`.

  Returns:
    Its exit code and what it said to stderr.
  """
  with started(config, f"--workdir={workdir}", devices=devices) as process:
    deadline = time.time() + 200
    while logged_step(workdir) < step and process.poll() is None:
      assert time.time() < deadline, "the run logs nothing"
      time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    return process.wait(timeout=300), process.stderr.read()


def start_and_signal_when(text, config, workdir, number):
  """Starts a run that must compile everything, and signals it once it says `text`.

  Returns:
    Its exit code, what it said to stderr, and the seconds that it took to end.
  """
  with started(
    config,
    f"--workdir={workdir}",
    out=subprocess.PIPE,
    JAX_COMPILATION_CACHE_DIR="",
    PYTHONUNBUFFERED="1",
  ) as process:
    for line in process.stdout:
      if text in line:
        break
    # Compilation takes longer.
    time.sleep(1)
    process.send_signal(number)
    start = time.perf_counter()
    _, said = process.communicate(timeout=300)
    return process.returncode, said, time.perf_counter() - start
