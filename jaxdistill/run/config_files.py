"""Finds a config or study by its path, or by its name if it comes with the package."""

import os
from pathlib import Path
import re
from typing import NamedTuple

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError

CONFIGS = "configs"
STUDIES = "studies"

_PACKAGE = Path(__file__).parent.parent
_NOUNS = {CONFIGS: "config file", STUDIES: "study"}
_LISTING = {
  CONFIGS: "python -m jaxdistill configs",
  STUDIES: "python -m jaxdistill study --help",
}


class ConfigFile(NamedTuple):
  """A config file or study, and what it is told.

  Attributes:
    path: of the file.
    argument: that its function is called with; None if there is none.
  """

  path: str
  argument: str | None

  @property
  def run_name(self) -> str:
    """What a folder with the runs of this file and argument is called."""
    name = Path(self.path).stem
    if self.argument:
      name += "-" + re.sub(r"[^\w.-]+", "-", self.argument)
    return name


def packaged_configs(folder: str = CONFIGS) -> dict[str, Path]:
  """Returns name -> file of the configs, or studies, that come with the package.

  Args:
    folder: `CONFIGS` or `STUDIES`. Both are links to the repository's folders; a wheel
      has the files themselves.
  """
  files = sorted((_PACKAGE / folder).glob("*.py"))
  return {path.stem: path for path in files}


def find_config(text: str, folder: str = CONFIGS) -> ConfigFile:
  """Returns the config file, or study, that the command line names.

  Args:
    text: a path, or the name of one that comes with the package; behind a colon may
      follow an argument. A colon may also belong to the path.
    folder: `CONFIGS` or `STUDIES`.

  Raises:
    ConfigError: if there is no such file, naming the nearest one.
  """
  if os.path.isfile(text):
    return ConfigFile(text, None)
  for position, character in enumerate(text):
    if character == ":" and os.path.isfile(text[:position]):
      return ConfigFile(text[:position], text[position + 1 :])

  name, colon, argument = text.partition(":")
  packaged = packaged_configs(folder)
  stem = name.removesuffix(".py")
  if stem in packaged:
    return ConfigFile(str(packaged[stem]), argument if colon else None)

  # There is no such file, whatever is taken for its name.
  file, ending, _ = text.partition(".py:")
  missing = f"{file}.py" if ending else text
  raise ConfigError(f"there is no {_NOUNS[folder]} {missing!r}{_hint(missing, folder)}")


def _hint(missing: str, packaged: str) -> str:
  """Returns which file was probably meant, or what lists those that there are."""
  folder, name = os.path.split(missing)
  stem = name.partition(":")[0].removesuffix(".py")
  suggestions = {name: name for name in packaged_configs(packaged)}
  if os.path.isdir(folder or os.curdir):
    for path in Path(folder).glob("*.py"):
      suggestions[path.stem] = str(path)
  found = registry.closest(stem, suggestions)
  if found:
    return f"; did you mean {suggestions[found]!r}?"
  return f"; {_LISTING[packaged]} lists those that come with the package"
