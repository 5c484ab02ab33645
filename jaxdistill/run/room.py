"""What a state takes in memory and on disk, what there is, and what to do about it."""

from collections.abc import Iterator
import contextlib
import math
from pathlib import Path
import re
import shutil

import jax

from jaxdistill.core.foreign import physical_memory
from jaxdistill.core.types import PyTree
from jaxdistill.errors import OutOfMemoryError
from jaxdistill.run.config import ConfigDict

_WANTED = re.compile(r"allocat\w* (\d+) ?bytes|allocat\w* ([\d.]+ ?[KMGT]i?B)")


def bytes_of(tree: PyTree) -> int:
  """Returns the bytes of all arrays of a pytree, of which shapes are enough."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    # Typed keys have no size of their own: two words of 32 bits.
    itemsize = getattr(leaf.dtype, "itemsize", 8)
    total += math.prod(leaf.shape) * itemsize
  return total


def bytes_per_device(tree: PyTree) -> int:
  """Returns the bytes that a device has of all arrays, as they are placed."""
  placed = []
  for leaf in jax.tree.leaves(tree):
    shape = leaf.shape
    if leaf.sharding is not None:
      shape = leaf.sharding.shard_shape(shape)
    placed.append(jax.ShapeDtypeStruct(shape, leaf.dtype))
  return bytes_of(placed)


def in_units(number: float) -> str:
  """Returns bytes as people read them: "1.5 GiB"."""
  for unit in ("B", "KiB", "MiB", "GiB"):
    if number < 1024:
      return f"{number:.3g} {unit}"
    number /= 1024
  return f"{number:.3g} TiB"


def free_bytes(path: Path) -> int:
  """Returns the free bytes of the disk that a path is on, or will be."""
  path = path.absolute()
  existing = next(place for place in (path, *path.parents) if place.exists())
  return shutil.disk_usage(existing).free


def _device_memory() -> int:
  """Returns the bytes of a device: what it reports, or the host's on a CPU."""
  statistics = jax.local_devices()[0].memory_stats() or {}
  return statistics.get("bytes_limit", physical_memory())


def resident_limit(resident_bytes: int) -> int:
  """Returns how much of a device's memory splits may take that are read from files.

  Args:
    resident_bytes: the key of the config; -1 is half of the memory, and no more than
      half of the host's, which keeps what it has read.
  """
  if resident_bytes >= 0:
    return resident_bytes
  host = physical_memory()
  # On a CPU, all devices have their copies in one memory.
  if jax.local_devices()[0].platform == "cpu":
    return host // 2 // jax.local_device_count()
  return min(_device_memory(), host) // 2


def require_fits(state: PyTree) -> None:
  """Refuses a state of which a device would have more than its whole memory.

  Args:
    state: arrays, or their shapes, and where they are placed.

  Raises:
    OutOfMemoryError: with both sizes.
  """
  needed = bytes_per_device(state)
  there = _device_memory()
  if needed > there:
    raise OutOfMemoryError(
      f"the cohort's state takes {in_units(needed)}, a device has {in_units(there)}: "
      "take fewer members or smaller networks, or spread them by mesh.member"
    )


@contextlib.contextmanager
def shortage_explained(config: ConfigDict, state: PyTree) -> Iterator[None]:
  """Tells in one line that memory ran out, how much was wanted, and what takes less.

  Args:
    config: of the run.
    state: its arrays, or their shapes.

  Raises:
    OutOfMemoryError: in place of JAX's error, or of Python's.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    text = str(error)
    exhausted = "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
    if not exhausted and not isinstance(error, MemoryError):
      raise
    raise OutOfMemoryError(
      f"out of memory{_wanted(text)}: the state alone takes "
      f"{in_units(bytes_of(state))}: lower batch_size (now {config.batch_size}) or "
      "cohort.<group>.members, set dtype=bfloat16, or use more mesh.devices"
    ) from error


def _wanted(text: str) -> str:
  """Returns how much could not be allocated, if an error tells it."""
  found = _WANTED.search(text)
  if not found:
    return ""
  if found[1]:
    return f" allocating {found[1]} bytes ({in_units(int(found[1]))})"
  return f" allocating {found[2]}"
