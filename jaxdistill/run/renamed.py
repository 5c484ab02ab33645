"""Finds keys of earlier versions, and of components that were renamed by hand."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from jaxdistill.core import registry
from jaxdistill.run.keys import REQUIRED, Key
from jaxdistill.run.sections import COMPONENTS, ConfigDict

RENAMED = {
  "augment.padding": "it is augment.pad_crop.padding now",
  "augment.mode": "it is augment.pad_crop.mode now",
  "augment.flip": "it is the operation hflip of augment.ops now",
  "augment.cutout": "add cutout to augment.ops and set augment.cutout.side",
}
"""Key of an earlier version -> what stands for it now."""


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a configuration as this version writes it.

  Args:
    config: a configuration, as it is in the `config.json` of this version or of an
      earlier one.
  """
  section = config.get("augment")
  if not isinstance(section, Mapping) or not {"padding", "mode"} <= section.keys():
    return dict(config)
  strengths = {"padding": section["padding"], "mode": section["mode"]}
  upgraded_section = {"ops": ["pad_crop"], "pad_crop": strengths}
  if section.get("flip"):
    upgraded_section["ops"].append("hflip")
    upgraded_section["hflip"] = {"probability": 0.5}
  if section.get("cutout"):
    upgraded_section["ops"].append("cutout")
    upgraded_section["cutout"] = {"side": section["cutout"]}
  return {**config, "augment": upgraded_section}


class _Section(NamedTuple):
  """A section that names components.

  Attributes:
    kinds: of its components.
    names: of its components.
    constructor: what a config file writes to have all of its keys.
  """

  kinds: tuple[str, ...]
  names: tuple[str, ...]
  constructor: str


def renamed_sections(
  config: ConfigDict, known: Mapping[str, Key], given: Collection[str]
) -> dict[str, str]:
  """Returns section -> a line about the keys of another component that it has.

  Args:
    config: a configuration.
    known: dotted name -> key, of all that it may have.
    given: dotted names of all that it has.
  """
  lines = {}
  for path, section in _sections(config).items():
    foreign = []
    for name in given:
      parent, _, leaf = name.rpartition(".")
      if parent == path and name not in known and _is_builtin(section.kinds, leaf):
        foreign.append(leaf)
    lacking = []
    for name, key in known.items():
      parent, _, leaf = name.rpartition(".")
      has_default = key.default is not REQUIRED
      if parent == path and name not in given and has_default:
        lacking.append(leaf)
    if foreign:
      lines[path] = _describe(path, section, foreign, lacking)
  return lines


def _sections(config: ConfigDict) -> dict[str, _Section]:
  """Returns path -> section, of those that name components."""
  found = {}
  for path, kind in COMPONENTS.items():
    name = config[path].name
    found[path] = _Section((kind,), (name,), f"component({kind!r}, {name!r})")
  names = (config.optimizer.name, config.optimizer.schedule)
  found["optimizer"] = _Section(
    ("optimizers", "schedules"), names, f"optimizer({names[0]!r}, {names[1]!r})"
  )
  for group, section in config.cohort.items():
    found[f"cohort.{group}"] = _Section(
      ("models",), (section.model,), f"group({section.model!r})"
    )
  return found


def _is_builtin(kinds: Collection[str], leaf: str) -> bool:
  """Whether a built-in component of these kinds has a keyword of that name."""
  for kind in kinds:
    for name in registry.list_available(kind):
      if leaf in registry.keywords(kind, name):
        return True
  return False


def _describe(
  path: str, section: _Section, foreign: list[str], lacking: list[str]
) -> str:
  """Returns the line about one section."""
  line = f"{path} names {' and '.join(section.names)}, but has {_few(foreign)}"
  if lacking:
    line += f" and lacks {_few(lacking)}"
  return (
    f"{line}: in a config file write config.{path} = {section.constructor}, which "
    "brings the keys along"
  )


def _few(names: list[str]) -> str:
  """Returns the first names of a list, and how many more there are."""
  shown = ", ".join(names[:3])
  more = len(names) - 3
  return f"{shown} and {more} more" if more > 0 else shown
