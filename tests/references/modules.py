"""Finds the reference modules."""

import importlib
import pkgutil

from tests import references

# The recorder imports PyTorch.
HELPERS = {"case", "draw", "modules", "record"}


def _find():
  """Returns name of a family -> its module."""
  found = {}
  for info in pkgutil.iter_modules(references.__path__):
    if info.name not in HELPERS:
      found[info.name] = importlib.import_module(f"tests.references.{info.name}")
  return found


MODULES = _find()


def cases():
  """Returns "family/case" -> Case."""
  found = {}
  for name, module in MODULES.items():
    for case, value in module.CASES.items():
      found[f"{name}/{case}"] = value
  return found
