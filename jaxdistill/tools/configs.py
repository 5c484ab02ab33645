"""Lists the config files that come with the package: `python -m jaxdistill configs`."""

import argparse
from collections.abc import Sequence
import inspect

from jaxdistill.core import registry
from jaxdistill.errors import run_command
from jaxdistill.run.config_files import packaged_configs


def listing() -> str:
  """Returns name, first line and arguments of every config."""
  lines = []
  for name, path in packaged_configs().items():
    module = registry.load_file(str(path))
    title, *_ = inspect.cleandoc(module.__doc__ or "").splitlines()
    lines += [name, f"  {title}"]
    rows = getattr(module, "ROWS", ())
    if rows:
      lines.append(f"  arguments: {' '.join(rows)}")
  return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill configs",
    description="List the config files that come with the package, and the arguments "
    "that they take; the first one is the default.",
    epilog="example: python -m jaxdistill train --config=digits_baselines:dml",
  )
  parser.parse_args(argv)
  return run_command(lambda: print(listing()))
