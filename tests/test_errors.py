"""Errors: one short printable line, and an exit code for every end."""

import os
import subprocess
import sys

import pytest

from jaxdistill import errors
from jaxdistill.errors import LONGEST, ConfigError, foreign, run_command
from tests.helpers import runs


@pytest.mark.parametrize(
  "text",
  [
    "a" * 5000,
    f"workdir /{'deep/' * 200}run cannot be written: choose another",
    f"method.stages must be none of {['stage1'] * 200}: take others",
  ],
)
def test_a_message_keeps_its_ends(text):
  told = str(ConfigError(text))
  assert len(told) <= LONGEST and "..." in told
  assert told[:12] == text[:12] and told[-12:] == text[-12:]


def test_the_words_around_a_long_path_stay():
  told = str(ConfigError(f"the file /{'deep/' * 200}a.npz is damaged: {'why ' * 30}"))
  assert told.startswith("the file /deep/") and "/a.npz is damaged: why" in told


def test_a_message_is_one_printable_line():
  told = str(ConfigError("one\ntwo\x1b[31m three\0 \ud800 ü 日本"))
  assert told == r"one two\x1b[31m three\x00 \ud800 ü 日本"
  told.encode()


def test_code_from_elsewhere_ends_in_one_line():
  for error in (ValueError("first\nsecond"), SystemExit("gone")):
    with (
      pytest.raises(ConfigError, match="^theirs: .*: --debug shows where$") as caught,
      foreign("theirs"),
    ):
      raise error
    assert "second" not in str(caught.value)
  with pytest.raises(KeyboardInterrupt), foreign("theirs"):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
  "error, code, said",
  [
    (KeyboardInterrupt(), 130, "jaxdistill: stopped: interrupted\n"),
    (
      OSError(28, "No space left on device", "/full/file"),
      4,
      "jaxdistill: error: /full/file: No space left on device\n",
    ),
    (
      MemoryError(),
      4,
      "jaxdistill: error: the host is out of memory: run with less, or elsewhere\n",
    ),
    (errors.Preempted("saved"), 75, "jaxdistill: stopped: saved\n"),
  ],
)
def test_every_end_has_a_code_and_a_line(capfd, error, code, said):
  def command():
    raise error

  assert run_command(command) == code
  assert capfd.readouterr().err == said


def test_an_error_of_the_program_keeps_its_traceback():
  def command():
    raise KeyError("a slip")

  with pytest.raises(KeyError):
    run_command(command)


def run_python(*args, path, stdout=subprocess.DEVNULL):
  return subprocess.run(
    [sys.executable, "-m", *args],
    stdout=stdout,
    stderr=subprocess.PIPE,
    text=True,
    timeout=60,
    cwd=path,
    env={**os.environ, "PYTHONPATH": f"{path}:{runs.ROOT}"},
  )


@pytest.mark.parametrize("module", [["jaxdistill.main"], ["jaxdistill", "train"]])
def test_an_interrupted_import_ends_quietly(tmp_path, module):
  """The import is of a module in JAX's place that interrupts its own process."""
  (tmp_path / "jax.py").write_text("import os, signal\nos.kill(os.getpid(), 2)\n")
  config = str(runs.ROOT / "configs" / "digits_competitive.py")
  result = run_python(*module, f"--config={config}", path=tmp_path)
  assert result.returncode == 130
  assert result.stderr == "jaxdistill: stopped: interrupted\n"


def test_a_reader_that_goes_away_ends_a_command_quietly(tmp_path):
  read, write = os.pipe()
  os.close(read)
  result = run_python("jaxdistill", path=tmp_path, stdout=write)
  os.close(write)
  assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_to_a_full_disk_ends_in_one_line(tmp_path):
  with open("/dev/full", "w") as full:
    result = run_python("jaxdistill", path=tmp_path, stdout=full)
  assert result.returncode == 4
  said = "jaxdistill: error: input or output: No space left on device\n"
  assert result.stderr == said
