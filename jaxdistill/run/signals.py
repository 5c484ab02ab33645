"""What a signal to end means: finish what is being done, save, and stop."""

from collections.abc import Callable
import signal
import sys


def stop_on_signals() -> Callable[[], bool]:
  """Turns SIGTERM or Ctrl-C into a request to save and stop; a second one kills.

  Returns:
    What is true once the request has come.
  """
  received = []

  def remember(number, frame):
    del frame
    received.append(number)
    signal.signal(number, signal.SIG_DFL)
    print(
      "jaxdistill: stopping: the state is saved after the current step; once more "
      "stops at once",
      file=sys.stderr,
    )

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, remember)
  return lambda: bool(received)
