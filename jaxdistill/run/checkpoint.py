"""Checkpoints that can be trusted: orbax for the arrays, a manifest of hashes.

Orbax keeps no checksum of array data and takes any directory with a number for a
checkpoint. Here a checkpoint is committed by its manifest, and used only if intact.
"""

from collections.abc import Container, Iterator
import contextlib
import errno
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
from jaxdistill.errors import CheckpointError, StorageError, reason
from jaxdistill.run import hosts, manifest
from jaxdistill.run.manifest import MANIFEST, Damaged
from jaxdistill.run.room import bytes_of, free_bytes, in_units

_DATA = "data"
_PARTIAL = ".partial"
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
_STEP = re.compile(r"\d{9}")
_log = logging.getLogger(__name__)


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


def _why(error: Exception) -> str:
  """Returns why a save failed; of tensorstore's long text, the system's error."""
  found = _SYSTEM_ERROR.search(str(error))
  if found:
    return os.strerror(int(found[1]))
  return reason(error)


@contextlib.contextmanager
def _logged_nowhere() -> Iterator[None]:
  """Silences the tracebacks that orbax's threads log of an error they also raise."""
  logger = logging.getLogger("absl")

  # One of its own for every save: two of them may go on at the same time.
  def refuse(record: logging.LogRecord) -> bool:
    return False

  logger.addFilter(refuse)
  try:
    yield
  finally:
    logger.removeFilter(refuse)


def fetch(tree: PyTree) -> PyTree:
  """Returns a pytree of device arrays as numpy arrays, typed PRNG keys as their data.

  They stay as they are when the arrays are donated.
  """
  return jax.device_get(_raw_keys(tree))


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

  def prepare() -> None:
    with _writing(directory, partial, tree):
      shutil.rmtree(partial, ignore_errors=True)
      # Before orbax finds out, whose threads then print tracebacks of their own.
      if free_bytes(directory) < bytes_of(tree):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      partial.mkdir(parents=True)

  def commit() -> None:
    with _writing(directory, partial, tree):
      manifest.commit(partial, _tree_spec(tree), extra)
      if directory.exists():
        shutil.rmtree(directory)
      os.replace(partial, directory)

  # Every process writes what it holds, into a folder that is the first one's.
  hosts.on_first(prepare)
  with _writing(directory, partial, tree):
    with _logged_nowhere(), _checkpointer() as checkpointer:
      checkpointer.save(partial / _DATA, tree)
  hosts.barrier("all have saved")
  hosts.on_first(commit)


def _checkpointer() -> ocp.StandardCheckpointer:
  """Returns what writes and reads arrays, in all processes together."""
  if not hosts.several():
    return ocp.StandardCheckpointer()
  # Where they are named, they wait for each other by the coordination service. The
  # devices of a CPU would wait for no more than half an hour.
  options = ocp.options.MultiprocessingOptions(
    active_processes=set(range(hosts.count()))
  )
  return ocp.StandardCheckpointer(multiprocessing_options=options)


@contextlib.contextmanager
def _writing(directory: Path, partial: Path, tree: PyTree) -> Iterator[None]:
  """Removes what was begun, and says what is missing, where it cannot be written.

  Args:
    directory: what is to be committed.
    partial: where it is written until then.
    tree: what is written.

  Raises:
    StorageError: in place of what was raised.
  """
  try:
    yield
  except (OSError, ValueError) as error:
    if hosts.is_of_others(error):
      raise
    if hosts.first():
      shutil.rmtree(partial, ignore_errors=True)
    raise StorageError(
      f"cannot write checkpoint {directory}: {_why(error)} "
      f"({in_units(bytes_of(tree))} needed, {in_units(free_bytes(directory))} free): "
      "make room or choose another workdir"
    ) from error


def remove_partial(*directories: Path) -> None:
  """Removes what a killed process had begun to save in these directories."""
  for directory in directories:
    for path in list(directory.glob(f".*{_PARTIAL}")):
      shutil.rmtree(path)


def load(directory: Path, like: PyTree | None = None) -> tuple[PyTree, dict[str, Any]]:
  """Reads a committed directory.

  Args:
    directory: written by `save`, on whatever devices.
    like: pytree of arrays or `jax.ShapeDtypeStruct` with shardings to restore into;
      None gives nested dicts of numpy arrays.

  Returns:
    (tree, manifest).

  Raises:
    CheckpointError: if it is damaged, or its tree is another one than `like`, naming
      the differences.
  """
  directory = Path(directory).absolute()
  try:
    contents = manifest.check(directory)
  except Damaged as error:
    raise CheckpointError(
      f"checkpoint {directory} is damaged: {error}: use another one"
    ) from error
  return _read(directory, contents, like), contents


def _read(directory: Path, contents: dict[str, Any], like: PyTree | None) -> PyTree:
  """Reads the arrays of a directory that has been found intact."""
  if like is None:
    return _read_as_numpy(directory / _DATA)
  raw = jax.eval_shape(_raw_keys, like)
  _require_same_tree(directory, contents["tree"], _tree_spec(raw))

  def placed(x, wanted):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted.sharding)

  with _checkpointer() as checkpointer:
    tree = checkpointer.restore(directory / _DATA, jax.tree.map(placed, raw, like))
  return _typed_keys(tree, like)


def _read_as_numpy(path: Path) -> PyTree:
  """Reads arrays to the host: the devices that wrote them need not exist here."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    saved = checkpointer.metadata(path).item_metadata
    to_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    restore_args = jax.tree.map(lambda _: to_numpy, saved.tree)
    return checkpointer.restore(path, restore_args=restore_args)


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
    self._directory = directory.absolute()
    self._keep = keep
    self._damaged: set[Path] = set()

  def _committed(self) -> Iterator[Path]:
    """Yields committed step directories, newest first, and nothing else."""
    if not self._directory.is_dir():
      return
    for path in sorted(self._directory.iterdir(), reverse=True):
      is_step = _STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
      if is_step and (path / MANIFEST).is_file():
        yield path

  def exist(self) -> bool:
    """Tells whether there is a committed checkpoint, intact or not."""
    return any(True for _ in self._committed())

  def require_room(self, state: PyTree) -> str:
    """Compares the free space with what the checkpoints of a run will take.

    Args:
      state: arrays or their shapes.

    Returns:
      A warning if not all that are kept will find room, "" otherwise.

    Raises:
      StorageError: if there is no room for two, of which one is always intact.
    """
    size = bytes_of(state)
    free = free_bytes(self._directory)
    saved = len(list(self._committed()))
    if free < max(1, 2 - saved) * size:
      raise StorageError(
        f"{self._directory}: no room for two checkpoints of {in_units(size)}, "
        f"{in_units(free)} free: make room or choose another with --workdir"
      )
    # While one is saved, all that are kept are still there.
    wanted = max(1, self._keep + 1 - saved) * size
    if free < wanted:
      return (
        f"warning: keep_checkpoints={self._keep} will take {in_units(wanted)} more, "
        f"{in_units(free)} free: lower it or make room"
      )
    return ""

  def save(self, state: PyTree, step: int, **extra: Any) -> Path:
    """Commits the state of `step`, then deletes the oldest ones beyond `keep`.

    Damaged checkpoints, and those of later steps, are neither counted nor deleted: an
    intact one is never given up for them.
    """
    path = self._directory / f"{step:09d}"
    save(path, state, step=step, **extra)
    self._damaged.discard(path)
    hosts.on_first(lambda: self._delete_before(path))
    return path

  def _delete_before(self, path: Path) -> None:
    """Deletes the oldest ones beyond `keep`, as `save` says."""
    counted = []
    for other in self._committed():
      if other not in self._damaged and other.name <= path.name:
        counted.append(other)
    for old in counted[self._keep :]:
      shutil.rmtree(old)

  def restore(
    self, like: PyTree, digests: Container[Any] | None = None
  ) -> tuple[PyTree, dict[str, Any]] | None:
    """Restores the newest intact checkpoint, skipping damaged ones with a warning.

    Args:
      like: the state to restore into, with shardings.
      digests: of the configurations whose checkpoints belong to this run; None for any.

    Returns:
      (state, manifest), or None if there is no checkpoint yet.

    Raises:
      CheckpointError: if there are checkpoints but all are damaged, or the intact one
        does not fit or belongs to another run.
    """
    # The first process looks at every file; all read what it has found intact.
    found = hosts.from_first(hosts.on_first(lambda: self._newest_intact(digests)))
    if found is None:
      return None
    name, contents = found
    return _read(self._directory / name, contents, like), contents

  def _newest_intact(
    self, digests: Container[Any] | None
  ) -> tuple[str, dict[str, Any]] | None:
    """Returns name and manifest of the checkpoint to restore; see `restore`."""
    problems = []
    for path in self._committed():
      try:
        contents = _checked_step(path)
      except Damaged as error:
        self._damaged.add(path)
        problems.append(f"{path.name}: {error}")
        _log.warning("checkpoint %s is damaged and skipped: %s", path, error)
        continue
      if digests is not None and contents.get("config_digest") not in digests:
        raise CheckpointError(
          f"checkpoint {path} belongs to another configuration than this workdir: move "
          "it away, or use another workdir"
        )
      return path.name, contents
    if problems:
      raise CheckpointError(
        f"no intact checkpoint in {self._directory}: {'; '.join(problems)}: start "
        "again in another workdir"
      )
    return None


def _checked_step(path: Path) -> dict[str, Any]:
  """Returns the manifest of a numbered checkpoint.

  Raises:
    Damaged: also if it is that of another step, or lacks what a run needs.
  """
  contents = manifest.check(path)
  if contents.get("step") != int(path.name):
    raise Damaged(f"its manifest is that of step {contents.get('step')}")
  if not isinstance(contents.get("history"), dict):
    raise Damaged("its manifest has no history")
  return contents
