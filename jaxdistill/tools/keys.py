"""Prints the reference of all config keys in Markdown: `python -m jaxdistill keys`."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import inspect
import re

from jaxdistill.core import registry
from jaxdistill.errors import run_command
from jaxdistill.inputs.augment import RECIPES
from jaxdistill.inputs.perturb import pool
from jaxdistill.optim import Chain
from jaxdistill.run.config import KEYS
from jaxdistill.run.keys import REQUIRED, Key, type_name
from jaxdistill.run.sections import (
  AUGMENT_KEYS,
  GROUP_KEYS,
  OPTIMIZER_KEYS,
  PERTURB_KEYS,
  component_keys,
  optimizer_keys,
  pool_keys,
)

_INTRODUCTION = """\
# Config keys

This page is printed by `python -m jaxdistill keys`.

A key is overridden on the command line with `--config.<key>=<value>`. A section that
names a component holds the keywords of that component's function, and no others: naming
another component (`--config.method.name=...`) brings its keys along.
`"package.module:function"` names a function of your own; its keyword-only arguments are
then the keys.

Durations are "500 steps", "2 epochs" or "30%" of the run.
"""

_COHORT = """
## The cohort: `cohort.<group>`

A group is some networks of one architecture. It also holds the keywords of its network,
and in `cohort.<group>.optimizer` the keys of the optimiser that differ for it. On the
command line, `--config.cohort.<group>.model=<name>` adds a group that is not there, and
`--config.cohort.<group>=none` takes one out.
"""

_AUGMENT = """
## Augmentation: `augment`

The keywords of an operation are in the subsection of its name: `augment.pad_crop.mode`.
They may be written behind it: `--config.augment.ops=pad_crop(padding=2),hflip`.
`--config.augment.recipe=<name>` puts the operations of a recipe in the place of all:
{recipes}.
"""

_PERTURB = """
## Perturbation: `perturb`

The keywords of an operation in the pool are in the subsection of its name, for one of
your own that of the function: `perturb.fog.density`. They may be written behind it:
`--config.perturb.ops=mixup,my_lab.ops:fog(density=0.3)`.
"""

_OPTIMIZER = """
## Optimiser: `optimizer`

These go with every optimiser and every schedule; beside them are the keywords of the
two that are named.
"""

# Kind -> title, the section that names it, and the prefix of its keys.
_COMPONENTS = {
  "methods": ("Methods", "`method.name`", "method."),
  "models": ("Networks", "`cohort.<group>.model`", "cohort.<group>."),
  "data": ("Data sets", "`data.name`", "data."),
  "augment": ("Augmentations", "an entry of `augment.ops`", "augment.<operation>."),
  "perturb": ("Perturbations", "an entry of `perturb.ops`", "perturb.<operation>."),
  "optimizers": ("Optimisers", "`optimizer.name`", "optimizer."),
  "schedules": ("Schedules", "`optimizer.schedule`", "optimizer."),
}

_ENTRY = re.compile(r"(\w+(?:, \w+)*): *(.*)")


def documented(docstring: str | None, section: str = "Args") -> dict[str, str]:
  """Returns the meaning of every argument that a docstring lists.

  Args:
    docstring: in Google's style; None has none.
    section: title of the list: "Args" or "Attributes".

  Returns:
    Name -> text in one line.
  """
  meanings = {}
  names = []
  inside = False
  for line in inspect.cleandoc(docstring or "").splitlines():
    indent = len(line) - len(line.lstrip())
    if not line.strip():
      continue
    if not indent:
      inside = line.strip() == f"{section}:"
      continue
    if not inside:
      continue
    entry = _ENTRY.fullmatch(line.strip())
    if indent == 2 and entry:
      names = entry[1].split(", ")
      meanings |= dict.fromkeys(names, entry[2])
    else:
      # The text goes on.
      for name in names:
        meanings[name] = f"{meanings[name]} {line.strip()}".strip()
  return meanings


def table(keys: Iterable[Key], meanings: Mapping[str, str], prefix: str = "") -> str:
  """Returns a Markdown table of keys.

  Args:
    keys: the rows.
    meanings: of those keys that do not tell theirs.
    prefix: of their names.
  """
  lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
  for key in keys:
    meaning = key.meaning or meanings.get(key.name, "")
    if key.allowed.text:
      meaning += f" ({key.allowed.text})"
    cells = (f"`{prefix}{key.name}`", _type(key), _default(key), meaning)
    escaped = [cell.replace("|", "\\|") for cell in cells]
    lines.append(f"| {' | '.join(escaped)} |")
  return "\n".join(lines)


def _type(key: Key) -> str:
  if key.default is REQUIRED:
    return type_name(key.annotation)
  return type(key.default).__name__


def _default(key: Key) -> str:
  if key.default is REQUIRED:
    return "(required)"
  return f"`{key.default!r}`"


def reference() -> str:
  """Returns the reference of all config keys."""
  optimizer = optimizer_keys(Chain().name, Chain().schedule)
  common = [*Chain._fields, *(key.name for key in OPTIMIZER_KEYS)]
  chain = [optimizer[name] for name in common]
  parts = [
    _INTRODUCTION,
    "## The run\n",
    table(KEYS, {}),
    _COHORT,
    table(GROUP_KEYS, {}, "cohort.<group>."),
    _AUGMENT.format(recipes=_recipes()),
    table(AUGMENT_KEYS, {}, "augment."),
    _PERTURB,
    table(_pool_keys(), documented(pool.make_perturb.__doc__), "perturb."),
    _OPTIMIZER,
    table(chain, documented(Chain.__doc__, "Attributes"), "optimizer."),
  ]
  for kind in registry.KINDS:
    parts.append(_components(kind))
  return "\n".join(parts) + "\n"


def _recipes() -> str:
  """Returns the names of the recipes of augmentation."""
  return ", ".join(f"`{name}`" for name in RECIPES)


def _pool_keys() -> list[Key]:
  """Returns the keys of `perturb`, those with a meaning of their own first."""
  own = {key.name for key in PERTURB_KEYS}
  further = [key for name, key in pool_keys("perturb").items() if name not in own]
  return [*PERTURB_KEYS, *further]


def _components(kind: str) -> str:
  """Returns the section about all components of a kind."""
  title, section, prefix = _COMPONENTS[kind]
  parts = [f"\n## {title}: {section}\n"]
  for name in registry.list_available(kind):
    docstring = inspect.cleandoc(registry.find(kind, name).__doc__ or "")
    summary = docstring.partition("\n\n")[0].replace("\n", " ")
    parts.append(f"### `{name}`\n")
    parts.append(f"{summary}\n")
    keys = component_keys(kind, name)
    if keys:
      parts.append(table(keys.values(), documented(docstring), prefix))
      parts.append("")
  return "\n".join(parts).rstrip()


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill keys",
    description="Print all config keys with their defaults and meanings, in Markdown.",
    epilog="example: python -m jaxdistill keys > docs/configs.md",
  )
  parser.parse_args(argv)
  return run_command(lambda: print(reference(), end=""))
