"""Checkpoints that are written while the run goes on."""

import concurrent.futures
import contextlib
import copy
from types import TracebackType
from typing import Any

import jax

from jaxdistill.core.types import TrainState
from jaxdistill.run import checkpoint
from jaxdistill.run.checkpoint import Checkpoints


class Saver(contextlib.AbstractContextManager):
  """Writes the checkpoints of a run in a thread of its own, one at a time.

  Each is complete, or not there: the thread does what `Checkpoints.save` does.
  """

  def __init__(self, checkpoints: Checkpoints):
    """Names the checkpoints; a block `with saver:` ends when they are written."""
    self._checkpoints = checkpoints
    self._thread = concurrent.futures.ThreadPoolExecutor(
      max_workers=1, thread_name_prefix="checkpoints"
    )
    self._writing: concurrent.futures.Future | None = None

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    """Waits until the last checkpoint is written.

    Raises:
      StorageError: if it cannot be, unless the block has ended with another error.
    """
    self._thread.shutdown()
    if error is None:
      self.wait()

  def save(self, state: TrainState, step: int, **extra: Any) -> None:
    """Fetches the state, and begins to write it once the one before is written.

    Args:
      state: may be donated as soon as this returns.
      step: of the state.
      **extra: JSON values kept in the manifest, as they are now.

    Raises:
      StorageError: if the one before could not be written.
    """
    self.wait()
    if jax.process_count() > 1:
      # Processes wait for each other where they save. In a thread, they could do so in
      # another order than in the steps of the main one.
      self._checkpoints.save(state, step, **extra)
      return
    fetched = checkpoint.fetch(state)
    kept = copy.deepcopy(extra)
    self._writing = self._thread.submit(self._checkpoints.save, fetched, step, **kept)

  def check(self) -> None:
    """Raises StorageError if the last checkpoint could not be written; never waits."""
    if self._writing is not None and self._writing.done():
      self.wait()

  def wait(self) -> None:
    """Waits until the last checkpoint is written.

    Raises:
      StorageError: if it cannot be.
    """
    writing = self._writing
    self._writing = None
    if writing is not None:
      writing.result()
