"""Checkpoints that can be trusted: orbax for the arrays, a manifest of hashes.

Orbax keeps no checksum of array data and takes any directory with a number for a
checkpoint. Here a checkpoint is committed from the moment its manifest is there, and is
used only if every file still has the size and SHA-256 written in it.
"""

from collections.abc import Iterator
import hashlib
import json
import logging
import os
from pathlib import Path
import re
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxdistill.core.types import PyTree
from jaxdistill.errors import CheckpointError, StorageError

MANIFEST = "JD_MANIFEST.json"
_DATA = "data"
_PARTIAL = ".partial"
_STEP = re.compile(r"\d{9}")
_log = logging.getLogger(__name__)


def write_json(path: Path, value: Any) -> None:
  """Writes JSON so that a crash leaves either the old file or the new one."""
  temporary = path.with_name(path.name + ".tmp")
  with open(temporary, "w") as file:
    json.dump(value, file, indent=1)
    file.write("\n")
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
  directory = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


def _is_key(x: Any) -> bool:
  return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _raw_keys(tree: PyTree) -> PyTree:
  """Replaces typed PRNG keys by their data, which is what a file can hold."""

  def to_data(x):
    return jax.random.key_data(x) if _is_key(x) else x

  return jax.tree.map(to_data, tree)


def _typed_keys(tree: PyTree, like: PyTree) -> PyTree:
  """Wraps data as typed PRNG keys where `like` has them."""

  def to_key(x, wanted):
    return jax.random.wrap_key_data(x) if _is_key(wanted) else x

  return jax.tree.map(to_key, tree, like)


def _tree_spec(tree: PyTree) -> dict[str, str]:
  """Returns path -> dtype and shape of every leaf."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def _hash(path: Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> dict[str, list]:
  """Returns path -> [bytes, SHA-256] of every file in a directory but its manifest."""
  found = {}
  for path in sorted(directory.rglob("*")):
    if path.is_file() and path != directory / MANIFEST:
      found[str(path.relative_to(directory))] = [path.stat().st_size, _hash(path)]
  return found


def save(directory: Path, tree: PyTree, **extra: Any) -> None:
  """Writes a pytree of arrays and commits it by its manifest.

  Args:
    directory: where; anything of the same name that is there is replaced.
    tree: arrays, typed PRNG keys included.
    **extra: JSON values kept in the manifest.

  Raises:
    StorageError: if it cannot be written; what was there before stays.
  """
  directory = directory.absolute()
  partial = directory.with_name(f".{directory.name}{_PARTIAL}")
  tree = _raw_keys(tree)
  try:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(partial / _DATA, tree)
    manifest = {"files": _files(partial), "tree": _tree_spec(tree), **extra}
    write_json(partial / MANIFEST, manifest)
    if directory.exists():
      shutil.rmtree(directory)
    os.replace(partial, directory)
  except (OSError, ValueError) as error:
    shutil.rmtree(partial, ignore_errors=True)
    existing = next(path for path in partial.parents if path.exists())
    free = shutil.disk_usage(existing).free
    reason = str(error).splitlines()[0]
    raise StorageError(
      f"cannot write checkpoint {directory}: {reason} ({free / 2**20:.0f} MiB free): "
      "make room or choose "
      "another workdir"
    ) from error


def remove_partial(directory: Path) -> None:
  """Removes what a killed process had begun to save below `directory`."""
  for path in list(directory.rglob(f".*{_PARTIAL}")):
    shutil.rmtree(path)


def damage(directory: Path) -> str | None:
  """Returns what is wrong with a committed directory; None if it is intact."""
  try:
    manifest = json.loads((directory / MANIFEST).read_text())
    expected = manifest["files"]
  except (OSError, ValueError, KeyError) as error:
    return f"{MANIFEST} cannot be read ({error})"
  found = _files(directory)
  for name in sorted(expected.keys() | found.keys()):
    if name not in found:
      return f"{name} is missing"
    if name not in expected:
      return f"{name} was added"
    if expected[name] != found[name]:
      return f"{name} has changed"
  return None


def load(directory: Path, like: PyTree | None = None) -> tuple[PyTree, dict[str, Any]]:
  """Reads a committed directory.

  Args:
    directory: written by `save`.
    like: pytree of arrays or `jax.ShapeDtypeStruct` with shardings to restore into;
      None gives nested dicts of numpy arrays.

  Returns:
    (tree, manifest).

  Raises:
    CheckpointError: if it is damaged, or its tree is another one than `like`, naming
      the differences.
  """
  directory = Path(directory).absolute()
  problem = damage(directory)
  if problem:
    raise CheckpointError(
      f"checkpoint {directory} is damaged: {problem}: use another one"
    )
  return _read(directory, like)


def _read(directory: Path, like: PyTree | None) -> tuple[PyTree, dict[str, Any]]:
  """Reads a directory that has been found undamaged."""
  manifest = json.loads((directory / MANIFEST).read_text())
  with ocp.StandardCheckpointer() as checkpointer:
    if like is None:
      tree = checkpointer.restore(directory / _DATA)
      return jax.tree.map(np.asarray, tree), manifest
    raw = jax.eval_shape(_raw_keys, like)
    _require_same_tree(directory, manifest["tree"], _tree_spec(raw))

    def placed(x, wanted):
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted.sharding)

    tree = checkpointer.restore(directory / _DATA, jax.tree.map(placed, raw, like))
    return _typed_keys(tree, like), manifest


def _require_same_tree(
  directory: Path, saved: dict[str, str], wanted: dict[str, str]
) -> None:
  """Raises CheckpointError for another tree.

  Orbax casts dtypes silently, so the comparison is ours.
  """
  differing = []
  for name in sorted(saved.keys() | wanted.keys()):
    there, here = saved.get(name, "nothing"), wanted.get(name, "nothing")
    if there != here:
      differing.append(f"{name}: checkpoint {there}, run {here}")
  if not differing:
    return
  told = "; ".join(differing[:5])
  if len(differing) > 5:
    told += f" and {len(differing) - 5} more"
  raise CheckpointError(
    f"checkpoint {directory} holds another state: {told}: use another workdir"
  )


class Checkpoints:
  """The numbered checkpoints of a run: the newest `keep` of `<directory>/<step>`."""

  def __init__(self, directory: Path, keep: int = 2):
    """Names the directory; nothing is written yet."""
    self._directory = directory
    self._keep = keep

  def _committed(self) -> Iterator[Path]:
    """Yields committed step directories, newest first, and nothing else."""
    if not self._directory.is_dir():
      return
    for path in sorted(self._directory.iterdir(), reverse=True):
      is_step = _STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
      if is_step and (path / MANIFEST).is_file():
        yield path

  def save(self, state: PyTree, step: int, **extra: Any) -> Path:
    """Commits the state of `step`, then deletes the oldest ones beyond `keep`."""
    path = self._directory / f"{step:09d}"
    save(path, state, step=step, **extra)
    for old in list(self._committed())[self._keep :]:
      shutil.rmtree(old)
    return path

  def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """Restores the newest intact checkpoint, skipping damaged ones with a warning.

    Args:
      like: the state to restore into, with shardings.

    Returns:
      (state, manifest), or None if there is no checkpoint yet.

    Raises:
      CheckpointError: if there are checkpoints but all are damaged, or the intact one
        does not fit.
    """
    problems = []
    for path in self._committed():
      path = path.absolute()
      problem = damage(path)
      if not problem:
        return _read(path, like)
      problems.append(f"{path.name}: {problem}")
      _log.warning("checkpoint %s is damaged and skipped: %s", path, problem)
    if problems:
      raise CheckpointError(
        f"no intact checkpoint in {self._directory}: {'; '.join(problems)}: start "
        "again in another workdir"
      )
    return None
