"""What a run sets in JAX: a directory of compiled programs, the precision."""

import os
import threading

import jax
import jax.numpy as jnp
import pytest

from jaxdistill.run.jax_settings import keep_programs, matmul_precision
from tests.helpers import runs

DIRECTORY = "jax_compilation_cache_dir"


@pytest.fixture
def unset():
  """JAX without the tests' directory for compiled programs."""
  before = jax.config.values[DIRECTORY]
  jax.config.update(DIRECTORY, None)
  yield
  jax.config.update(DIRECTORY, before)


@pytest.mark.parametrize("given", [True, False])
def test_programs_are_kept_in_the_users_cache(unset, tmp_path, monkeypatch, given):
  # A relative one does not count.
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache") if given else "cache")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert keep_programs() == ""
  place = tmp_path / ("cache" if given else ".cache") / "jaxdistill" / "xla"
  assert jax.config.values[DIRECTORY] == str(place)
  assert list(place.iterdir()) == []
  assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("directory", ["", "/nowhere/else"])
def test_a_directory_that_jax_was_given_stays(unset, directory):
  jax.config.update(DIRECTORY, directory)
  assert keep_programs() == ""
  assert jax.config.values[DIRECTORY] == directory


@pytest.mark.parametrize(
  "how, why",
  [
    ("file", "xla: File exists: "),
    ("parent", "xla: Not a directory: "),
    ("others", "xla: others may write there: "),
  ],
)
def test_a_directory_that_is_no_good_is_a_warning(
  unset, tmp_path, monkeypatch, how, why
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  place = tmp_path / "jaxdistill" / "xla"
  if how == "parent":
    place.parent.write_text("")
  else:
    place.parent.mkdir()
  if how == "file":
    place.write_text("")
  if how == "others":
    place.mkdir()
    place.chmod(0o777)
  said = keep_programs()
  assert said.startswith("warning: compiled programs are not kept for the next start: ")
  assert why in said and "compilation_cache=False" in said
  assert jax.config.values[DIRECTORY] is None


@pytest.mark.slow
def test_the_second_start_compiles_nothing_and_trains_alike(tmp_path, monkeypatch):
  config = runs.write_config(tmp_path)
  environment = runs.environment()
  del environment["JAX_COMPILATION_CACHE_DIR"]
  environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
  monkeypatch.setattr(runs, "environment", lambda devices: environment)
  kept = []
  for name in ("first", "second"):
    result = runs.run(config, f"--workdir={tmp_path / name}")
    assert result.returncode == 0, result.stderr
    kept.append(sorted(os.listdir(tmp_path / "cache" / "jaxdistill" / "xla")))
  assert any(file.startswith("jit_run-") for file in kept[0])
  assert kept[0] == kept[1]
  runs.assert_same_run(tmp_path / "first", tmp_path / "second")


def lowered():
  """What a product is lowered to in a thread, as a run compiles in others."""
  found = []

  def lower():
    x = jnp.ones((2, 2))
    found.append(jax.jit(lambda x: x @ x).lower(x).as_text())

  thread = threading.Thread(target=lower)
  thread.start()
  thread.join()
  return found[0]


@pytest.mark.parametrize(
  "name, precision",
  [("default", "DEFAULT"), ("tensorfloat32", "HIGH"), ("float32", "HIGHEST")],
)
def test_products_have_the_precision_in_every_thread(name, precision):
  with matmul_precision(name):
    assert f"precision = [{precision}, {precision}]" in lowered()
  assert "precision = [DEFAULT, DEFAULT]" in lowered()
