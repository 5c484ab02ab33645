"""Trains one config on more devices and in more processes, and compares.

    python benchmarks/devices.py --config=configs/digits_competitive.py --steps=60
    python benchmarks/devices.py --variants=1x1,1x4,2x2,4x1

A variant is processes x devices of each. They are CPUs of this machine, which all share
its processors: the times tell what splitting a step costs, not what more devices gain.
The table gives the largest difference of a weight from the first variant, that of a
metric in any line, and the milliseconds of a step with their ratio.
`--config.key=value` overrides the config.
"""

import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import tempfile

from absl import app, flags
import jax
import numpy as np

from jaxdistill.run import checkpoint, hosts
from jaxdistill.run.logs import TIMING

_CONFIG = flags.DEFINE_string(
  "config", "configs/digits_competitive.py", "Config that is trained."
)
_VARIANTS = flags.DEFINE_list(
  "variants",
  ["1x1", "1x2", "1x4", "1x8", "2x1", "2x2", "4x1"],
  "processes x devices of each.",
)
_STEPS = flags.DEFINE_integer("steps", 60, "Steps of a run.")


def free_port():
  """Returns a port that nobody uses."""
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]


def train(variant, workdir, changes):
  """Runs a config in so many processes, each with so many devices."""
  processes, devices = map(int, variant.split("x"))
  address = f"127.0.0.1:{free_port()}"
  command = [
    *(sys.executable, "-m", "jaxdistill.main", f"--config={_CONFIG.value}"),
    *(f"--workdir={workdir}", f"--config.steps={_STEPS.value}"),
    *("--config.log_every=10 steps", "--config.eval_every=100%"),
    *changes,
  ]
  started = []
  for index in range(processes):
    own = {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
      hosts.ADDRESS: address,
      hosts.PROCESSES: str(processes),
      hosts.PROCESS: str(index),
    }
    started.append(
      subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | own)
    )
  codes = [process.wait() for process in started]
  if any(codes):
    raise SystemExit(f"{variant} ended with the codes {codes}")


def weights(workdir):
  """Returns all weights of the last checkpoint, in one row."""
  last = sorted((workdir / "checkpoints").iterdir())[-1]
  tree, _ = checkpoint.load(last)
  leaves = jax.tree.leaves(
    {name: group["params"] for name, group in tree["cohort"].items()}
  )
  return np.concatenate([np.ravel(leaf) for leaf in leaves])


def metrics(workdir):
  """Returns all numbers of the metrics, in one row, without times."""
  numbers = []
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    for key, value in json.loads(line).items():
      if isinstance(value, float) and key not in TIMING:
        numbers.append(value)
  return np.array(numbers)


def milliseconds(workdir, batch_size):
  """Returns those of a step, by the speed of the last training line."""
  speeds = []
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    speed = json.loads(line).get("images_per_second")
    if speed:
      speeds.append(speed)
  return 1e3 * batch_size / speeds[-1]


def main(argv):
  changes = argv[1:]
  print(
    f"{'processes x devices':20} {'weights differ by':>18} {'metrics by':>11} "
    f"{'ms/step':>8} {'ratio':>6}"
  )
  first = None
  with tempfile.TemporaryDirectory() as folder:
    for variant in _VARIANTS.value:
      workdir = Path(folder) / variant
      train(variant, workdir, changes)
      record = json.loads((workdir / "config.json").read_text())
      ms = milliseconds(workdir, record["config"]["batch_size"])
      found = (weights(workdir), metrics(workdir), ms)
      first = first or found
      print(
        f"{variant:20} {np.abs(found[0] - first[0]).max():18.2g} "
        f"{np.abs(found[1] - first[1]).max():11.2g} {ms:8.1f} {ms / first[2]:6.2f}",
        flush=True,
      )


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: flags.FLAGS(argv, known_only=True))
