"""What is installed: a wheel has the config files, and trains in any folder."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.helpers import runs

PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "jaxdistill", "configs")


@pytest.fixture
def wheel(tmp_path):
  """A wheel of the package, unpacked into a folder."""
  pytest.importorskip("setuptools", minversion="77")
  source = tmp_path / "source"
  source.mkdir()
  # Built elsewhere, as building leaves files beside the source.
  for name in PACKAGED:
    path = runs.ROOT / name
    if path.is_file():
      shutil.copy(path, source)
    else:
      shutil.copytree(path, source / name, symlinks=True)
  building = subprocess.run(
    [
      *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
      *("--no-index", "--wheel-dir", str(tmp_path), str(source)),
    ],
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert building.returncode == 0, building.stderr
  (path,) = tmp_path.glob("*.whl")
  site = tmp_path / "site"
  with zipfile.ZipFile(path) as archive:
    archive.extractall(site)
  shutil.rmtree(source)
  return site


def test_the_folder_of_the_package_leads_to_the_configs():
  folder = runs.ROOT / "jaxdistill" / "configs"
  assert folder.is_symlink() and folder.resolve() == runs.ROOT / "configs"


@pytest.mark.slow
def test_a_wheel_trains_by_the_name_of_a_config_in_any_folder(wheel, tmp_path):
  empty = tmp_path / "empty"
  empty.mkdir()

  def run(*args):
    return subprocess.run(
      [sys.executable, "-m", "jaxdistill", *args],
      capture_output=True,
      text=True,
      timeout=600,
      cwd=empty,
      env={**runs.environment(), "PYTHONPATH": str(wheel)},
    )

  (scripts,) = wheel.glob("*.dist-info/entry_points.txt")
  assert "jaxdistill = jaxdistill.__main__:script" in scripts.read_text()

  listed = run("configs")
  assert listed.returncode == 0, listed.stderr
  for path in (runs.ROOT / "configs").glob("*.py"):
    assert path.stem in listed.stdout.split()
    assert (wheel / "jaxdistill" / "configs" / path.name).is_file()

  trained = run(
    "train",
    "--config=digits_baselines:dml",
    "--config.cohort.resnet8=none",
    "--config.cohort.convnet.width=4",
    "--config.steps=2",
  )
  assert trained.returncode == 0, trained.stderr
  (summary,) = empty.glob("runs/digits_baselines-dml/*/summary.json")
  assert summary.is_file()
