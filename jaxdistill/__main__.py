"""The commands: `python -m jaxdistill COMMAND ...`; alone it lists them.

Where the package is installed, `jaxdistill COMMAND ...` is the same.
"""

from collections.abc import Callable
import sys
from typing import NamedTuple

from jaxdistill.core.registry import nearest
from jaxdistill.errors import ConfigError, run_command
from jaxdistill.run import kept_memory


class Command(NamedTuple):
  """A command.

  Attributes:
    main: imports and runs it with the arguments after its name; returns the exit code.
    summary: what it does, a line.
  """

  main: Callable[[list[str]], int]
  summary: str


def _train(argv: list[str]) -> int:
  from jaxdistill import main

  return main.main(argv)


def _models(argv: list[str]) -> int:
  from jaxdistill.tools import models

  return models.main(argv)


def _perturbations(argv: list[str]) -> int:
  from jaxdistill.tools import sheet

  return sheet.main("perturbations", argv)


def _augmentations(argv: list[str]) -> int:
  from jaxdistill.tools import sheet

  return sheet.main("augmentations", argv)


def _configs(argv: list[str]) -> int:
  from jaxdistill.tools import configs

  return configs.main(argv)


def _keys(argv: list[str]) -> int:
  from jaxdistill.tools import keys

  return keys.main(argv)


def _study(argv: list[str]) -> int:
  from jaxdistill.tools import study

  return study.main(argv)


def _report(argv: list[str]) -> int:
  from jaxdistill.tools import report

  return report.main(argv)


def _aot(argv: list[str]) -> int:
  from jaxdistill.tools import aot

  return aot.main(argv)


def _prepare(argv: list[str]) -> int:
  from jaxdistill.tools import prepare

  return prepare.main(argv)


def _evaluate(argv: list[str]) -> int:
  from jaxdistill.tools import evaluate

  return evaluate.main(argv)


def _export(argv: list[str]) -> int:
  from jaxdistill.tools import export

  return export.main(argv)


def _predict(argv: list[str]) -> int:
  from jaxdistill.tools import predict

  return predict.main(argv)


COMMANDS = {
  "train": Command(
    _train, "train a cohort from a config file, as `python -m jaxdistill.main` does"
  ),
  "study": Command(_study, "run a grid of methods and seeds under one recipe"),
  "evaluate": Command(
    _evaluate, "measure a run or a member in full: calibration, classes, noise"
  ),
  "report": Command(
    _report, "write a study's or run's verdicts, tables and figures as a page"
  ),
  "export": Command(_export, "write one trained network as a file for others"),
  "predict": Command(_predict, "classify image files by a trained network"),
  "configs": Command(_configs, "list the config files that come with the package"),
  "models": Command(_models, "list the networks with parameters, work and features"),
  "keys": Command(_keys, "print all config keys with their defaults and meanings"),
  "prepare": Command(_prepare, "prepare folders of images for training"),
  "aot": Command(_aot, "compile for devices that are not there: memory, collectives"),
  "augmentations": Command(_augmentations, "draw what the augmentations do to images"),
  "perturbations": Command(_perturbations, "draw what the perturbations do to images"),
}


def usage() -> str:
  """Returns the list of commands."""
  lines = ["usage: python -m jaxdistill COMMAND ...   (COMMAND --help tells more)", ""]
  lines += [f"  {name:<15} {command.summary}" for name, command in COMMANDS.items()]
  return "\n".join(lines)


def _run(argv: list[str]) -> int:
  """Runs the command that is named; returns its exit code."""
  if not argv or argv[0] in ("-h", "--help"):
    print(usage())
    return 0
  name, *rest = argv
  if name not in COMMANDS:
    raise ConfigError(
      f"command line: there is no command {name!r}{nearest(name, COMMANDS)}"
    )
  return COMMANDS[name].main(rest)


def main(argv: list[str]) -> int:
  """Runs a command; returns the exit code."""
  # What a command imports, it imports in here: that can be interrupted as well.
  return run_command(lambda: _run(argv))


def script() -> int:
  """Runs `jaxdistill COMMAND ...`, which an installation has; returns the exit code."""
  kept_memory.restart_with_it()
  return main(sys.argv[1:])


if __name__ == "__main__":
  sys.exit(script())
