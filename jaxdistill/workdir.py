"""The working directory of a run: who may write there, and to which configuration it belongs."""

import fcntl
import importlib.metadata
import json
import os
from pathlib import Path
import socket
import subprocess
import time
from typing import Any

import jaxdistill
from jaxdistill.checkpoint import write_json
from jaxdistill.errors import BusyError, ConfigError, StorageError


def open_workdir(path: Path) -> int:
  """Creates the directory, proves that it can be written and takes its lock.

  Returns:
    The lock's file descriptor: held until it is closed or the process ends.

  Raises:
    StorageError: if it cannot be written.
    BusyError: if another process holds it, naming that process.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise StorageError(f"workdir {path} cannot be written: {error.strerror}: choose another with --workdir") from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = os.read(lock, 1000).decode(errors="replace").strip()
    os.close(lock)
    raise BusyError(f"workdir {path} is in use by {holder or 'another process'}: "
                    "wait for it, or choose another with --workdir") from error
  os.ftruncate(lock, 0)
  os.write(lock, f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}\n".encode())
  return lock


def _versions() -> dict[str, str]:
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
  return {"jaxdistill": jaxdistill.__version__, **{name: importlib.metadata.version(name) for name in names}}


def _git_revision() -> str | None:
  """Revision of the working tree the package runs from, with "+changes" if it is not clean."""
  run = lambda *args: subprocess.run(["git", "-C", str(Path(__file__).parent), *args], capture_output=True, text=True,
                                     check=True, timeout=10).stdout.strip()
  try:
    return run("rev-parse", "HEAD") + ("+changes" if run("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.SubprocessError):
    return None  # not every installation is a checkout


def bind_config(path: Path, config: dict[str, Any], digest: str, differences) -> None:
  """Writes `config.json`, or checks that the one that is there belongs to this configuration.

  Args:
    path: working directory.
    config: resolved configuration as plain values.
    digest: its digest.
    differences: (old config, new config) -> list of texts, one for each key that matters.

  Raises:
    ConfigError: if the directory belongs to another configuration, with the differing keys.
  """
  file = path / "config.json"
  if file.exists():
    try:
      old = json.loads(file.read_text())["config"]
    except (ValueError, KeyError) as error:
      raise ConfigError(f"{file} cannot be read ({error}): choose another workdir") from error
    differ = differences(old, config)
    if differ:
      raise ConfigError(f"workdir {path} belongs to another configuration: {'; '.join(differ)}: "
                        "choose another with --workdir")
  write_json(file, {"config": config, "config_digest": digest, "versions": _versions(), "git": _git_revision()})
