"""Whether a program starts itself anew so that it keeps its memory; that it does."""

import os
import subprocess
import sys

import pytest

from jaxdistill.run import kept_memory
from tests.helpers import runs

CHOICE = "glibc.malloc.mmap_max=65536"
OTHER = "glibc.pthread.rseq=0"


@pytest.mark.parametrize(
  "environment, wanted",
  [
    ({"JAX_PLATFORMS": "cpu"}, True),
    ({"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": OTHER}, True),
    ({"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": CHOICE}, False),
    ({"JAX_PLATFORMS": "cuda"}, False),
    ({"JAX_PLATFORMS": "cuda,cpu"}, False),
  ],
)
def test_it_is_for_computing_on_a_cpu_unless_chosen(environment, wanted):
  assert kept_memory.is_wanted(environment) == wanted


def test_other_settings_stay():
  own = kept_memory.with_settings("")
  assert own.startswith("glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:")
  assert kept_memory.with_settings(OTHER) == f"{OTHER}:{own}"
  # Whoever has them does not start anew for ever.
  environment = {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": own}
  assert not kept_memory.is_wanted(environment)


@pytest.mark.slow
@pytest.mark.skipif(
  not kept_memory.is_available(), reason="this C library has no such settings"
)
@pytest.mark.parametrize("chosen", ["", CHOICE])
@pytest.mark.parametrize("module", ["jaxdistill.main", "jaxdistill"])
def test_a_run_starts_itself_anew_once(tmp_path, module, chosen):
  config = tmp_path / "mine.py"
  config.write_text("import os\nraise ValueError(os.environ['GLIBC_TUNABLES'])\n")
  train = ["train"] if module == "jaxdistill" else []
  result = subprocess.run(
    [sys.executable, "-m", module, *train, f"--config={config}"],
    capture_output=True,
    text=True,
    cwd=runs.ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", kept_memory.VARIABLE: chosen},
  )
  assert result.returncode == 2
  assert (chosen or kept_memory.with_settings("")) in result.stderr
