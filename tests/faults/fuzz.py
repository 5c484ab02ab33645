"""Random faults, any number of them: damage and kills, with a seed.

python -m tests.faults.fuzz --kills=50 --mutations=1000 --inputs=1000 --weights=1000 \
    --configs=3000 --hosts=20
"""

import argparse
from pathlib import Path
import sys
import tempfile
import time

from tests.helpers import settings

settings.apply(devices=1)

from tests.faults import checkpoints, configs, inputs, kills  # noqa: E402

HARNESSES = {
  "kills": (kills.fuzz, "runs killed with SIGKILL, resumed, compared bit for bit"),
  "hosts": (kills.fuzz_hosts, "signals to, and kills of, runs of two processes"),
  "mutations": (checkpoints.fuzz, "damaged files of checkpoints"),
  "inputs": (inputs.fuzz_data, "damaged files of data sets, in every layout"),
  "weights": (inputs.fuzz_weights, "damaged files of published weights"),
  "configs": (configs.fuzz, "configs that are wrong, or merely odd"),
}


def main() -> int:
  """Runs the harnesses that are given a number; returns 1 if one found a wrong end."""
  parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz")
  for name, (_, meaning) in HARNESSES.items():
    parser.add_argument(f"--{name}", type=int, default=0, help=f"number of {meaning}")
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args()
  wrong = 0
  for name, (fuzz, _) in HARNESSES.items():
    count = getattr(flags, name)
    if not count:
      continue
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
      verdict = fuzz(count, flags.seed, Path(directory))
    seconds = time.perf_counter() - start
    print(f"{name}: {count} in {seconds:.0f} s: {verdict}", flush=True)
    wrong += len(verdict.wrong)
  return 1 if wrong else 0


if __name__ == "__main__":
  sys.exit(main())
