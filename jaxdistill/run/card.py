"""The card beside an exported network: what it takes to rebuild and to feed it.

`NET.safetensors` has its card in `NET.safetensors.json`. It says of which file it is,
so that another one's is noticed.
"""

from collections.abc import Mapping
import hashlib
import os
from pathlib import Path
from typing import Any

from jaxdistill.core.foreign import open_file, read_json
from jaxdistill.errors import CheckpointError, reason
from jaxdistill.run.manifest import write_json

# The key by which a card is known; its value is the version of its form.
_MARK = "jaxdistill_card"
_VERSION = 1
_MAX_BYTES = 2**26


def path_of(file: Path) -> Path:
  """Returns where the card of a file is."""
  return file.with_name(f"{file.name}.json")


def digest(file: Path) -> str:
  """Returns the SHA-256 of a file."""
  with open_file(file) as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()


def write(path: Path, contents: Mapping[str, Any], *, sha256: str) -> None:
  """Writes a card.

  Args:
    path: of the card.
    contents: JSON values.
    sha256: of the file that it belongs to.
  """
  write_json(path, {_MARK: _VERSION, "sha256": sha256, **contents})


def find(file: Path) -> dict[str, Any] | None:
  """Returns the card of a file; None if it has none.

  Raises:
    CheckpointError: if it cannot be read, or is that of another file.
  """
  path = path_of(file)
  if not os.path.lexists(path):
    return None
  try:
    contents = read_json(path, _MAX_BYTES)
  except (OSError, ValueError) as error:
    raise CheckpointError(
      f"{path}, the card of {file.name}, cannot be read ({reason(error)}): take "
      "the one that was exported with it"
    ) from error
  # Others put JSON beside their weights as well.
  if not isinstance(contents, dict) or _MARK not in contents:
    return None
  version = contents[_MARK]
  if version != _VERSION:
    raise CheckpointError(
      f"{path} is a card of version {version!r}, not {_VERSION}: use the version of "
      "jaxdistill that wrote it"
    )
  if contents.get("sha256") != digest(file):
    raise CheckpointError(
      f"{path} is the card of another file than {file.name}, or one of the two has "
      "changed: export the member again"
    )
  return contents
