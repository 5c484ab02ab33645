"""Finds components by name: the module path below a package is the name, and there is no list to edit.

`"competitive"` is the function `competitive` in `jaxdistill/methods/competitive.py`, `"kdcl.min_logit"` the
function `min_logit` in `jaxdistill/methods/kdcl.py`, and `"my_lab.idea:make"` any importable function.
"""

from collections.abc import Callable
import difflib
import functools
import importlib.util
import inspect
import os
import pkgutil
from typing import Any

from jaxdistill.errors import ConfigError

PACKAGES = {
    "methods": "jaxdistill.methods",
    "models": "jaxdistill.models",
    "data": "jaxdistill.data",
    "perturb": "jaxdistill.perturb",
}


NOUNS = {"methods": "method", "models": "model", "data": "data set", "perturb": "perturbation"}


def nearest(name: str, candidates) -> str:
  """Returns `; did you mean ...?`, or the candidates themselves where none comes near."""
  candidates = sorted(candidates)
  close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
  return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(candidates) or 'none'}"


def _factories(module) -> dict[str, Callable]:
  """Public functions defined in `module` whose arguments are all keyword-only: the shape of a factory."""
  found = {}
  for name, value in inspect.getmembers(module, inspect.isfunction):
    if name.startswith("_") or value.__module__ != module.__name__:
      continue
    if all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(value).parameters.values()):
      found[name] = value
  return found


@functools.cache
def list_available(kind: str) -> tuple[str, ...]:
  """Lists the names of all built-in components of a kind: methods, models, data or perturb."""
  package = importlib.import_module(PACKAGES[kind])
  if not hasattr(package, "__path__"):
    return tuple(sorted(_factories(package)))
  names = []
  for info in pkgutil.iter_modules(package.__path__):
    if info.name in ("layers", "__main__"):  # blocks that components share, a command
      continue
    for function in _factories(importlib.import_module(f"{package.__name__}.{info.name}")):
      names.append(info.name if function == info.name else f"{info.name}.{function}")
  return tuple(sorted(names))


def find(kind: str, name: str) -> Callable:
  """Returns the factory that `name` stands for.

  Args:
    kind: methods, models, data or perturb.
    name: module path below that package, or `"package.module:function"` for code elsewhere.

  Raises:
    ConfigError: if there is no such factory, naming the nearest one.
  """
  if ":" in name:
    module_name, _, function = name.partition(":")
    try:
      return getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
      raise ConfigError(f"{NOUNS[kind]} {name!r} cannot be imported: {error}") from error
  if name not in list_available(kind):
    raise ConfigError(f"there is no {NOUNS[kind]} {name!r}{nearest(name, list_available(kind))}")
  package = PACKAGES[kind]
  if not hasattr(importlib.import_module(package), "__path__"):
    return getattr(importlib.import_module(package), name)
  module, _, function = name.partition(".")
  return getattr(importlib.import_module(f"{package}.{module}"), function or module)


def load_file(path: str) -> Any:
  """Imports the Python file at `path` as a module of its own.

  Raises:
    ConfigError: if there is no such file.
  """
  if not os.path.isfile(path):
    raise ConfigError(f"there is no config file {path!r}")
  spec = importlib.util.spec_from_file_location(os.path.splitext(os.path.basename(path))[0], path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def defaults(kind: str, name: str) -> dict[str, Any]:
  """Returns keyword -> default of a factory; `inspect.Parameter.empty` marks a required keyword."""
  parameters = inspect.signature(find(kind, name)).parameters.values()
  return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def resolve(kind: str, name: str, **kwargs) -> Any:
  """Builds the component `name` of `kind` with `kwargs`.

  Raises:
    ConfigError: for an unknown name or keyword, naming the nearest one, or a missing keyword.
  """
  known = defaults(kind, name)
  for key in kwargs:
    if key not in known:
      raise ConfigError(f"{name} has no key {key!r}{nearest(key, known)}")
  missing = [key for key, default in known.items() if default is inspect.Parameter.empty and key not in kwargs]
  if missing:
    raise ConfigError(f"{name} needs {', '.join(missing)}")
  return find(kind, name)(**kwargs)
