"""What a run sets in JAX: where compiled programs are kept, how products are made."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import stat
import tempfile

import jax

from jaxdistill.errors import reason

# Names that JAX knows as well; "default" leaves what it is set to.
PRECISIONS = ("default", "tensorfloat32", "float32")


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
  """Sets the precision of float32 products while the block runs.

  It holds for what is traced in any thread: JAX's own context would hold for this one
  alone, and a run compiles in others.

  Args:
    name: one of `PRECISIONS`.
  """
  if name == "default":
    yield
    return
  before = jax.config.values["jax_default_matmul_precision"]
  jax.config.update("jax_default_matmul_precision", name)
  try:
    yield
  finally:
    jax.config.update("jax_default_matmul_precision", before)


def keep_programs() -> str:
  """Makes JAX keep compiled programs for the next start, in the user's cache directory.

  Where JAX has been given a directory, or "" for none, that stays.

  Returns:
    A warning if they cannot be kept, "" otherwise.
  """
  if jax.config.values["jax_compilation_cache_dir"] is not None:
    return ""
  try:
    directory = _cache_directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_own(directory)
    with tempfile.TemporaryFile(dir=directory):
      pass
  except (OSError, RuntimeError) as error:
    return (
      f"warning: compiled programs are not kept for the next start: {_told(error)}: "
      "set JAX_COMPILATION_CACHE_DIR, or compilation_cache=False"
    )
  jax.config.update("jax_compilation_cache_dir", str(directory))
  return ""


def _cache_directory() -> Path:
  """Returns where this user's compiled programs are kept.

  Raises:
    RuntimeError: if the user has no home.
  """
  base = Path(os.environ.get("XDG_CACHE_HOME", ""))
  # A relative one is to be ignored, says the specification of these directories.
  if not base.is_absolute():
    base = Path.home() / ".cache"
  return base / "jaxdistill" / "xla"


def _require_own(directory: Path) -> None:
  """Raises PermissionError if others may write there: what is there will be run."""
  status = directory.stat()
  writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
  if status.st_uid != os.getuid() or writable:
    raise PermissionError(0, "others may write there", str(directory))


def _told(error: Exception) -> str:
  """Returns where something went wrong, and why."""
  where = getattr(error, "filename", None)
  if where:
    return f"{where}: {reason(error)}"
  return reason(error)
