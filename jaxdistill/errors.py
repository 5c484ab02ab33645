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
  """There is no intact checkpoint that fits this run."""

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


def _never() -> bool:
  return False


def run_command(command: Callable[[], None], debug: Callable[[], bool] = _never) -> int:
  """Runs a command; prints every known error as one line on stderr.

  Args:
    command: what to run.
    debug: whether to let the error through with its traceback; called when there is
      one.

  Returns:
    The exit code: 0, or the error's.
  """
  try:
    command()
  except JaxdistillError as error:
    if debug():
      raise
    kind = "error"
    if isinstance(error, Preempted):
      kind = "stopped"
    one_line = " ".join(str(error).split())
    print(f"jaxdistill: {kind}: {one_line}", file=sys.stderr)
    return error.exit_code
  return 0


@contextlib.contextmanager
def naming(section: str, separator: str = ": ") -> Iterator[None]:
  """Puts a section of the config in front of the errors raised inside.

  For factories, which know only their own keywords.

  Args:
    section: name of the section.
    separator: what to put between; "." where every error begins with the name of a key
      of that section.

  Raises:
    ConfigError: in place of one that was raised inside.
  """
  try:
    yield
  except ConfigError as error:
    raise ConfigError(f"{section}{separator}{error}") from error


def require(condition: bool, message: str) -> None:
  """Checks a condition.

  Args:
    condition: what must hold.
    message: names the value got, the values allowed and what to change.

  Raises:
    ConfigError: with the message, unless the condition holds.
  """
  if not condition:
    raise ConfigError(message)


def require_positive(**values: float) -> None:
  """Checks that values are finite numbers above zero.

  Args:
    **values: each under the name that the error shall give it.

  Raises:
    ConfigError: for the first one that is not.
  """
  for name, value in values.items():
    require(
      0 < value < float("inf"), f"{name} must be a finite number above 0, got {value}"
    )


def require_not_negative(**values: float) -> None:
  """Checks that values are finite numbers of at least zero.

  Args:
    **values: each under the name that the error shall give it.

  Raises:
    ConfigError: for the first one that is not.
  """
  for name, value in values.items():
    require(
      0 <= value < float("inf"),
      f"{name} must be a finite number of at least 0, got {value}",
    )


def require_rate(**values: float) -> None:
  """Checks that values are in [0, 1).

  Args:
    **values: each under the name that the error shall give it.

  Raises:
    ConfigError: for the first one that is not.
  """
  for name, value in values.items():
    require(0 <= value < 1, f"{name} must be at least 0 and less than 1, got {value}")


def require_choice(**values: tuple[str, tuple[str, ...]]) -> None:
  """Checks that values are among those allowed.

  Args:
    **values: (value, allowed values), each under the name that the error shall give it.

  Raises:
    ConfigError: for the first one that is not.
  """
  for name, (value, allowed) in values.items():
    choices = ", ".join(allowed)
    require(value in allowed, f"{name} must be one of {choices}, got {value!r}")
