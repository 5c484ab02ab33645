"""Errors that end a run with one clear line, and the exit code each of them carries."""

from collections.abc import Callable, Iterator
import contextlib
import os
import sys
import traceback
from typing import Any

LONGEST = 300
"""Characters that a message has at most."""

# Of a path or a value, in a message that is too long; and of what others say.
_LONGEST_WORD = 60
_LONGEST_DETAIL = 100

# What a shell reports of a command that Ctrl-C, or a reader that went away, has ended.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


class JaxdistillError(Exception):
  """Base of the errors a user can act on; the text says what, where and what to do.

  It is one printable line of at most `LONGEST` characters, whatever it is made from.
  """

  exit_code = 1

  def __init__(self, text: str):
    """Takes the message; what is too long in it is cut in the middle."""
    super().__init__(_fit(_one_line(text)))


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


class OutOfMemoryError(JaxdistillError):
  """The device or the host has not the memory that the run needs."""

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


class PeerLostError(JaxdistillError):
  """Another process of the run is gone, does not answer, or stands still."""

  exit_code = 82


class StalledError(JaxdistillError):
  """The data set stands still: images that are read when needed do not come."""

  exit_code = 82


def _one_line(text: str) -> str:
  """Returns a text in one line, with escapes for what cannot be printed."""
  characters = []
  for character in " ".join(text.split()):
    if not character.isprintable():
      character = character.encode("unicode_escape").decode()
    characters.append(character)
  return "".join(characters)


def _fit(text: str) -> str:
  """Returns a line of at most `LONGEST` characters."""
  if len(text) <= LONGEST:
    return text
  # Paths and values first, so that the sentence around them can still be read.
  words = [cut(word, _LONGEST_WORD) for word in text.split(" ")]
  return cut(" ".join(words), LONGEST)


def cut(text: str, length: int) -> str:
  """Returns a text without its middle where it is longer than `length` characters."""
  if len(text) <= length:
    return text
  dots = "..."
  tail = (length - len(dots)) // 3
  head = length - len(dots) - tail
  return text[:head] + dots + text[-tail:]


def describe(error: BaseException) -> str:
  """Returns what an error from elsewhere says: its kind and its first line."""
  kind = type(error).__name__
  lines = str(error).strip().splitlines()
  if not lines:
    return kind
  return f"{kind}: {cut(lines[0], _LONGEST_DETAIL)}"


@contextlib.contextmanager
def foreign(what: str, path: str = "") -> Iterator[None]:
  """Turns every error of code from elsewhere into one line.

  Args:
    what: whose code it is, for the error.
    path: file of that code, if its line is to be told.

  Raises:
    ConfigError: in place of what was raised inside; errors of this package pass.
  """
  try:
    yield
  except JaxdistillError:
    raise
  except (Exception, SystemExit) as error:
    place = what
    line = _line_in(error, path)
    if line:
      place = f"{what}, line {line}"
    raise ConfigError(f"{place}: {describe(error)}: --debug shows where") from error


def _line_in(error: BaseException, path: str) -> int | None:
  """Returns the line of a file that an error came from, None if from another."""
  path = os.path.abspath(path)
  if isinstance(error, SyntaxError) and error.filename == path:
    return error.lineno
  found = None
  for frame, line in traceback.walk_tb(error.__traceback__):
    if frame.f_code.co_filename == path:
      found = line
  return found


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
  """Tells in one line of a file that cannot be read.

  Args:
    what: for the error.

  Raises:
    DataError: in place of the system's error.
  """
  try:
    yield
  except UnicodeEncodeError as error:
    raise DataError(f"{what}: no file can have this name: {reason(error)}") from error
  except OSError as error:
    where = error.filename or "a file"
    raise DataError(f"{what}: {where} cannot be read: {reason(error)}") from error


# Commands.


def _never() -> bool:
  return False


def run_command(
  command: Callable[[], int | None], debug: Callable[[], bool] = _never
) -> int:
  """Runs a command; prints every known error as one line on stderr.

  Args:
    command: what to run; what it returns is the exit code, None is 0.
    debug: whether to let the error through with its traceback; called when there is
      one.

  Returns:
    The exit code: the command's, or the error's.
  """
  try:
    code = command() or 0
    # Here, where it is told if that cannot be done; at the exit it could not.
    sys.stdout.flush()
    return code
  except BrokenPipeError:
    # Whoever read the output has seen enough: `... | head`.
    _abandon_output()
    return _BROKEN_PIPE
  except KeyboardInterrupt:
    print("jaxdistill: stopped: interrupted", file=sys.stderr)
    return _INTERRUPTED
  except Exception as error:
    known = _known(error)
    if known is None or debug():
      raise
    kind = "error"
    if isinstance(known, Preempted):
      kind = "stopped"
    print(f"jaxdistill: {kind}: {known}", file=sys.stderr)
    return known.exit_code


def _known(error: Exception) -> JaxdistillError | None:
  """Returns the error that a user can act on; None for one of the program."""
  if isinstance(error, JaxdistillError):
    return error
  if isinstance(error, OSError):
    _abandon_full_output()
    where = error.filename or "input or output"
    return StorageError(f"{where}: {reason(error)}")
  if isinstance(error, MemoryError):
    return OutOfMemoryError("the host is out of memory: run with less, or elsewhere")
  return None


def reason(error: Exception) -> str:
  """Returns why something could not be read or written."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return describe(error)


def _abandon_full_output() -> None:
  """Gives up what is still to be printed, where it cannot be."""
  try:
    sys.stdout.flush()
  except OSError:
    _abandon_output()


def _abandon_output() -> None:
  """Sends what is still to be printed nowhere."""
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, sys.stdout.fileno())
  os.close(nowhere)


# Checks.


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


def require_probability(**values: float) -> None:
  """Checks that values are in [0, 1].

  Args:
    **values: each under the name that the error shall give it.

  Raises:
    ConfigError: for the first one that is not.
  """
  for name, value in values.items():
    require(0 <= value <= 1, f"{name} must be at least 0 and at most 1, got {value}")


def require_choice(**values: tuple[Any, tuple[Any, ...]]) -> None:
  """Checks that values are among those allowed.

  Args:
    **values: (value, allowed values), each under the name that the error shall give it.

  Raises:
    ConfigError: for the first one that is not.
  """
  for name, (value, allowed) in values.items():
    choices = ", ".join(map(str, allowed))
    require(value in allowed, f"{name} must be one of {choices}, got {value!r}")
