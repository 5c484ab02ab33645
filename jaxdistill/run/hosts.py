"""Several processes of one run: who writes, what all agree on, and how all end.

All processes run the same program on the same global arrays. Only the first one has
effects: files and the terminal are its own. What may differ between hosts (the clock,
the lock, files, damage) is decided there and told to the others. A process that ends
with an error says so, and all others end with it.

They talk through JAX's coordination service and not through the devices: that carries
texts, works while the devices compute or a program is compiled, and notices who is
gone. One process needs none of it.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import faulthandler
import itertools
import json
import os
import socket
import sys
import threading
import time
from typing import Any, NamedTuple, TypeVar
import warnings

from jaxdistill.errors import (
  ConfigError,
  JaxdistillError,
  PeerLostError,
  Preempted,
  StorageError,
  describe,
  require,
)

T = TypeVar("T")

ADDRESS = "JAX_COORDINATOR_ADDRESS"
"""Environment variable with host:port of the first process."""

PROCESSES = "JAXDISTILL_PROCESSES"
"""Environment variable with the number of processes."""

PROCESS = "JAXDISTILL_PROCESS"
"""Environment variable with the number of this process, from 0."""

CONNECT_SECONDS = "JAXDISTILL_CONNECT_SECONDS"
"""Environment variable: how long processes wait for each other at the start."""

STALL_SECONDS = "JAXDISTILL_STALL_SECONDS"
"""Environment variable: how long a run may stand still between two dispatches."""

_STALL_SECONDS = 600.0
# Compiling, reading the data or checking a checkpoint may take that long.
_SLOW_SECONDS = 3600.0
# A process that is not heard of for so long is lost. JAX aborts all when its own limit
# is over, of which half may have gone before.
_SILENT_SECONDS = 20.0
_HEARTBEAT_SECONDS = 120
_PULSE_SECONDS = 2.0
# The processes that end by themselves, at the same step, have so long to do it.
_GRACE_SECONDS = 2.0
_FAREWELL_SECONDS = 4.0
_LONGEST_WAIT = int(1000 * _SLOW_SECONDS)  # milliseconds

_END = "jaxdistill/end"
_GONE = "jaxdistill/gone/"
_PULSE = "jaxdistill/pulse/"
_agreements = itertools.count()


class _Own:
  """What this process knows of itself.

  Attributes:
    joined: whether `connect` has joined it to others.
    leaving: set when it ends by itself.
    stall_seconds: how long it may stand still between two dispatches.
    patience: how long it may at present, in seconds.
    deadline: `time.monotonic()` by which it must have got on.
    answered: `time.monotonic()` when the first process last answered.
    stacks_shown: set when its stacks are on stderr.
  """

  def __init__(self):
    self.joined = False
    self.stall_seconds = _STALL_SECONDS
    self.leaving = threading.Event()
    self.patience = float("inf")
    self.deadline = float("inf")
    self.answered = float("inf")
    self.stacks_shown = threading.Event()


_own = _Own()


class _End(NamedTuple):
  """Why one process ended, and therefore all.

  Attributes:
    process: its number.
    code: its exit code.
    text: what it said.
    stalled: whether the run stood still. Any process may be to blame for it, so each
      shows its stacks.
  """

  process: int
  code: int
  text: str
  stalled: bool = False


def _state() -> Any:
  """Returns JAX's record of this process among others.

  `jax.process_count` would look for devices, which is not to happen before all have
  joined; the client of the coordination service has no public name.
  """
  # Imported late: a wrong command line is told before JAX is there.
  from jax._src import distributed

  return distributed.global_state


def count() -> int:
  """Returns the number of processes."""
  return _state().num_processes


def joined() -> bool:
  """Tells whether `connect` has joined this process to others."""
  return _own.joined


def several() -> bool:
  """Tells whether there are several processes."""
  return count() > 1


def index() -> int:
  """Returns the number of this process, from 0."""
  return _state().process_id


def first() -> bool:
  """Tells whether this process is the one that writes."""
  return index() == 0


# Joining.


def connect() -> None:
  """Joins the other processes of this run where the environment names them.

  By `JAX_COORDINATOR_ADDRESS`, `JAXDISTILL_PROCESSES` and `JAXDISTILL_PROCESS`, else as
  JAX detects them: SLURM, Open MPI, Cloud TPU, Kubernetes. Call it before the first
  computation.

  Raises:
    ConfigError: for variables that make no sense.
    PeerLostError: if the service that they meet at cannot be started or reached.
  """
  arguments = named_in(os.environ)
  if arguments is None:
    return
  import jax

  seconds = _seconds_of(CONNECT_SECONDS, 300)
  _own.stall_seconds = stall_seconds()
  # JAX's own limit would abort the process.
  limit = threading.Timer(seconds, _end_unconnected, [seconds])
  limit.daemon = True
  limit.start()
  try:
    jax.distributed.initialize(
      **arguments,
      initialization_timeout=int(seconds) + 60,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
  except (RuntimeError, ValueError, OSError) as error:
    raise PeerLostError(
      f"processes cannot meet at {_state().coordinator_address} ({ADDRESS}): "
      f"{describe(error)}: see that its port is free there and the address right"
    ) from error
  finally:
    limit.cancel()
  _own.joined = True
  getting_on(slowly=True)
  threading.Thread(target=_watch, daemon=True).start()
  if not first():
    _own.answered = time.monotonic()
    threading.Thread(target=_watch_first, daemon=True).start()


def named_in(environment: Mapping[str, str]) -> dict[str, Any] | None:
  """Returns what `jax.distributed.initialize` is given; None for a single process.

  Args:
    environment: variables.

  Raises:
    ConfigError: for variables that make no sense.
  """
  if PROCESSES in environment:
    processes = _whole_number(environment, PROCESSES)
    require(processes >= 1, f"{PROCESSES} is {processes}: it must be at least 1")
    if processes == 1:
      return None
    process = _whole_number(environment, PROCESS)
    require(
      0 <= process < processes,
      f"{PROCESS} is {process}: it must be from 0 to {processes - 1}, as {PROCESSES} "
      f"is {processes}",
    )
    address = environment.get(ADDRESS, "")
    _, colon, port = address.rpartition(":")
    require(
      bool(colon) and port.isdigit(),
      f"{ADDRESS} is {address!r}: set it to host:port of the first process, the same "
      "everywhere",
    )
    return {
      "coordinator_address": address,
      "num_processes": processes,
      "process_id": process,
    }
  if _are_detected(environment):
    return {}
  return None


def _whole_number(environment: Mapping[str, str], name: str) -> int:
  """Returns the number in a variable.

  Raises:
    ConfigError: if there is none.
  """
  text = environment.get(name, "")
  require(
    text.isdecimal(),
    f"{name} is {text!r}: where {PROCESSES} is set, {PROCESS} and {ADDRESS} are needed "
    "too",
  )
  return int(text)


def _are_detected(environment: Mapping[str, str]) -> bool:
  """Tells whether JAX finds several processes of a cluster."""
  from jax._src import clusters

  for cluster in clusters.ClusterEnv._cluster_types:
    # Kubernetes: a single pod is no job of several, and JAX would look for one.
    is_pod = cluster.name == "k8s" and "JOB_COMPLETION_INDEX" not in environment
    if cluster.opt_in_only_method or is_pod:
      continue
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if cluster.is_env_present():
          return cluster.get_process_count() > 1
    except Exception as error:
      raise ConfigError(
        f"the processes of {cluster.name or cluster.__name__} cannot be counted "
        f"({describe(error)}): set {PROCESSES}, {PROCESS} and {ADDRESS}"
      ) from error
  return False


def stall_seconds() -> float:
  """Returns how long a run may stand still between two dispatches.

  Raises:
    ConfigError: if the environment does not say it as a number above 0.
  """
  return _seconds_of(STALL_SECONDS, _STALL_SECONDS)


def _seconds_of(name: str, default: float) -> float:
  """Returns the seconds in a variable.

  Raises:
    ConfigError: if they are no number above 0.
  """
  text = os.environ.get(name, str(default))
  try:
    seconds = float(text)
  except ValueError:
    seconds = 0.0
  require(
    0 < seconds < 10**6, f"{name} is {text!r}: it must be a number of seconds above 0"
  )
  return seconds


def _end_unconnected(seconds: float) -> None:
  """Ends this process: the others have not come."""
  state = _state()
  if state.process_id == 0:
    what = f"not all {state.num_processes} processes have come to"
  else:
    what = "no answer from the first process at"
  error = PeerLostError(
    f"{what} {state.coordinator_address} within {seconds:g} s ({CONNECT_SECONDS}): "
    f"start all of them, and see that {ADDRESS} is right and can be reached"
  )
  _say(error.exit_code, str(error))
  os._exit(error.exit_code)


def require_devices() -> None:
  """Looks for the devices of all processes.

  Raises:
    ConfigError: if this process has none.
  """
  if not several():
    return
  import jax

  try:
    number = jax.local_device_count()
    kind = jax.local_devices()[0].platform
  # An assertion of JAX's, for a platform of which it knows nothing.
  except (RuntimeError, IndexError, AssertionError) as error:
    raise ConfigError(
      f"{_name(index())} has no device: {describe(error)}: give every process one"
    ) from error
  kinds = gather([kind, number])
  odd = [process for process, found in enumerate(kinds) if found != kinds[0]]
  if odd:
    kind, number = kinds[odd[0]]
    there, other_number = kinds[0]
    raise ConfigError(
      f"process {odd[0]} has {number} {kind} device(s), process 0 has {other_number} "
      f"{there}: give all the same"
    )


def _name(process: int) -> str:
  return f"process {process} on {socket.gethostname()}"


# Agreeing.


def from_first(value: T) -> T:
  """Returns the first process's value in all of them.

  Args:
    value: of JSON; only the first process's counts.
  """
  if not several():
    return value
  key = f"jaxdistill/{next(_agreements)}"
  if not first():
    return json.loads(_state().client.blocking_key_value_get(key, _LONGEST_WAIT))
  text = json.dumps(value)
  _state().client.key_value_set(key, text)
  # As the others have it: tuples are lists.
  return json.loads(text)


def gather(value: T) -> list[T]:
  """Returns the values of all processes, by their numbers, in all of them.

  Args:
    value: of JSON.
  """
  if not several():
    return [value]
  client = _state().client
  key = f"jaxdistill/{next(_agreements)}"
  client.key_value_set(f"{key}/{index():09d}", json.dumps(value))
  client.wait_at_barrier(key, _LONGEST_WAIT)
  found = sorted(client.key_value_dir_get(f"{key}/"))
  return [json.loads(text) for _, text in found]


def barrier(name: str) -> None:
  """Waits until all processes have come here.

  Args:
    name: for errors.
  """
  if several():
    key = f"jaxdistill/{next(_agreements)}/{name}"
    _state().client.wait_at_barrier(key, _LONGEST_WAIT)


def on_first(function: Callable[[], T]) -> T | None:
  """Calls a function in the first process alone.

  Args:
    function: does what only one process may do.

  Returns:
    What the function returns; None in the other processes.

  Raises:
    JaxdistillError: in all processes, if the function does.
  """
  result = None
  raised = None
  told = None
  if first():
    try:
      result = function()
    except Exception as error:
      raised = error
      told = _as_told(error)
  told = from_first(told)
  if raised:
    raise raised
  if told:
    raise _from_told(*told)
  return result


def _as_told(error: Exception) -> tuple[str, str]:
  """Returns the name of the class of an error, and what it says."""
  if isinstance(error, JaxdistillError):
    return type(error).__name__, str(error)
  if isinstance(error, OSError):
    where = error.filename or "a file"
    return StorageError.__name__, f"{where}: {describe(error)}"
  return JaxdistillError.__name__, f"failed: {describe(error)}"


def _from_told(name: str, text: str) -> JaxdistillError:
  """Returns the error that another process has raised."""
  kinds = {kind.__name__: kind for kind in JaxdistillError.__subclasses__()}
  return kinds.get(name, JaxdistillError)(text)


def require_all(complaint: str, advice: str = "") -> None:
  """Raises in all processes if one of them has something to complain of.

  Args:
    complaint: what is wrong with this process, "" if nothing is.
    advice: what to do about it.

  Raises:
    ConfigError: naming the first process that complains, and its host.
  """
  complaints = gather([complaint, _name(index())])
  for text, name in complaints:
    if text:
      raise ConfigError(f"{name} {text}{advice and ': '}{advice}")


def require_same(what: str, digest: str) -> None:
  """Raises in all processes unless all have the same digest.

  Args:
    what: the digest is of.
    digest: a text.

  Raises:
    ConfigError: naming the first process with another one.
  """
  if not several():
    return
  complaint = ""
  if digest != from_first(digest):
    complaint = f"has another {what} than process 0"
  require_all(complaint, "give all processes the same")


# Stopping and ending.


def preempted(call: int) -> bool:
  """Tells whether to stop here, because some process was told to end.

  True in all processes at the same call.

  Args:
    call: its number; all processes make the same calls.
  """
  from jax.experimental import multihost_utils

  return multihost_utils.reached_preemption_sync_point(call)


def getting_on(*, slowly: bool = False) -> None:
  """Says that this process is not stuck.

  A process that does not say so again in time ends all, with its stacks on stderr.

  Args:
    slowly: what comes next may take long: compiling, reading.
  """
  if not _own.joined:
    return
  _own.patience = _SLOW_SECONDS if slowly else _own.stall_seconds
  _own.deadline = time.monotonic() + _own.patience
  # The last resort, if not even another thread can run.
  faulthandler.dump_traceback_later(_own.patience + 60, exit=True)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Tells the other processes of an error that ends this one.

  Raises:
    PeerLostError: in place of what was raised because another process is gone.
  """
  try:
    yield
  except KeyboardInterrupt:
    _announce(130, "interrupted")
    raise
  except Exception as error:
    if not several():
      raise
    if isinstance(error, JaxdistillError):
      _announce(error.exit_code, str(error))
      raise
    if not is_of_others(error):
      _, text = _as_told(error)
      _announce(_code_of(error), text)
      raise
    # Whoever ended has said why, a moment before.
    end = _read_end(_GRACE_SECONDS)
    if end:
      _leave_with(end)
    lost = PeerLostError(
      f"another process is lost or does not answer ({describe(error)}): run the same "
      "command again in all"
    )
    _announce(lost.exit_code, str(lost))
    raise lost from error


def _code_of(error: Exception) -> int:
  """Returns the exit code of an error that is none of this package."""
  return StorageError.exit_code if isinstance(error, OSError) else 1


def is_of_others(error: Exception) -> bool:
  """Tells whether an error comes from the connection to other processes."""
  import jax

  text = str(error)
  # Orbax raises the devices' errors as ValueError.
  if any(name in text for name in ("Gloo", "NCCL", "ordination", "heartbeat")):
    return True
  is_local = "RESOURCE_EXHAUSTED" in text or "INVALID_ARGUMENT" in text
  return isinstance(error, jax.errors.JaxRuntimeError) and not is_local


def _announce(code: int, text: str, *, stalled: bool = False) -> None:
  """Tells all other processes that this one ends; the first to say so is heard."""
  if not _own.joined:
    return
  import jax

  value = json.dumps(_End(index(), code, text, stalled))
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _state().client.key_value_set(_END, value)


def _read_end(seconds: float) -> _End | None:
  """Returns why another process ended, if that is told within some seconds."""
  import jax

  try:
    text = _state().client.blocking_key_value_get(_END, int(1000 * seconds))
  except jax.errors.JaxRuntimeError as error:
    if "DEADLINE_EXCEEDED" in str(error):
      return None
    return _End(0, PeerLostError.exit_code, "is lost: run the same command again")
  return _End(*json.loads(text))


def _watch() -> None:
  """Ends this process when another one has ended, or this one stands still."""
  pulses = _Pulses()
  while not _own.leaving.is_set():
    end = _read_end(_PULSE_SECONDS)
    if end:
      if end.stalled:
        _show_stacks()
      # The main thread may be about to end by itself, with the same code.
      if not _own.leaving.wait(_GRACE_SECONDS):
        _leave_with(end)
      return
    if time.monotonic() > _own.deadline:
      _announce(
        PeerLostError.exit_code,
        f"the run stood still for {_own.patience:g} s: see the stacks of every "
        "process, and run the same command again in all",
        stalled=True,
      )
    silent = pulses.exchange()
    if silent is not None:
      _announce(PeerLostError.exit_code, _unheard(silent))


def _watch_first() -> None:
  """Ends this process when the first one does not answer.

  Calls to it may then never return: this thread makes none.
  """
  while not _own.leaving.wait(_PULSE_SECONDS):
    if time.monotonic() - _own.answered < _SILENT_SECONDS:
      continue
    lost = PeerLostError(_unheard(0))
    _say(lost.exit_code, str(lost))
    sys.stderr.flush()
    os._exit(lost.exit_code)


def _unheard(process: int) -> str:
  """Returns what is said of a process that gives no sign of life."""
  return (
    f"process {process} has not been heard of for {_SILENT_SECONDS:g} s: run the same "
    "command again in all"
  )


def _show_stacks() -> None:
  """Prints the stacks of this process's threads, once."""
  if _own.stacks_shown.is_set():
    return
  _own.stacks_shown.set()
  faulthandler.dump_traceback(all_threads=True)


class _Pulses:
  """Signs of life: every process gives them, the first one waits for them."""

  def __init__(self):
    self._number = 0
    self._last: dict[str, str] = {}
    self._since: dict[str, float] = {}

  def exchange(self) -> int | None:
    """Gives one; returns the number of a process that has given none for too long."""
    import jax

    self._number += 1
    client = _state().client
    now = time.monotonic()
    with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError):
      client.key_value_set(f"{_PULSE}{index()}", str(self._number), True)
      _own.answered = time.monotonic()
      if not first():
        return None
      for key, number in client.key_value_dir_get(_PULSE):
        if self._last.get(key) != number:
          self._last[key] = number
          self._since[key] = now
        if now - self._since[key] > _SILENT_SECONDS:
          return int(key.rpartition("/")[2])
    return None


def _leave_with(end: _End) -> None:
  """Ends this process because another one has ended, in the same way."""
  text = end.text
  if end.stalled:
    _show_stacks()
  elif end.process != index():
    text = f"process {end.process}: {end.text}"
  _say(end.code, text)
  leave(end.code)


def _say(code: int, text: str) -> None:
  """Prints the one line of an end."""
  kind = "stopped" if code == Preempted.exit_code else "error"
  error = JaxdistillError(text)
  print(f"jaxdistill: {kind}: {error}", file=sys.stderr)


def leave(code: int) -> None:
  """Ends this process, where it is one of several; else it returns.

  The interpreter's own end would wait for others that wait for this one.

  Args:
    code: exit code.
  """
  if not _own.joined:
    return
  import jax

  sys.stdout.flush()
  sys.stderr.flush()
  if code == 0:
    # Waits for all: a process that fails at the very end is still heard.
    try:
      jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError:
      # The watch is about to say why.
      time.sleep(2 * _GRACE_SECONDS)
      code = PeerLostError.exit_code
  _own.leaving.set()
  if code:
    # The first process may answer no more.
    limit = threading.Timer(_GRACE_SECONDS + _FAREWELL_SECONDS, os._exit, [code])
    limit.daemon = True
    limit.start()
    _announce(code, "ended")
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      _wait_for_others()
  os._exit(code)


def _wait_for_others() -> None:
  """Keeps the service, which is the first process's, until all others leave.

  JAX aborts those that lose it.
  """
  _state().client.key_value_set(f"{_GONE}{index()}", "", True)
  deadline = time.monotonic() + _FAREWELL_SECONDS
  while first() and time.monotonic() < deadline:
    if len(_state().client.key_value_dir_get(_GONE)) == count():
      return
    time.sleep(0.05)
