"""Memory that a process keeps for its next step, for training on a CPU.

XLA frees the temporaries of a step on a CPU and allocates them again in the next. The C
library returns arrays of that size to the system at once, which then maps and clears
hundreds of megabytes in every step: up to half of its time. All three settings are
needed, as memory of other arenas is mapped anew too; that threads share one arena costs
steps of very small networks a few per cent.

The C library reads them when a process starts. Set later, they would not hold for
threads that are there already.
"""

from collections.abc import Mapping
import importlib.metadata
import os
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
"""Environment variable with settings of the C library, separated by colons."""

_PREFIX = "glibc.malloc."
_SETTINGS = {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**62}
# Since this version they have these names.
_GLIBC = (2, 26)


def restart_with_it() -> None:
  """Starts this process anew so that it keeps its memory, if it has made no choice.

  To be called by a program before it does anything. Returns where that is not what a
  step waits for (on accelerators), with other C libraries, and where `GLIBC_TUNABLES`
  sets anything of its allocator: "glibc.malloc.mmap_max=65536", the default, is enough
  to leave all as it is.
  """
  if not sys.executable or not is_wanted(os.environ) or not is_available():
    return
  os.environ[VARIABLE] = with_settings(os.environ.get(VARIABLE, ""))
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_wanted(environment: Mapping[str, str]) -> bool:
  """Tells whether a program of this environment computes on a CPU, and has no choice.

  Args:
    environment: variables.
  """
  if _PREFIX in environment.get(VARIABLE, ""):
    return False
  platforms = environment.get("JAX_PLATFORMS", "")
  if platforms:
    return platforms == "cpu"
  # Without starting JAX, which would take the devices.
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  return not plugins and not _is_installed("libtpu")


def with_settings(others: str) -> str:
  """Returns settings of the C library by which memory is kept.

  Args:
    others: that stay, as they stand in `GLIBC_TUNABLES`.
  """
  own = [f"{_PREFIX}{name}={value}" for name, value in _SETTINGS.items()]
  return ":".join(filter(None, [others, *own]))


def _is_installed(distribution: str) -> bool:
  """Tells whether pip knows a distribution."""
  try:
    importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return False
  return True


def is_available() -> bool:
  """Tells whether the C library has these settings."""
  name, version = platform.libc_ver()
  numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
  return name == "glibc" and numbers >= _GLIBC
