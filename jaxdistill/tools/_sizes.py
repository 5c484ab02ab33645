"""Sizes of images on the command line."""

import re

from jaxdistill.errors import require

_MOST = 2**16


def parse_size(text: str) -> tuple[int, int] | None:
  """Returns height and width of "32" or "32x48"; None of "".

  Raises:
    ConfigError: for anything else.
  """
  if not text:
    return None
  found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
  require(found is not None, f"--size must be like 32 or 32x48, got {text!r}")
  assert found
  height = int(found[1])
  width = int(found[2] or found[1])
  require(
    0 < min(height, width) and max(height, width) < _MOST,
    f"--size must be of 1 to {_MOST - 1} pixels, got {text!r}",
  )
  return height, width
