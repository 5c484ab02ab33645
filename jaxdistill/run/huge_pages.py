"""Memory in huge pages, for training on a CPU.

XLA frees the temporaries of a step on a CPU and allocates them again in the next. The C
library returns arrays of that size to the system at once, which then maps and clears
hundreds of megabytes in every step, in pages of 4 KiB. In pages of 2 MiB that takes a
tenth of the time.

The C library reads the setting when a process starts, and at no other time.
"""

from collections.abc import Mapping
import importlib.metadata
import os
from pathlib import Path
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
"""Environment variable with settings of the C library, separated by colons."""

_SETTING = "glibc.malloc.hugetlb"
# It came with version 2.35.
_GLIBC = (2, 35)
_SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_them() -> None:
  """Starts this process anew with huge pages, if they are to be had and not chosen.

  To be called by a program before it does anything. Returns where memory is not what a
  step waits for (on accelerators), where the system or its C library has no such pages,
  and where `GLIBC_TUNABLES` says already whether to take them:
  "glibc.malloc.hugetlb=0" keeps the small ones.
  """
  if not sys.executable or not are_wanted(os.environ) or not _are_available():
    return
  os.environ[VARIABLE] = with_them(os.environ.get(VARIABLE, ""))
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def are_wanted(environment: Mapping[str, str]) -> bool:
  """Tells whether a program of this environment computes on a CPU, and has no choice.

  Args:
    environment: variables.
  """
  if _SETTING in environment.get(VARIABLE, ""):
    return False
  platforms = environment.get("JAX_PLATFORMS", "")
  if platforms:
    return platforms == "cpu"
  # Without starting JAX, which would take the devices.
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  return not plugins and not _is_installed("libtpu")


def with_them(settings: str) -> str:
  """Returns settings of the C library with huge pages among them.

  Args:
    settings: the others, as they stand in `GLIBC_TUNABLES`.
  """
  return ":".join(filter(None, [settings, f"{_SETTING}=1"]))


def _is_installed(distribution: str) -> bool:
  """Tells whether pip knows a distribution."""
  try:
    importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return False
  return True


def _are_available() -> bool:
  """Tells whether the system gives huge pages to those who want them."""
  name, version = platform.libc_ver()
  if name != "glibc":
    return False
  numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
  if numbers < _GLIBC:
    return False
  try:
    # The choice stands in brackets: "always [madvise] never".
    return "[never]" not in _SYSTEM.read_text()
  except OSError:
    return False
