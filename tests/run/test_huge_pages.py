"""Whether a program starts itself anew with huge pages, and that it does."""

import os
import subprocess
import sys

import pytest

from jaxdistill.run import huge_pages
from tests.helpers import runs

SETTING = "glibc.malloc.hugetlb"


@pytest.mark.parametrize(
  "environment, wanted",
  [
    ({"JAX_PLATFORMS": "cpu"}, True),
    ({"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.check=1"}, True),
    ({"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": f"{SETTING}=0"}, False),
    ({"JAX_PLATFORMS": "cuda"}, False),
    ({"JAX_PLATFORMS": "cuda,cpu"}, False),
  ],
)
def test_they_are_for_computing_on_a_cpu_unless_chosen(environment, wanted):
  assert huge_pages.are_wanted(environment) == wanted


def test_other_settings_stay():
  assert huge_pages.with_them("") == f"{SETTING}=1"
  kept = huge_pages.with_them("glibc.malloc.check=1")
  assert kept == f"glibc.malloc.check=1:{SETTING}=1"


@pytest.mark.slow
@pytest.mark.skipif(
  not huge_pages._are_available(), reason="this system has no huge pages to give"
)
@pytest.mark.parametrize("chosen", ["", f"{SETTING}=0"])
@pytest.mark.parametrize("module", ["jaxdistill.main", "jaxdistill"])
def test_a_run_starts_itself_anew_with_them_once(tmp_path, module, chosen):
  config = tmp_path / "mine.py"
  config.write_text("import os\nraise ValueError(os.environ['GLIBC_TUNABLES'])\n")
  train = ["train"] if module == "jaxdistill" else []
  result = subprocess.run(
    [sys.executable, "-m", module, *train, f"--config={config}"],
    capture_output=True,
    text=True,
    cwd=runs.ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", huge_pages.VARIABLE: chosen},
  )
  assert result.returncode == 2
  assert (chosen or f"{SETTING}=1") in result.stderr
