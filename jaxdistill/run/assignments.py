"""What a command line changes in a config: `--config.key=value`."""

from collections.abc import Sequence
import itertools
import shlex

from jaxdistill.errors import ConfigError

_PREFIX = "--config."


def assignments(
  arguments: Sequence[str], usage: str, prefix: str = _PREFIX
) -> list[str]:
  """Returns what overrides the config, each as `key=value`.

  Args:
    arguments: what is left of the command line without the program's own flags.
    usage: of the program, for the error.
    prefix: of every key.

  Raises:
    ConfigError: for an argument that is not of the form --config.key=value, or begins
      with another prefix.
  """
  for argument, value in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
    if not argument.startswith(prefix):
      raise ConfigError(f"command line: unknown argument {argument!r}: {usage}")
    if "=" not in argument:
      # A value that was given behind a space.
      if not value or value.startswith("--"):
        value = "VALUE"
      raise ConfigError(
        f"command line: {argument} has no value: write {argument}={shlex.quote(value)}"
      )
  return [argument.removeprefix(prefix) for argument in arguments]
