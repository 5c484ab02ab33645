"""Runs that are killed at random moments end with the bits of one that is not."""

from pathlib import Path
import signal

import numpy as np

from tests.faults.mutations import Verdict
from tests.helpers import runs


def fuzz(count: int, seed: int, directory: Path) -> Verdict:
  """Kills runs of the tiny config with SIGKILL, `count` times in all.

  One of the members diverges and is restarted.
  """
  rng = np.random.default_rng(seed)
  config = runs.write_config(directory, *runs.WILD)
  whole = directory / "whole"
  assert runs.run(config, f"--workdir={whole}").returncode == 0
  verdict = Verdict()
  killed = 0
  number = 0
  while killed < count:
    workdir = directory / f"killed{number}"
    number += 1
    for _ in range(min(int(rng.integers(1, 5)), count - killed)):
      step = int(rng.integers(1, 12))
      delay = float(rng.uniform(0, 0.06))
      code, _ = runs.start_and_signal(config, workdir, step, signal.SIGKILL, delay)
      if code == -signal.SIGKILL:
        killed += 1
    result = runs.run(config, f"--workdir={workdir}")

    def finish(result=result, workdir=workdir):
      assert result.returncode == 0, result.stderr
      runs.assert_same_run(whole, workdir)

    verdict.read(f"run {number}", finish, lambda _: "")
  return verdict
