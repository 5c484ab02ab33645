"""The scripts of `launch/`, started with programs that stand for what is not here."""

import os
from pathlib import Path
import subprocess
import time

from jaxdistill.errors import JaxdistillError
from tests.helpers import runs

LAUNCH = runs.ROOT / "launch"
FAKES = Path(__file__).parent / "fakes"
PROGRAM = str(FAKES / "program")

RETRIED = {75, 82}
"""Codes of runs that go on when they are started again."""


def all_codes():
  """The exit codes of the library's errors."""
  kinds = [JaxdistillError]
  for kind in kinds:
    kinds += kind.__subclasses__()
  return {kind.exit_code for kind in kinds}


class Play:
  """A folder in which the fake programs read what to do and record what was done."""

  def __init__(self, folder, *plan):
    """Takes the folder, and a line for each start: a word for each process."""
    self.folder = folder
    self.write("plan", *plan)

  def write(self, name, *lines):
    (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

  def read(self, name):
    """The lines of a record, none if there is none."""
    path = self.folder / name
    if not path.exists():
      return []
    return path.read_text().splitlines()

  def told(self, process):
    """What a process was told by its last start: (key -> value, arguments)."""
    keys = {}
    arguments = []
    for line in self.read(f"told{process}"):
      key, _, value = line.partition("=")
      if key == "argument":
        arguments.append(value)
      else:
        keys[key] = value
    return keys, arguments

  def starts(self, process=0):
    return len(self.read(f"process{process}"))

  def start(self, script, *arguments, **variables):
    """Starts a script of `launch/`, with the fake programs before all others."""
    environment = {
      **os.environ,
      "PATH": f"{FAKES}:{os.environ['PATH']}",
      "PLAY": str(self.folder),
      "JAXDISTILL_PROGRAM": PROGRAM,
      "JAX_PLATFORMS": "cpu",
      **variables,
    }
    return subprocess.Popen(
      ["bash", str(LAUNCH / script), *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=runs.ROOT,
      env=environment,
    )

  def run(self, script, *arguments, **variables):
    """Runs a script to its end; returns its exit code and what it said to stderr."""
    process = self.start(script, *arguments, **variables)
    try:
      _, said = process.communicate(timeout=20)
    finally:
      process.kill()
    return process.returncode, said

  def wait_until_ready(self, count):
    """Waits until so many processes wait for a signal."""
    deadline = time.monotonic() + 20
    while len(self.read("ready")) < count:
      assert time.monotonic() < deadline, "the processes do not start"
      time.sleep(0.01)

  def left(self):
    """Processes of the fake program, and their children, that have not ended."""
    names = ["children"]
    for path in self.folder.glob("process*"):
      names.append(path.name)
    left = []
    for name in names:
      for pid in self.read(name):
        if is_running(int(pid)):
          left.append(int(pid))
    return left


def is_running(pid):
  """Whether there is such a process, and it has not ended."""
  try:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except OSError:
    return False
  return state != "Z"
