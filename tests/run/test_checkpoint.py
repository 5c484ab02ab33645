"""Checkpoints: exact, committed by a manifest, and honest about damage."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.errors import CheckpointError, StorageError
from jaxdistill.run import checkpoint
from tests.helpers import toy


@pytest.fixture
def tree(rng):
  return {
    "a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
    "key": jax.random.key(7),
    "nested": {"step": jnp.int32(5), "half": jnp.ones((2,), jnp.bfloat16)},
  }


def test_round_trip_keeps_every_bit(tree, tmp_path):
  checkpoint.save(tmp_path / "c", tree, note="x")
  restored, manifest = checkpoint.load(tmp_path / "c", tree)
  assert manifest["note"] == "x"
  assert jax.tree.structure(restored) == jax.tree.structure(tree)
  before = jax.tree.leaves(toy.arrays(tree))
  after = jax.tree.leaves(toy.arrays(restored))
  for old, new in zip(before, after, strict=True):
    assert old.dtype == new.dtype
    np.testing.assert_array_equal(old, new)
  bare, _ = checkpoint.load(tmp_path / "c")
  np.testing.assert_array_equal(bare["a"], tree["a"])


def damage_file(path, how):
  data = path.read_bytes()
  if how == "delete":
    path.unlink()
  elif not data:
    path.write_bytes(b"x")
  elif how == "flip":
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
  elif how == "empty":
    path.write_bytes(b"")
  elif how == "half":
    path.write_bytes(data[: len(data) // 2])
  else:
    path.write_bytes(data + b"x")


@pytest.mark.parametrize("how", ["delete", "empty", "half", "flip", "append"])
def test_damage_to_any_file_is_found_and_named(tree, tmp_path, how):
  intact = tmp_path / "intact"
  checkpoint.save(intact, tree)
  files = [p.relative_to(intact) for p in intact.rglob("*") if p.is_file()]
  assert len(files) > 3
  for i, name in enumerate(files):
    copy = tmp_path / str(i)
    shutil.copytree(intact, copy)
    damage_file(copy / name, how)
    with pytest.raises(CheckpointError, match="is damaged"):
      checkpoint.load(copy, tree)
    assert name.name in checkpoint.damage(copy)


def test_a_file_that_was_added_is_damage(tree, tmp_path):
  checkpoint.save(tmp_path / "c", tree)
  (tmp_path / "c" / "data" / "extra").write_text("x")
  assert "extra was added" in checkpoint.damage(tmp_path / "c")


def test_another_tree_is_refused_with_the_differences(tree, tmp_path):
  checkpoint.save(tmp_path / "c", tree)
  nested = {**tree["nested"], "step": jnp.float32(5)}
  other = {**tree, "a": jnp.zeros((3, 5)), "nested": nested}
  shapes = "['a']: checkpoint float32[3, 4], run float32[3, 5]"
  dtypes = "['nested']['step']: checkpoint int32[], run float32[]"
  with pytest.raises(CheckpointError, match=re.escape(f"{shapes}; {dtypes}")):
    checkpoint.load(tmp_path / "c", other)


def largest_file(directory):
  files = [path for path in directory.rglob("*") if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def test_newest_intact_checkpoint_is_restored(tree, tmp_path, caplog):
  saved = checkpoint.Checkpoints(tmp_path, keep=3)
  assert saved.restore(tree) is None
  for step in (10, 20, 30):
    nested = {**tree["nested"], "step": jnp.int32(step)}
    saved.save({**tree, "nested": nested}, step)
  half_written = tmp_path / "000000040"
  half_written.mkdir()
  (tmp_path / "000000050").symlink_to("000000010")
  (tmp_path / "notes.txt").write_text("mine")
  damage_file(largest_file(tmp_path / "000000030"), "flip")
  state, manifest = saved.restore(tree)
  assert manifest["step"] == int(state["nested"]["step"]) == 20
  assert "000000030 is damaged" in caplog.text
  assert half_written.is_dir()
  assert (tmp_path / "notes.txt").exists()


def test_only_damaged_checkpoints_is_an_error_and_not_a_fresh_start(tree, tmp_path):
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(tree, 1)
  manifest = tmp_path / "000000001" / checkpoint.MANIFEST
  manifest.write_text(manifest.read_text()[:50])
  with pytest.raises(CheckpointError, match=r"no intact checkpoint .* cannot be read"):
    saved.restore(tree)


def test_old_checkpoints_go_only_when_the_new_one_is_committed(
  tree, tmp_path, monkeypatch
):
  saved = checkpoint.Checkpoints(tmp_path, keep=2)
  for step in (1, 2):
    saved.save(tree, step)

  def disk_full(path, value):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(checkpoint, "write_json", disk_full)
  told = r"cannot write checkpoint .* No space left on device.*MiB free"
  with pytest.raises(StorageError, match=told):
    saved.save(tree, 3)
  monkeypatch.undo()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["000000001", "000000002"]
  saved.save(tree, 3)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["000000002", "000000003"]


def test_what_a_killed_process_left_is_removed(tree, tmp_path):
  checkpoint.save(tmp_path / "members" / "best", tree)
  (tmp_path / "members" / ".best.partial" / "data").mkdir(parents=True)
  checkpoint.remove_partial(tmp_path)
  assert [p.name for p in (tmp_path / "members").iterdir()] == ["best"]


def test_write_json_replaces_whole_files(tmp_path):
  path = tmp_path / "x.json"
  checkpoint.write_json(path, {"a": 1})
  checkpoint.write_json(path, {"a": 2})
  assert json.loads(path.read_text()) == {"a": 2}
  assert list(tmp_path.iterdir()) == [path]
