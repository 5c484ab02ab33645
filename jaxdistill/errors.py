"""Errors that end a run with one clear line, and the exit code each of them carries."""

from collections.abc import Callable, Iterator
import contextlib
import sys


class JaxdistillError(Exception):
  """Base of the errors a user can act on; the text says what, where and what to do."""

  exit_code = 1


class ConfigError(JaxdistillError, ValueError):
  """The configuration cannot be run."""

  exit_code = 2


class DataError(JaxdistillError, ValueError):
  """The data set is missing, damaged or inconsistent."""

  exit_code = 2


class CheckpointError(JaxdistillError):
  """No sound checkpoint that fits this run."""

  exit_code = 3


class StorageError(JaxdistillError):
  """The working directory cannot be written."""

  exit_code = 4


class DivergedError(JaxdistillError):
  """No member of the cohort has a finite loss any more."""

  exit_code = 5


class BusyError(JaxdistillError):
  """Another process is using the working directory."""

  exit_code = 6


class Preempted(JaxdistillError):
  """The run was asked to stop, saved its state and can be resumed."""

  exit_code = 75


def run_command(
  command: Callable[[], None], debug: Callable[[], bool] = lambda: False
) -> int:
  """Runs a command and returns its exit code, ending every known error in one line on stderr.

  Args:
    command: what to run.
    debug: whether to let the error through with its traceback.
  """
  try:
    command()
  except JaxdistillError as error:
    if debug():
      raise
    kind = "stopped" if isinstance(error, Preempted) else "error"
    print(f"jaxdistill: {kind}: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code
  return 0


@contextlib.contextmanager
def naming(section: str, separator: str = ": ") -> Iterator[None]:
  """Puts the section in front of what a factory, which knows only its own keywords, says is wrong with it.

  Args:
    section: of the config.
    separator: "." where every error begins with the name of a key of that section.
  """
  try:
    yield
  except ConfigError as error:
    raise ConfigError(f"{section}{separator}{error}") from error


def require(condition: bool, message: str) -> None:
  """Raises `ConfigError(message)` unless `condition` holds."""
  if not condition:
    raise ConfigError(message)


def require_positive(**values: float) -> None:
  """Raises `ConfigError` for the first value that is not a finite number above zero."""
  for name, value in values.items():
    require(
      0 < value < float("inf"), f"{name} must be a finite number above 0, got {value}"
    )


def require_not_negative(**values: float) -> None:
  """Raises `ConfigError` for the first value that is not a finite number of at least zero."""
  for name, value in values.items():
    require(
      0 <= value < float("inf"),
      f"{name} must be a finite number of at least 0, got {value}",
    )


def require_rate(**values: float) -> None:
  """Raises `ConfigError` for the first value that is not in [0, 1)."""
  for name, value in values.items():
    require(0 <= value < 1, f"{name} must be at least 0 and less than 1, got {value}")


def require_choice(**values: tuple[str, tuple[str, ...]]) -> None:
  """Raises `ConfigError` for the first `name=(value, allowed)` whose value is not allowed."""
  for name, (value, allowed) in values.items():
    require(
      value in allowed, f"{name} must be one of {', '.join(allowed)}, got {value!r}"
    )
