"""What a signal to end means: finish what is being done, save, and stop."""

from collections.abc import Callable
import itertools
import signal
import sys

from jaxdistill.run import hosts


def stop_on_signals() -> Callable[[], bool]:
  """Turns SIGTERM or Ctrl-C into a request to save and stop; a second one kills.

  Returns:
    What is true once the request has come.
  """
  received = []

  def remember(number, frame):
    del frame
    received.append(number)
    _take_once(number)

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, remember)
  return lambda: bool(received)


def stop_together() -> Callable[[], bool]:
  """Turns a signal to any of several processes into a request to all of them.

  No handler of Python's for SIGTERM: JAX's own hears it in each of them. Ctrl-C in any
  of them is made one.

  Returns:
    What is true in all processes at the call where they save and stop.
  """

  def pass_on(number, frame):
    del frame
    _take_once(number)
    signal.raise_signal(signal.SIGTERM)

  signal.signal(signal.SIGINT, pass_on)
  calls = itertools.count(1)
  return lambda: hosts.preempted(next(calls))


def _take_once(number: int) -> None:
  """Says that a signal is a request to save and stop; another one kills."""
  signal.signal(number, signal.SIG_DFL)
  print(
    "jaxdistill: stopping: the state is saved after the current step; once more "
    "stops at once",
    file=sys.stderr,
  )
