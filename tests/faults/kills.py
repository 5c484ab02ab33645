"""Runs that are killed at random moments end with the bits of one that is not."""

from pathlib import Path
import signal
import time

import numpy as np

from tests.faults.mutations import Verdict
from tests.helpers import processes, runs


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


def fuzz_hosts(count: int, seed: int, directory: Path) -> Verdict:
  """Ends one of two processes, `count` times in all, with SIGTERM or SIGKILL.

  Both have to end within seconds, and the run goes on to the bits of one process with
  two devices. Which process, signal and moment it is follows from the seed.
  """
  rng = np.random.default_rng(seed)
  config = runs.write_config(directory, *runs.WILD)
  whole = directory / "whole"
  assert runs.run(config, f"--workdir={whole}", devices=2).returncode == 0
  verdict = Verdict()
  done = 0
  number = 0
  while done < count:
    workdir = directory / f"hosts{number}"
    number += 1
    for _ in range(min(int(rng.integers(1, 5)), count - done)):
      done += 1
      verdict.read(
        f"signal {done}", lambda w=workdir: _end_one(config, w, rng), lambda _: ""
      )

    def finish(workdir=workdir):
      ended = processes.run(config, f"--workdir={workdir}")
      assert [process.code for process in ended] == [0, 0], ended
      runs.assert_same_run(whole, workdir)

    verdict.read(f"run {number}", finish, lambda _: "")
  return verdict


def _end_one(config: Path, workdir: Path, rng: np.random.Generator) -> None:
  """Signals one of two processes at a random step; checks how both end."""
  signals = (signal.SIGTERM, signal.SIGKILL)
  chosen = signals[rng.integers(2)]
  victim = int(rng.integers(2))
  step = runs.logged_step(workdir) + int(rng.integers(0, 4))
  delay = float(rng.uniform(0, 0.3))
  command = runs.command(config, f"--workdir={workdir}")
  # When it is there again, both have met.
  (workdir / "LOCK").unlink(missing_ok=True)
  with processes.Group([command] * 2) as group:

    def is_there() -> bool:
      codes = [process.poll() for process in group.processes]
      over = any(code is not None for code in codes)
      started = (workdir / "LOCK").exists()
      return over or (started and runs.logged_step(workdir) >= step)

    group.wait_until(is_there)
    time.sleep(delay)
    group.send(victim, chosen)
    since = time.perf_counter()
    ended = group.ends()
    seconds = time.perf_counter() - since
  codes = {process.code for process in ended}
  allowed = {0, 75}
  if chosen == signal.SIGKILL:
    # It may have been at its end.
    allowed = {0, 82, -signal.SIGKILL, -signal.SIGABRT}
    # Up to 28 where they save, and a busy machine takes longer.
    assert seconds < 45, seconds
  assert codes <= allowed, ended
