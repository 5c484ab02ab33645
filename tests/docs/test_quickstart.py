"""The quickstart can be followed from top to bottom."""

import subprocess
import sys

import pytest

from tests.docs import pages
from tests.helpers import runs

PAGE = runs.ROOT / "docs" / "quickstart.md"
TRAINING = ("train", "study")


def steps_of_the_page():
  """Arguments of its commands that want no data of the reader's."""
  for command in pages.commands(PAGE):
    wants_data = "--config.data.dir=DIR" in command.arguments
    if command.module == "jaxdistill" and command.arguments and not wants_data:
      yield command.arguments


def test_it_goes_from_training_to_a_prediction():
  words = [arguments[0] for arguments in steps_of_the_page()]
  assert words[0] == "train"
  assert {"report", "evaluate", "study", "predict", "export"} <= set(words)


@pytest.mark.slow
def test_all_commands_run_in_their_order(workplace):
  pages.run(PAGE, workplace)
  said = {}
  for arguments in steps_of_the_page():
    # The page's runs, but short ones.
    short = ["--config.steps=20"] if arguments[0] in TRAINING else []
    result = subprocess.run(
      [sys.executable, "-m", "jaxdistill", *arguments, *short],
      capture_output=True,
      text=True,
      env=runs.environment(),
      # A study compiles every row; on a slow machine that takes minutes.
      timeout=900,
    )
    assert result.returncode == 0, (arguments, result.stderr)
    said[arguments[0]] = result.stdout
  assert "zero.png" in said["predict"]
  for file in ("runs/digits/report.html", "runs/study/report.html"):
    assert (workplace / file).stat().st_size > 0
  assert (workplace / "runs/digit.safetensors").stat().st_size > 0
