"""Texts of errors."""


def summary(error: Exception) -> str:
  """Returns the type and the first line of a foreign error, for a one-line message."""
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
