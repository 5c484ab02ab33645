"""Checkpoints: exact, committed by a manifest, and honest about damage."""

import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.errors import CheckpointError, StorageError
from jaxdistill.run import checkpoint, manifest
from tests.helpers import runs, toy


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
    told = f"is damaged: .*{re.escape(name.name)}"
    with pytest.raises(CheckpointError, match=told):
      checkpoint.load(copy, tree)


def test_a_file_that_was_added_is_damage(tree, tmp_path):
  checkpoint.save(tmp_path / "c", tree)
  (tmp_path / "c" / "data" / "extra").write_text("x")
  with pytest.raises(CheckpointError, match="is damaged: data/extra was added"):
    checkpoint.load(tmp_path / "c")


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
    saved.save({**tree, "nested": nested}, step, history={})
  half_written = tmp_path / "000000040"
  half_written.mkdir()
  (tmp_path / "000000050").symlink_to("000000010")
  (tmp_path / "notes.txt").write_text("mine")
  damage_file(largest_file(tmp_path / "000000030"), "flip")
  state, contents = saved.restore(tree)
  assert contents["step"] == int(state["nested"]["step"]) == 20
  assert "000000030 is damaged" in caplog.text
  assert half_written.is_dir()
  assert (tmp_path / "notes.txt").exists()


def test_only_damaged_checkpoints_is_an_error_and_not_a_fresh_start(tree, tmp_path):
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(tree, 1, history={})
  file = tmp_path / "000000001" / manifest.MANIFEST
  file.write_text(file.read_text()[:50])
  with pytest.raises(CheckpointError, match=r"no intact checkpoint .* cannot be read"):
    saved.restore(tree)


def test_old_checkpoints_go_only_when_the_new_one_is_committed(
  tree, tmp_path, monkeypatch
):
  saved = checkpoint.Checkpoints(tmp_path, keep=2)
  for step in (1, 2):
    saved.save(tree, step, history={})

  def disk_full(path, value):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(manifest, "write_json", disk_full)
  told = r"cannot write checkpoint .* No space left on device.*B needed, .*B free"
  with pytest.raises(StorageError, match=told):
    saved.save(tree, 3, history={})
  monkeypatch.undo()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["000000001", "000000002"]
  saved.save(tree, 3, history={})
  assert sorted(p.name for p in tmp_path.iterdir()) == ["000000002", "000000003"]


def test_what_a_killed_process_left_is_removed(tree, tmp_path):
  checkpoint.save(tmp_path / "members" / "best", tree)
  (tmp_path / "members" / ".best.partial" / "data").mkdir(parents=True)
  checkpoint.remove_partial(tmp_path / "members")
  assert [p.name for p in (tmp_path / "members").iterdir()] == ["best"]


def test_write_json_replaces_whole_files(tmp_path):
  path = tmp_path / "x.json"
  manifest.write_json(path, {"a": 1})
  manifest.write_json(path, {"a": 2})
  assert json.loads(path.read_text()) == {"a": 2}
  assert list(tmp_path.iterdir()) == [path]


def rewrite(directory, change):
  """Changes a manifest and gives it a valid hash, as a careful forger would."""
  contents = manifest.read(directory)
  change(contents)
  extra = {key: contents[key] for key in contents.keys() - {"files", "tree"}}
  manifest.commit(directory, contents["tree"], extra)


@pytest.mark.parametrize(
  "text", ["", "[]", "null", "{}", "5", '{"manifest": {}}', "[" * 9999]
)
def test_a_manifest_of_another_form_is_damage(tree, tmp_path, text):
  checkpoint.save(tmp_path / "c", tree)
  (tmp_path / "c" / manifest.MANIFEST).write_text(text)
  with pytest.raises(CheckpointError, match="is damaged: JD_MANIFEST.json"):
    checkpoint.load(tmp_path / "c")


def test_a_flipped_bit_anywhere_in_the_manifest_is_damage(tree, tmp_path):
  checkpoint.save(tmp_path / "c", {"a": tree["a"]}, step=3, best={"x": 0.5})
  file = tmp_path / "c" / manifest.MANIFEST
  data = file.read_bytes()
  for position in range(0, len(data), 7):
    flipped = bytearray(data)
    flipped[position] ^= 4
    file.write_bytes(bytes(flipped))
    try:
      contents = manifest.read(tmp_path / "c")
    except manifest.Damaged:
      continue
    # White space between tokens is no content.
    assert contents == json.loads(data)["manifest"]


def test_a_damaged_manifest_falls_back_to_the_checkpoint_before(tree, tmp_path, caplog):
  saved = checkpoint.Checkpoints(tmp_path, keep=3)
  for step in (1, 2, 3):
    saved.save(tree, step, history={})
  damage_file(tmp_path / "000000003" / manifest.MANIFEST, "flip")
  rewrite(tmp_path / "000000002", lambda contents: contents.update(step=9))
  _, contents = saved.restore(tree)
  assert contents["step"] == 1
  assert (
    "000000002 is damaged and skipped: its manifest is that of step 9" in caplog.text
  )


def test_an_intact_checkpoint_is_not_given_up_for_damaged_ones(tree, tmp_path):
  saved = checkpoint.Checkpoints(tmp_path, keep=1)
  saved.save(tree, 4, history={})
  checkpoint.save(tmp_path / "000000006", tree, step=6, history={})
  damage_file(largest_file(tmp_path / "000000006"), "flip")
  _, contents = saved.restore(tree)
  assert contents["step"] == 4
  saved.save(tree, 5, history={})
  assert saved.restore(tree)[1]["step"] == 5
  # The damaged one is in the past now, and still no reason to delete an intact one.
  saved.save(tree, 7, history={})
  assert sorted(p.name for p in tmp_path.iterdir()) == ["000000006", "000000007"]


def test_a_checkpoint_of_another_configuration_is_refused(tree, tmp_path):
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(tree, 1, history={}, config_digest="a")
  assert saved.restore(tree, {"a", "b"})[1]["step"] == 1
  with pytest.raises(CheckpointError, match="belongs to another configuration"):
    saved.restore(tree, {"b"})


def test_what_eight_devices_saved_loads_on_one(tree, tmp_path):
  mesh = jax.make_mesh((8,), ("data",))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  array = jnp.arange(16.0)
  checkpoint.save(tmp_path / "c", {"rows": jax.device_put(array, rows)})
  code = (
    "from pathlib import Path\nimport jax\nfrom jaxdistill.run import checkpoint\n"
    f"tree, _ = checkpoint.load(Path({str(tmp_path / 'c')!r}))\n"
    "print(jax.device_count(), type(tree['rows']).__name__, tree['rows'].sum())"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    timeout=120,
    env=runs.environment(devices=1),
  )
  assert result.stdout.split() == ["1", "ndarray", "120.0"], result.stderr
