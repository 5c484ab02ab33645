"""Overrides of a config on the command line: `key.of.a.section=value`.

Those that take a group out of the cohort or add one come first, then those that name
another component, as they bring its keys along; the others then set keys, each to a
value of the key's type.
"""

import ast
from collections.abc import Iterable, Mapping
import re
from typing import Any

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError, naming, require
from jaxdistill.run.keys import Key, with_type
from jaxdistill.run.renamed import RENAMED
from jaxdistill.run.sections import (
  COMPONENTS,
  POOLS,
  ConfigDict,
  augmentation,
  new_group,
  operation,
  operation_keys,
  optimizer_keys,
  section_keys,
  switch_component,
  switch_network,
  switch_operations,
  switch_optimizer,
)

_NAMES = re.compile(
  r"(data|method)\.name"
  r"|cohort\.[^.]+\.model"
  r"|(cohort\.[^.]+\.)?optimizer\.(name|schedule)"
  r"|perturb\.ops"
  r"|augment\.(ops|recipe)"
)

_GROUP = re.compile(r"cohort\.[^.]+")
_GROUP_NAME = re.compile(r"\w[\w-]*")

# How people write what Python writes differently, or not at all.
_WORDS = {
  "true": True,
  "false": False,
  "nan": float("nan"),
  "inf": float("inf"),
  "-inf": float("-inf"),
}

# What Python's parser raises for texts that are no literals, or nested too deeply.
_UNREADABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


def apply_overrides(config: ConfigDict, assignments: Iterable[str]) -> None:
  """Applies `key.of.a.section=value` assignments.

  `cohort.<group>=none` takes a group out, `cohort.<group>.model=<name>` adds one where
  there is none of that name.

  Raises:
    ConfigError: for an unknown key, naming the nearest one, or a value of another type.
  """
  groups = []
  names = []
  values = []
  for assignment in assignments:
    key, equals, text = assignment.partition("=")
    require(bool(equals), f"{assignment!r} is not of the form key=value")
    if _GROUP.fullmatch(key):
      groups.append((key, text))
    elif _NAMES.fullmatch(key):
      names.append((key, text))
    else:
      values.append((key, text))

  if groups or names:
    # What is to be replaced must be there.
    section_keys(config)
  for key, text in groups:
    _remove_group(config, key, text)
  for key, text in names:
    _add_group(config, key, text)
  for key, text in names:
    _choose(config, key, text)
  known = known_keys(config)
  for key, text in values:
    require(key in known, unknown(key, known))
    section, leaf = _find(config, key)
    section[leaf] = parse(key, text, known[key].example)


def known_keys(config: ConfigDict) -> dict[str, Key]:
  """Returns the keys that overrides may set, by their dotted names."""
  of_components = section_keys(config)
  sections = {key.partition(".")[0] for key in of_components}
  known = {}
  for name, value in flatten(config).items():
    # Of the other keys, those that are there, with their values as examples.
    if name.partition(".")[0] not in sections:
      known[name] = Key(name, value)
  return known | of_components


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
  """Returns dotted key -> value; tuples become lists, as in JSON."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, (dict, ConfigDict)):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = _plain(value)
  return flat


def _plain(value: Any) -> Any:
  """Returns a tuple, and those in it, as lists."""
  if isinstance(value, (tuple, list)):
    return [_plain(part) for part in value]
  return value


def _find(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
  """Returns the section that a known key is in, and its name there."""
  *path, leaf = key.split(".")
  section = config
  for part in path:
    section = section[part]
  return section, leaf


# Groups of the cohort.


def _remove_group(config: ConfigDict, key: str, text: str) -> None:
  """Takes a group out of the cohort.

  Raises:
    ConfigError: if there is no such group, or the text is another than "none".
  """
  name = key.removeprefix("cohort.")
  groups = config.cohort.keys()
  require(
    name in groups, f"the cohort has no group {name!r}{registry.nearest(name, groups)}"
  )
  require(text.lower() == "none", unknown(key, known_keys(config)))
  del config.cohort[name]


def _add_group(config: ConfigDict, key: str, text: str) -> None:
  """Adds a group to the cohort if the key is the model of one that is not there.

  Raises:
    ConfigError: for a name that a group cannot have, or an unknown model.
  """
  match key.split("."):
    case ["cohort", name, "model"] if name not in config.cohort:
      require(
        bool(_GROUP_NAME.fullmatch(name)),
        f"{key}: {name!r} cannot be a group: its name is letters, digits, _ and -",
      )
      with naming(key):
        config.cohort[name] = ConfigDict(new_group(text))


# Names of components.


def _choose(config: ConfigDict, key: str, text: str) -> None:
  """Puts another component in the place of one that the config names.

  Raises:
    ConfigError: if there is no such component.
  """
  match key.split("."):
    case ["cohort", name, *_] if name not in config.cohort:
      raise ConfigError(unknown(key, known_keys(config)))
    case ["cohort", name, "model"]:
      group = config.cohort[name]
      if text != group.model:
        with naming(key):
          config.cohort[name] = ConfigDict(switch_network(group, text))
    case ["cohort", name, "optimizer", part]:
      config.cohort[name].optimizer[part] = text
      _drop_foreign(config, name)
    case ["optimizer", part]:
      names = {"name": config.optimizer.name, "schedule": config.optimizer.schedule}
      names[part] = text
      config.optimizer = ConfigDict(switch_optimizer(config.optimizer, **names))
      for name in config.cohort:
        _drop_foreign(config, name)
    case ["augment", "recipe"]:
      config.augment = augmentation(text)
    case [section, "ops"]:
      _choose_operations(config, section, text)
    case [section, "name"]:
      if text != config[section].name:
        with naming(key):
          switched = switch_component(config[section], COMPONENTS[section], text)
        config[section] = ConfigDict(switched)


def _drop_foreign(config: ConfigDict, name: str) -> None:
  """Drops the keys of a group that an optimiser chosen in its place does not have."""
  own = config.cohort[name].optimizer
  allowed = optimizer_keys(
    own.get("name", config.optimizer.name),
    own.get("schedule", config.optimizer.schedule),
    section=f"cohort.{name}.optimizer",
  )
  for key in list(own):
    if key not in allowed:
      del own[key]


def _choose_operations(config: ConfigDict, section: str, text: str) -> None:
  """Chooses another pool: `mixup,my_lab.ops:fog(density=0.3)`."""
  ops = []
  strengths = {}
  for entry in _entries(text):
    op, keywords = _parse_operation(section, entry)
    ops.append(op)
    strengths[operation(op)] = keywords
  keys = operation_keys(section, ops)
  config[section] = ConfigDict(switch_operations(section, config[section], ops))
  for name, keywords in strengths.items():
    for keyword, value in keywords.items():
      key = f"{section}.{name}.{keyword}"
      require(
        keyword in keys[name],
        f"unknown key {key!r}{registry.nearest(keyword, keys[name])}",
      )
      example = keys[name][keyword].example
      config[section][name][keyword] = with_type(key, value, example)


def _entries(text: str) -> list[str]:
  """Splits a list at its commas outside of brackets; a Python tuple will do as well."""
  value = _literal(text)
  if isinstance(value, (tuple, list)):
    return [str(part) for part in value]
  entries = [""]
  depth = 0
  for character in text:
    depth += character in "(["
    depth -= character in ")]"
    if character == "," and not depth:
      entries.append("")
    else:
      entries[-1] += character
  return [entry.strip() for entry in entries if entry.strip()]


def _parse_operation(section: str, entry: str) -> tuple[str, dict[str, Any]]:
  """Returns the name of an operation and the keywords behind it in brackets.

  Args:
    section: that it is for.
    entry: of the list.

  Raises:
    ConfigError: if they are not of the form key=value.
  """
  name, bracket, arguments = entry.partition("(")
  if not bracket:
    return name, {}
  keywords = {}
  try:
    call = ast.parse(f"operation({arguments}", mode="eval").body
    if not isinstance(call, ast.Call) or call.args:
      raise ValueError("no keywords")
    for keyword in call.keywords:
      keywords[str(keyword.arg)] = ast.literal_eval(keyword.value)
  except _UNREADABLE as error:
    raise ConfigError(
      f"{section}.ops: {entry!r} is not of the form name(key=value, ...)"
    ) from error
  return name.strip(), keywords


# Values.


def parse(key: str, text: str, example: Any) -> Any:
  """Returns the value that a text stands for.

  Args:
    key: its name, for the error.
    text: from the command line.
    example: a value of the key's type.

  Raises:
    ConfigError: if it is of another type.
  """
  if isinstance(example, str):
    return text
  value = _literal(text)
  if isinstance(example, (tuple, list)) and not isinstance(value, (tuple, list)):
    value = tuple(part.strip() for part in text.split(",") if part.strip())
  return with_type(key, value, example)


def _literal(text: str) -> Any:
  """Returns what a text is in Python, or the text itself."""
  try:
    return ast.literal_eval(text)
  except _UNREADABLE:
    return _WORDS.get(text.lower(), text)


# Unknown keys.


def unknown(key: str, known: Mapping[str, Key]) -> str:
  """Returns the line that refuses an unknown key, with what was probably meant."""
  return f"unknown key {key!r}{_hint(key, known)}"


def _hint(key: str, known: Mapping[str, Key]) -> str:
  """Returns what was probably meant, or what there is."""
  section, _, leaf = key.rpartition(".")
  below = _below(key, known)
  siblings = [name for name in known if name.rpartition(".")[0] == section]

  # A section is not a value; its first key is the name of its component.
  if below:
    hint = f": it is a section; did you mean {below[0]!r}?"
    if _GROUP.fullmatch(key):
      hint += f" {key}=none takes the group out"
    return hint

  # The model of a new group adds it.
  match key.split("."):
    case ["cohort", group, _, *_] if not _below(f"cohort.{group}", known):
      found = registry.nearest(key, known)
      return f"{found} cohort.{group}.model=<name> adds a group"

  # A key of an earlier version.
  if key in RENAMED:
    return f": {RENAMED[key]}"

  # An operation that is not in the pool has no keys.
  pool, _, op = section.partition(".")
  if pool in POOLS and operation(op) in registry.list_available(pool):
    return f": {op} is not in the pool: add it to {pool}.ops"

  # The section may be left out.
  meant = registry.SYNONYMS.get(leaf, leaf)
  if not section and meant in _leaves(known):
    return f"; did you mean {_shallowest(meant, known)!r}?"

  found = registry.closest(leaf, _leaves(siblings))
  if found:
    return f"; did you mean {_join(section, found)!r}?"
  found = registry.closest(leaf, _leaves(known))
  if found and not section:
    return f"; did you mean {_shallowest(found, known)!r}?"
  return registry.nearest(key, siblings or known)


def _below(section: str, known: Iterable[str]) -> list[str]:
  """Returns the keys of a section."""
  return [name for name in known if name.startswith(f"{section}.")]


def _join(section: str, leaf: str) -> str:
  return f"{section}.{leaf}" if section else leaf


def _leaves(keys: Iterable[str]) -> list[str]:
  """Returns the last parts of dotted names."""
  return [key.rpartition(".")[2] for key in keys]


def _shallowest(leaf: str, known: Mapping[str, Key]) -> str:
  """Returns the key of that last part with the fewest sections around it."""
  found = [key for key in known if key.rpartition(".")[2] == leaf]
  return min(found, key=lambda key: key.count("."))
