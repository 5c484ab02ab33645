"""Memory that a process keeps for its next step instead of giving it back.

Runs do not use it: on one core it saves the time in which memory is mapped, but on two
the threads of XLA wait for the one arena that is left, and a step of small networks
takes 1.7 times as long.
"""

import ctypes
import importlib.metadata
import platform

import jax

# Parameters of glibc's mallopt, from its malloc.h, and what they are set to.
_ARENA_MAX = (-8, 1)
_MMAP_MAX = (-4, 0)
_TRIM_THRESHOLD = (-1, 2**31 - 1)


def keep_memory() -> bool:
  """Makes the C library keep what is freed, where steps run on a CPU under glibc.

  XLA frees the temporaries of a step on a CPU and allocates them again in the next;
  glibc returns arrays of that size to the system at once, which then has to map and
  clear hundreds of megabytes in every step. All three settings are needed: memory of
  other arenas is mapped too. To be called before JAX starts its threads, which bring
  arenas of their own. Other allocators and accelerators are left alone.

  Returns:
    Whether the memory will be kept.
  """
  if platform.libc_ver()[0] != "glibc" or not _runs_on_cpu():
    return False
  mallopt = ctypes.CDLL(None).mallopt
  accepted = []
  for parameter, value in (_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD):
    accepted.append(mallopt(parameter, value) == 1)
  return all(accepted)


def _runs_on_cpu() -> bool:
  """Tells, without starting JAX's backends, whether there is only the CPU."""
  chosen = getattr(jax.config, "jax_platforms", None)
  if chosen:
    return chosen == "cpu"
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  return not plugins and not _is_installed("libtpu")


def _is_installed(distribution: str) -> bool:
  """Tells whether pip knows a distribution."""
  try:
    importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return False
  return True
