"""Slow work that a run can be stopped in: compilation cannot be interrupted.

It is done in a thread while the main thread watches for the request to stop.
"""

import atexit
from collections.abc import Callable
import concurrent.futures
import os
import sys
import threading
from typing import TypeVar

from jaxdistill.run import hosts

T = TypeVar("T")

_PERIOD = 0.2  # seconds from one look at the request to the next
_given_up: list[threading.Thread] = []


class Stopped(Exception):
  """The run was asked to stop before the work was done."""


def wait_for(work: Callable[[], T], stop: Callable[[], bool]) -> T:
  """Returns what the work returns, unless the run is to stop before.

  Of several processes none may stop alone: they look at the request when the work is
  done, as all of them come to that.

  Args:
    work: function without arguments, run in a thread of its own. When the run stops
      it goes on: what it is given must not be used afterwards, unless it only reads it.
    stop: called several times a second; whether the run is to stop.

  Raises:
    Stopped: if it is.
  """
  result: concurrent.futures.Future[T] = concurrent.futures.Future()

  def run() -> None:
    try:
      result.set_result(work())
    except BaseException as error:
      result.set_exception(error)

  several = hosts.several()
  hosts.getting_on(slowly=True)
  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    while not result.done():
      concurrent.futures.wait([result], timeout=_PERIOD)
      if not several and not result.done() and stop():
        raise Stopped
  finally:
    if not result.done():
      _give_up(thread)
  done = result.result()
  # One host may compile for longer than a CPU's collectives wait for it.
  hosts.barrier("done in the background")
  hosts.getting_on()
  if several and stop():
    raise Stopped
  return done


def _give_up(thread: threading.Thread) -> None:
  """Remembers a thread that is left to itself.

  An interpreter that ends while XLA compiles aborts: where nobody calls `leave`, its
  end waits.
  """
  _given_up.append(thread)
  atexit.register(thread.join)


def abandon(thread: threading.Thread) -> None:
  """Remembers a thread that may never end: nobody waits for it."""
  _given_up.append(thread)


def leave(code: int) -> int:
  """Returns an exit code, or ends the process with it if work was given up.

  The interpreter's own end would wait for a compilation whose result nobody needs.
  """
  if any(thread.is_alive() for thread in _given_up):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code
