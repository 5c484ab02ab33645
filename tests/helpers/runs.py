"""Small runs for the tests: configs, and the command line in a process of its own."""

import json
import os
from pathlib import Path
import subprocess
import sys


from jaxdistill.run import recipes
from jaxdistill.run.config import apply_overrides, group

from tests.helpers import settings

ROOT = Path(__file__).parent.parent.parent

CONFIG = '''
from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.digits("competitive")
  config.batch_size, config.steps = 64, 12
  config.log_every, config.eval_every, config.checkpoint_every = "2 steps", "4 steps", "2 steps"
  config.perturb = perturbation(ops=("mixup", "noise"), every=2)
  config.cohort.convnet = group("small.convnet", members=2, width=4)
  return config
'''


def config(method="competitive", *overrides):
  """A pair of tiny networks on digits for twelve steps."""
  result = recipes.digits(method)
  result.cohort.convnet = group("small.convnet", members=2, width=4)
  apply_overrides(result, ["batch_size=64", "steps=12", "log_every=2 steps", "eval_every=4 steps",
                               "checkpoint_every=2 steps", "mesh.devices=1", *overrides])
  return result


def write_config(directory):
  path = Path(directory) / "tiny.py"
  path.write_text(CONFIG)
  return path


def command(path, *args):
  return [sys.executable, "-m", "jaxdistill.main", f"--config={path}", *args]


def environment(devices=1):
  """One device unless told otherwise, and the compile cache of the tests."""
  return {**os.environ, "XLA_FLAGS": f"{settings.FAST_COMPILE} --xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu",
          "JAX_COMPILATION_CACHE_DIR": settings.CACHE, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def run(path, *args, cwd=None, devices=1):
  """Runs the command line to its end; returns the finished process."""
  return subprocess.run(command(path, *args), capture_output=True, text=True, timeout=300, cwd=cwd or ROOT,
                        env=environment(devices))


def metrics(workdir):
  return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
