"""Several processes of one run on this machine, each with one CPU device."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import NamedTuple

import numpy as np

from jaxdistill.data import Dataset, digits
from jaxdistill.run import hosts, trainer
from tests.helpers import runs

ODD_DATA = "TEST_ODD_DATA"
"""Environment variable: `data` has another label there."""

FAILING_EPOCH = "TEST_FAILING_EPOCH"
"""Environment variable: the epoch, from 0, at whose beginning a process fails there."""


def data() -> Dataset:
  """The digits, in a process that SIGUSR1 makes stand still.

  Other processes have another label in it if `ODD_DATA` is set, and fail where
  `FAILING_EPOCH` says.
  """
  signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1000))
  if FAILING_EPOCH in os.environ:
    _fail_at(int(os.environ[FAILING_EPOCH]))
  found = digits.digits()
  if ODD_DATA in os.environ:
    label = np.array(found.train.label)
    label[5] = (label[5] + 1) % 10
    found = found._replace(train=found.train._replace(label=label))
  return found


def _fail_at(failing: int) -> None:
  """Makes this process fail where an epoch begins."""
  draw = trainer._Runner._epoch_order

  def draw_or_fail(self, state, epoch):
    if epoch == failing:
      raise RuntimeError("no order can be drawn")
    return draw(self, state, epoch)

  trainer._Runner._epoch_order = draw_or_fail


class Ended(NamedTuple):
  """A process that has ended: its exit code, and what it said."""

  code: int
  out: str
  err: str

  @property
  def last(self) -> str:
    """The last line on stderr that is this package's."""
    lines = [line for line in self.err.splitlines() if line.startswith("jaxdistill: ")]
    return lines[-1] if lines else ""


def free_port() -> int:
  """A port that nobody uses."""
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]


class Group:
  """Processes that run `python -m ...` together; killed when the block ends."""

  def __init__(
    self,
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]] = (),
    number: int | None = None,
  ):
    """Starts them; what they print goes to pipes that are read when they end.

    Args:
      commands: command line of each.
      environments: variables of each, besides those of the tests.
      number: of processes that are to meet; None is that of the commands.
    """
    address = f"127.0.0.1:{free_port()}"
    self.processes = []
    for index, command in enumerate(commands):
      own = environments[index] if environments else {}
      environment = {
        **runs.environment(),
        hosts.ADDRESS: address,
        hosts.PROCESSES: str(number or len(commands)),
        hosts.PROCESS: str(index),
        **own,
      }
      # JAX takes SIGTERM for itself: only SIGKILL ends one that hangs.
      process = subprocess.Popen(
        ["timeout", "-s", "KILL", "560", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=runs.ROOT,
        env=environment,
      )
      self.processes.append(process)
    self.address = address

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    for index, process in enumerate(self.processes):
      with contextlib.suppress(ProcessLookupError):
        self.send(index, 9)
      process.kill()

  def send(self, index: int, number: int) -> None:
    """Sends a signal to one of them, not to the `timeout` around it."""
    parent = self.processes[index].pid
    children = subprocess.run(
      ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    )
    for pid in children.stdout.split():
      subprocess.run(["kill", f"-{number}", pid], check=False)

  def wait_until(self, condition: Callable[[], bool]) -> None:
    """Waits for something that they do; fails if one of them ends before."""
    deadline = time.time() + 200
    while not condition():
      for process in self.processes:
        assert process.poll() is None, process.communicate()
      assert time.time() < deadline
      time.sleep(0.005)

  def wait_for(self, text: str) -> list[str]:
    """Waits until the first process has printed a line with a text.

    Its output has to be unbuffered.

    Returns:
      What it has printed until then, which is no part of what `ends` returns.
    """
    lines = []
    for line in self.processes[0].stdout:
      lines.append(line)
      if text in line:
        return lines
    raise AssertionError(self.processes[0].communicate())

  def ends(self, *indices: int, timeout: float = 520) -> list[Ended]:
    """Waits until those of some numbers, or all, have ended."""
    deadline = time.time() + timeout
    ended = []
    for index in indices or range(len(self.processes)):
      process = self.processes[index]
      left = max(deadline - time.time(), 0.1)
      out, err = process.communicate(timeout=left)
      ended.append(Ended(process.returncode, out, err))
    return ended


def run(config, *args: str, number: int = 2, devices: int = 1) -> list[Ended]:
  """Trains from a config file in several processes; returns them when they ended.

  Args:
    config: path of the config file.
    *args: of the command line.
    number: of processes.
    devices: number of devices of each.
  """
  command = runs.command(config, *args)
  flags = {"XLA_FLAGS": runs.environment(devices)["XLA_FLAGS"]}
  with Group([command] * number, [flags] * number) as group:
    return group.ends()
