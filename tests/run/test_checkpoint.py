"""Checkpoints: exact, sealed, and honest about damage."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.errors import CheckpointError, StorageError
from jaxdistill.run import checkpoint


@pytest.fixture
def tree(rng):
  return {"a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "key": jax.random.key(7),
          "nested": {"step": jnp.int32(5), "half": jnp.ones((2,), jnp.bfloat16)}}


def plain(tree):
  return jax.tree.map(np.asarray, checkpoint._raw_keys(tree))


def test_round_trip_keeps_every_bit(tree, tmp_path):
  checkpoint.save(tmp_path / "c", tree, note="x")
  restored, manifest = checkpoint.load(tmp_path / "c", tree)
  assert jax.tree.structure(restored) == jax.tree.structure(tree) and manifest["note"] == "x"
  for old, new in zip(jax.tree.leaves(plain(tree)), jax.tree.leaves(plain(restored))):
    assert old.dtype == new.dtype
    np.testing.assert_array_equal(old, new)
  bare, _ = checkpoint.load(tmp_path / "c")
  np.testing.assert_array_equal(bare["a"], tree["a"])


def mutate(path, how):
  data = path.read_bytes()
  if how == "delete":
    path.unlink()
  elif how == "flip":
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if data else b"x")
  else:
    path.write_bytes({"empty": b"", "half": data[:len(data) // 2], "append": data + b"x"}[how] if data else b"x")


@pytest.mark.parametrize("how", ["delete", "empty", "half", "flip", "append"])
def test_damage_to_any_file_is_found_and_named(tree, tmp_path, how):
  checkpoint.save(tmp_path / "sound", tree)
  files = [p.relative_to(tmp_path / "sound") for p in (tmp_path / "sound").rglob("*") if p.is_file()]
  assert len(files) > 3
  for i, name in enumerate(files):
    copy = tmp_path / str(i)
    shutil.copytree(tmp_path / "sound", copy)
    mutate(copy / name, how)
    with pytest.raises(CheckpointError, match="is damaged"):
      checkpoint.load(copy, tree)
    assert name.name in checkpoint.damage(copy)


def test_a_file_that_was_added_is_damage(tree, tmp_path):
  checkpoint.save(tmp_path / "c", tree)
  (tmp_path / "c" / "data" / "extra").write_text("x")
  assert "extra was added" in checkpoint.damage(tmp_path / "c")


def test_another_tree_is_refused_with_the_differences(tree, tmp_path):
  checkpoint.save(tmp_path / "c", tree)
  other = {**tree, "a": jnp.zeros((3, 5)), "nested": {"step": jnp.float32(5), "half": tree["nested"]["half"]}}
  with pytest.raises(CheckpointError, match=r"\['a'\]: checkpoint float32\[3, 4\], run float32\[3, 5\]; "
                     r"\['nested'\]\['step'\]: checkpoint int32\[\], run float32\[\]"):
    checkpoint.load(tmp_path / "c", other)


def test_newest_sound_checkpoint_is_restored(tree, tmp_path, caplog):
  saved = checkpoint.Checkpoints(tmp_path, keep=3)
  assert saved.restore(tree) is None
  for step in (10, 20, 30):
    saved.save({**tree, "nested": {**tree["nested"], "step": jnp.int32(step)}}, step)
  (tmp_path / "000000040").mkdir()                   # half-written
  (tmp_path / "000000050").symlink_to("000000010")   # not ours
  (tmp_path / "notes.txt").write_text("mine")
  mutate(max((tmp_path / "000000030").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1), "flip")
  state, manifest = saved.restore(tree)
  assert manifest["step"] == 20 == int(state["nested"]["step"])
  assert "000000030 is damaged" in caplog.text
  assert (tmp_path / "000000040").is_dir() and (tmp_path / "notes.txt").exists()


def test_only_damaged_checkpoints_is_an_error_and_not_a_fresh_start(tree, tmp_path):
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(tree, 1)
  manifest = tmp_path / "000000001" / checkpoint.MANIFEST
  manifest.write_text(manifest.read_text()[:50])
  with pytest.raises(CheckpointError, match="no sound checkpoint .* cannot be read"):
    saved.restore(tree)


def test_old_checkpoints_go_only_when_the_new_one_is_sealed(tree, tmp_path, monkeypatch):
  saved = checkpoint.Checkpoints(tmp_path, keep=2)
  for step in (1, 2):
    saved.save(tree, step)
  def full(path, value):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr(checkpoint, "write_json", full)
  with pytest.raises(StorageError, match="cannot write checkpoint .* No space left on device.*MiB free"):
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
  assert json.loads(path.read_text()) == {"a": 2} and list(tmp_path.iterdir()) == [path]
