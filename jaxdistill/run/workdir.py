"""The working directory of a run: who may write there, and its configuration."""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
from pathlib import Path
import socket
import subprocess
import time
from typing import Any

import jaxdistill
from jaxdistill.errors import BusyError, ConfigError, StorageError, reason
from jaxdistill.run.config import ConfigDict, config_differences, config_digest
from jaxdistill.run.manifest import write_json
from jaxdistill.run.renamed import upgraded
from jaxdistill.run.room import free_bytes, in_units

# Raised when a later version could misread what an earlier one wrote.
CONFIG_VERSION = 1


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
  """Creates the directory and holds its lock while the block runs.

  Yields:
    What raises StorageError if the directory has been moved or deleted since.

  Raises:
    StorageError: if it, or what the block writes in it, cannot be written.
    BusyError: if another process holds it, naming that process.
  """
  lock = _take_lock(path)
  try:
    yield functools.partial(_require_in_place, path, lock)
  except BrokenPipeError:
    # That is the output's, not the directory's.
    raise
  except StorageError:
    # A checkpoint that cannot be written may be for the directory's sake.
    _require_in_place(path, lock)
    raise
  except OSError as error:
    _require_in_place(path, lock)
    raise StorageError(
      f"workdir {path}: {error.filename or 'a file'} cannot be written: "
      f"{reason(error)} ({in_units(free_bytes(path))} free): make room or choose "
      "another with --workdir; checkpoints are as they were"
    ) from error
  finally:
    os.close(lock)


def _require_in_place(path: Path, lock: int) -> None:
  """Raises StorageError unless the path still leads to the directory of the lock."""
  try:
    in_place = os.path.samestat(os.stat(path / "LOCK"), os.fstat(lock))
  except OSError:
    in_place = False
  if not in_place:
    raise StorageError(
      f"workdir {path} has been moved or deleted during the run: move it back, or give "
      "its new place with --workdir, and run the same command again"
    )


def _take_lock(path: Path) -> int:
  """Returns the descriptor of the lock: held until it is closed or the process ends."""
  if "://" in str(path):
    raise StorageError(
      f"workdir {path} is no local folder: mount it, or write to a local disk and copy"
    )
  try:
    path.mkdir(parents=True, exist_ok=True)
    # A link would lock, and overwrite, a file somewhere else.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    lock = os.open(path / "LOCK", flags, 0o644)
  except OSError as error:
    raise _unwritable(path, error) from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = os.read(lock, 1000).decode(errors="replace").strip()
    os.close(lock)
    raise BusyError(
      f"workdir {path} is in use by {holder or 'another process'}: wait for it, or "
      "choose another with --workdir"
    ) from error
  since = time.strftime("%F %T")
  holder = f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
  try:
    os.ftruncate(lock, 0)
    os.write(lock, holder.encode())
    # Other hosts read it.
    os.fsync(lock)
  except OSError as error:
    os.close(lock)
    raise _unwritable(path, error) from error
  return lock


@contextlib.contextmanager
def at_rest(path: Path) -> Iterator[None]:
  """Keeps other processes from writing in a directory that is only read.

  Raises:
    BusyError: if another process holds its lock.
  """
  try:
    lock = os.open(path / "LOCK", os.O_RDONLY | os.O_NOFOLLOW)
  except OSError:
    # Nobody has trained there, or it is a copy.
    yield
    return
  try:
    try:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise BusyError(
        f"workdir {path} is in use by another process: wait for it, or stop it"
      ) from error
    yield
  finally:
    os.close(lock)


def _unwritable(path: Path, error: OSError) -> StorageError:
  return StorageError(
    f"workdir {path} cannot be written: {reason(error)}: choose another with --workdir"
  )


def lock_text(path: Path) -> str:
  """Returns what its holder has written into the lock of a workdir; "" if nothing."""
  try:
    return (path / "LOCK").read_text(errors="replace")
  except OSError:
    return ""


def versions() -> dict[str, str]:
  """Returns package -> version of what determines the numbers of a run."""
  found = {"jaxdistill": jaxdistill.__version__}
  for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
    found[name] = importlib.metadata.version(name)
  return found


def _git(*args: str) -> str:
  """Returns what git says about the folder that the package runs from."""
  folder = str(Path(__file__).parent)
  command = ["git", "-C", folder, *args]
  result = subprocess.run(
    command, capture_output=True, text=True, check=True, timeout=10
  )
  return result.stdout.strip()


def _git_revision() -> str | None:
  """Revision of the tree the package runs from, with "+changes" if it is not clean."""
  try:
    changes = "+changes" if _git("status", "--porcelain", "-uno") else ""
    return _git("rev-parse", "HEAD") + changes
  except (OSError, subprocess.SubprocessError):
    return None  # not every installation is a checkout


def bind_config(
  path: Path,
  config: ConfigDict,
  *,
  goes_on: Callable[[dict[str, Any]], bool],
  origin: dict[str, Any] | None = None,
) -> set[str]:
  """Writes `config.json`, or checks the one that is there against this config.

  Args:
    path: working directory.
    config: resolved configuration.
    goes_on: another configuration, as it is in `config.json` -> whether its run is the
      beginning of this one.
    origin: the state of another run that this one starts from: path, step,
      config_digest.

  Returns:
    Digests of the configurations whose checkpoints belong here: this one's, and that of
    the same configuration as it was first written.

  Raises:
    ConfigError: if the directory belongs to another configuration, with the differing
      keys.
  """
  file = path / "config.json"
  digest = config_digest(config)
  digests = {digest}
  if file.exists():
    old = read_record(file)
    differing = config_differences(old["config"], config)
    if differing and not goes_on(old["config"]):
      raise ConfigError(
        f"workdir {path} belongs to another configuration: {'; '.join(differing)}: "
        f"choose another with --workdir, and --fork={path} to start from the state here"
      )
    origin = origin or old.get("forked_from")
    # A version that knows more keys gives the same configuration another digest.
    digests |= set(old["digests"])
  record = {
    "version": CONFIG_VERSION,
    "config": config.to_dict(),
    "config_digest": digest,
    "digests": sorted(digests),
    "versions": versions(),
    "git": _git_revision(),
    "forked_from": origin,
  }
  write_json(file, record)
  return digests


def read_record(file: Path) -> dict[str, Any]:
  """Reads `config.json`; the configuration in it is as this version writes it.

  Raises:
    ConfigError: if it is damaged, or of another version.
  """
  advice = "choose another workdir with --workdir"
  try:
    record = json.loads(file.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise ConfigError(f"{file} cannot be read ({error}): {advice}") from error
  if not isinstance(record, dict) or record.get("version") != CONFIG_VERSION:
    raise ConfigError(f"{file} is not of version {CONFIG_VERSION}: {advice}")
  if not isinstance(record.get("config"), dict) or not _are_texts(
    record.get("digests")
  ):
    raise ConfigError(f"{file} is damaged: {advice}")
  origin = record.get("forked_from") or {"path": ""}
  if not isinstance(origin, dict) or not isinstance(origin.get("path"), str):
    raise ConfigError(f"{file} is damaged: {advice}")
  return {**record, "config": upgraded(record["config"])}


def _are_texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(item, str) for item in value)
