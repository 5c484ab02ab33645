"""Texts of errors."""


def summary(error: Exception) -> str:
  """Returns the type and the first line of a foreign error, for a one-line message."""
  kind = type(error).__name__
  lines = str(error).strip().splitlines()
  if not lines:
    return kind
  return f"{kind}: {lines[0][:100]}"
