"""Finds the reference modules."""

import importlib
import pkgutil

from tests import references

MODULES = {info.name: importlib.import_module(f"references.{info.name}")
           for info in pkgutil.iter_modules(references.__path__) if info.name not in ("draw", "modules", "record")}
