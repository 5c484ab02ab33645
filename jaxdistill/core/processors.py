"""The processors that this process may use."""

import os


def processors() -> list[int]:
  """Returns their numbers, ascending; all there are where none can be set apart."""
  # Linux has it, macOS and Windows do not.
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))
