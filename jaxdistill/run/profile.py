"""A trace of some steps by JAX's profiler."""

from collections.abc import Callable
import contextlib
from pathlib import Path
from types import TracebackType

import jax

from jaxdistill.core.types import TrainState
from jaxdistill.errors import reason

# What the first dispatches do besides training would fill the trace.
_SKIPPED = 2


class Profile(contextlib.AbstractContextManager):
  """Writes one trace of a run, soon after its start; it fails with a warning only."""

  def __init__(self, directory: Path, steps: int, say: Callable[[str], None]):
    """Prepares the trace.

    Args:
      directory: where it is written.
      steps: to be traced, rounded up to whole dispatches; 0: none.
      say: prints a line.
    """
    self._directory = directory
    self._steps = steps
    self._say = say
    self._dispatches = 0
    self._first: int | None = None
    self._ended = not steps

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    """Ends the trace, where the run has fewer steps."""
    if self._first is not None and not self._ended:
      self._stop("the last step")
    elif not self._ended and error is None:
      self._say("note: the run has ended before its profile began")

  def before_dispatch(self, state: TrainState, step: int) -> None:
    """Begins or ends the trace where that is due.

    Args:
      state: on which the dispatch will be made.
      step: of the state.
    """
    if self._ended:
      return
    if self._first is None and self._dispatches == _SKIPPED:
      self._start(state, step)
    elif self._first is not None and step - self._first >= self._steps:
      jax.block_until_ready(state)
      self._stop(f"step {step}")
    self._dispatches += 1

  def _start(self, state: TrainState, step: int) -> None:
    # Steps that are still running are none of the trace's.
    jax.block_until_ready(state)
    self._first = step
    try:
      jax.profiler.start_trace(self._directory)
    except (OSError, RuntimeError) as error:
      self._give_up(error)

  def _stop(self, last: str) -> None:
    self._ended = True
    try:
      jax.profiler.stop_trace()
    except (OSError, RuntimeError) as error:
      self._give_up(error)
      return
    assert self._first is not None
    self._say(
      f"a profile of step {self._first + 1} to {last} is in {self._directory}: "
      "ui.perfetto.dev shows the trace.json.gz, xprof all of it"
    )

  def _give_up(self, error: Exception) -> None:
    self._ended = True
    self._say(f"warning: no profile: {self._directory}: {reason(error)}")
