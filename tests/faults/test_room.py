"""Disks and memory that are too small, or go away: one line; what was saved stays."""

import errno
import os
import shutil
import signal
import subprocess
import time

import jax
import jax.numpy as jnp
import pytest

from jaxdistill.errors import OutOfMemoryError, StorageError
from jaxdistill.run import checkpoint, manifest, room, workdir
from tests.helpers import runs

SHAPES = {"a": jax.ShapeDtypeStruct((2**20,), jnp.float32)}
SIZE = 2**22

# Memory.


def test_bytes_of_a_state_are_those_of_its_arrays():
  tree = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(5, jnp.bfloat16), "c": jnp.int32(1)}
  assert room.bytes_of(tree) == 48 + 10 + 4
  assert room.bytes_of(SHAPES) == SIZE
  key = jax.eval_shape(lambda: {"key": jax.random.key(0)})
  assert room.bytes_of(key) == 8


@pytest.mark.parametrize(
  "error, wanted",
  [
    (
      jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 17592186044416 bytes."
      ),
      r" allocating 17592186044416 bytes \(16 TiB\)",
    ),
    (
      jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Ran out: failed to allocate 3.50GiB\nand more"
      ),
      r" allocating 3\.50GiB",
    ),
    (MemoryError(), ""),
  ],
)
def test_too_little_memory_is_told_with_what_takes_less(error, wanted):
  config = runs.config()
  told = f"^out of memory{wanted}: the state alone takes 4 MiB: lower batch_size"
  with (
    pytest.raises(OutOfMemoryError, match=told) as caught,
    room.shortage_explained(config, SHAPES),
  ):
    raise error
  assert caught.value.exit_code == 4
  for advice in ("now 64", "members", "dtype=bfloat16", "mesh.devices"):
    assert advice in str(caught.value)


def test_another_error_of_jax_is_not_taken_for_it():
  with (
    pytest.raises(jax.errors.JaxRuntimeError),
    room.shortage_explained(runs.config(), SHAPES),
  ):
    raise jax.errors.JaxRuntimeError("INTERNAL: a slip")


def test_a_real_allocation_that_is_too_large_is_told():
  told = "out of memory allocating 17592186044416 bytes"
  with (
    pytest.raises(OutOfMemoryError, match=told),
    room.shortage_explained(runs.config(), SHAPES),
  ):
    jnp.zeros(2**42, jnp.float32).block_until_ready()


def test_a_state_larger_than_the_memory_is_refused():
  shapes = {"a": jax.ShapeDtypeStruct((2**45,), jnp.float32)}
  with pytest.raises(OutOfMemoryError, match="state takes 128 TiB, a device has"):
    room.require_fits(shapes)
  room.require_fits(SHAPES)


# Disks.


@pytest.fixture
def free(monkeypatch):
  """Sets the free bytes of every disk."""

  def set_free(number):
    usage = shutil.disk_usage("/")._replace(free=number)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage)

  return set_free


def test_a_disk_without_room_for_two_checkpoints_is_refused(tmp_path, free):
  checkpoints = checkpoint.Checkpoints(tmp_path / "run", keep=2)
  free(2 * SIZE - 1)
  with pytest.raises(StorageError, match="no room for two checkpoints of 4 MiB, 8 MiB"):
    checkpoints.require_room(SHAPES)
  free(2 * SIZE)
  told = "warning: keep_checkpoints=2 will take 12 MiB more, 8 MiB free"
  assert told in checkpoints.require_room(SHAPES)
  free(3 * SIZE)
  assert checkpoints.require_room(SHAPES) == ""


def test_checkpoints_that_are_there_need_no_more_room(tmp_path, free):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=2)
  for step in (1, 2):
    checkpoints.save({"a": jnp.zeros(3)}, step, history={})
  free(SIZE)
  assert checkpoints.require_room(SHAPES) == ""
  free(SIZE - 1)
  with pytest.raises(StorageError):
    checkpoints.require_room(SHAPES)


def full(*args, **kwargs):
  del args, kwargs
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_lock_that_cannot_be_written_is_told(tmp_path, monkeypatch):
  monkeypatch.setattr(workdir.os, "write", full)
  told = "cannot be written: No space left on device: choose another with --workdir"
  with pytest.raises(StorageError, match=told), workdir.locked(tmp_path / "run"):
    pass


def test_whatever_cannot_be_written_is_named_with_what_is_free(tmp_path, monkeypatch):
  told = rf"^workdir {tmp_path}: .* cannot be written: No space .* \(.* free\): make"
  with pytest.raises(StorageError, match=told), workdir.locked(tmp_path):
    monkeypatch.setattr(manifest.os, "fsync", full)
    workdir.bind_config(tmp_path, runs.config(), goes_on=lambda old: False)
  # Neither half a file nor a temporary one.
  assert [path.name for path in tmp_path.iterdir()] == ["LOCK"]


def test_a_pipe_that_breaks_is_not_the_disks_fault(tmp_path):
  with pytest.raises(BrokenPipeError), workdir.locked(tmp_path):
    raise BrokenPipeError


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_a_workdir_that_is_gone_is_told(tmp_path, how):
  path = tmp_path / "run"
  told = f"workdir {path} has been moved or deleted during the run: move it back"
  with pytest.raises(StorageError, match=told), workdir.locked(path) as in_place:
    in_place()
    if how == "deleted":
      shutil.rmtree(path)
    else:
      path.rename(tmp_path / "elsewhere")
    if how == "replaced":
      path.mkdir()
      (path / "LOCK").write_text("")
    in_place()


# Whole runs.


@pytest.fixture
def disk(tmp_path):
  """Mounts a small disk; skips the test where that is not allowed."""
  mounted = []

  def mount(size):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
      pytest.skip(f"mount is not allowed here: {result.stderr.strip()}")
    mounted.append(place)
    return place

  yield mount
  for place in mounted:
    subprocess.run(["umount", "-l", str(place)], check=True)


def assert_refused(result, message, strict=True):
  """Exit code 4, and one line of error.

  Where a write fails inside a save, several threads of tensorstore may print that they
  come too late, in the middle of our line as well: then nothing is said of the others.
  """
  code, said = result
  prefix = "jaxdistill: error: "
  [line] = [line for line in said.splitlines() if prefix in line]
  assert code == 4, said
  assert message in line, said
  if strict:
    assert line.startswith(prefix) and len(line) <= len(prefix) + 300
    assert "Traceback" not in said and "Exception ignored" not in said


def outcome(result):
  return result.returncode, result.stderr


def newest_is_intact(path):
  steps = sorted(path.glob("[0-9]*"))
  assert steps
  checkpoint.load(steps[-1])


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_refused_before_compiling(tmp_path, disk):
  place = disk("64k")
  config = runs.write_config(tmp_path)
  result = runs.run(config, f"--workdir={place / 'run'}")
  assert_refused(outcome(result), "no room for two checkpoints")
  assert "Compiling" not in result.stdout


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path, disk):
  place = disk("800k")
  config = runs.write_config(tmp_path)
  longer = "--config.steps=2000"
  with runs.started(config, f"--workdir={place / 'run'}", longer) as process:
    _, said = process.communicate(timeout=500)
  result = (process.returncode, said)
  assert_refused(result, "No space left on device")
  newest_is_intact(place / "run" / "checkpoints")


@pytest.mark.slow
def test_a_disk_that_is_read_only_is_refused_at_the_start(tmp_path, disk):
  place = disk("64m")
  config = runs.write_config(tmp_path)
  subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
  result = runs.run(config, f"--workdir={place / 'run'}")
  assert_refused(outcome(result), "cannot be written: Read-only file system")
  assert "Compiling" not in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kib", [4, 48])
def test_files_that_cannot_grow_end_the_run_in_one_line(tmp_path, kib):
  """A limit on the size of a file: of a checkpoint, of the events."""
  config = runs.write_config(tmp_path)
  command = runs.command(config, f"--workdir={tmp_path / 'run'}", "--config.steps=1000")
  result = subprocess.run(
    ["bash", "-c", f'ulimit -f {kib}; exec "$@"', "bash", *command],
    capture_output=True,
    text=True,
    timeout=600,
    cwd=runs.ROOT,
    env=runs.environment(),
  )
  assert_refused(outcome(result), "File too large", strict=kib > 4)


def _wait_for_a_checkpoint(path, process):
  """Waits until a run has written a checkpoint into its workdir."""
  deadline = time.time() + 200
  while not list(path.glob("checkpoints/0*")):
    assert process.poll() is None and time.time() < deadline
    time.sleep(0.02)


@pytest.mark.slow
def test_a_workdir_that_is_moved_during_a_run_ends_it(tmp_path):
  config = runs.write_config(tmp_path)
  path = tmp_path / "run"
  with runs.started(config, f"--workdir={path}", "--config.steps=4000") as process:
    _wait_for_a_checkpoint(path, process)
    path.rename(tmp_path / "elsewhere")
    _, said = process.communicate(timeout=200)
  assert_refused((process.returncode, said), "has been moved or deleted during the run")
  assert not path.exists() or not list(path.glob("checkpoints/0*"))
  newest_is_intact(tmp_path / "elsewhere" / "checkpoints")


@pytest.mark.slow
def test_output_that_nobody_reads_ends_a_run_quietly(tmp_path):
  config = runs.write_config(tmp_path)
  path = tmp_path / "run"
  with runs.started(config, f"--workdir={path}", out=subprocess.PIPE) as process:
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=500) == 141
  assert said == ""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_signals_in_a_row_end_a_run_that_then_goes_on(tmp_path, number):
  config = runs.write_config(tmp_path)
  path = tmp_path / "run"
  with runs.started(config, f"--workdir={path}", "--config.steps=4000") as process:
    _wait_for_a_checkpoint(path, process)
    process.send_signal(number)
    process.send_signal(number)
    assert process.wait(timeout=200) in (75, -number, 130)
  newest_is_intact(path / "checkpoints")
