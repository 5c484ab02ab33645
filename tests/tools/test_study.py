"""The command `study`: it goes on where it was, and processes share its cells."""

import json
import subprocess
import sys

import pytest

from jaxdistill import errors
from jaxdistill.tools import study
from tests.helpers import runs
from tests.run.test_study import HEAD, PAIR

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(f'{HEAD}  return Study("mine", ({PAIR}), (0, 1))\n')
  return [
    f"--config={path}",
    f"--out={tmp_path / 'out'}",
    "--config.steps=4",
    "--config.mesh.devices=1",
  ]


def results(tmp_path):
  return json.loads((tmp_path / "out" / "results.json").read_text())


def test_done_cells_are_skipped_and_results_are_those_of_the_runs(
  command, tmp_path, capsys
):
  assert study.main([*command, "--only=*/seed0"]) == 0
  assert [cell["name"] for cell in results(tmp_path)["cells"]] == [
    "alone/seed0",
    "dml/seed0",
  ]
  summary = tmp_path / "out" / "cells" / "alone" / "seed0" / "summary.json"
  written = summary.stat().st_mtime_ns
  capsys.readouterr()
  assert study.main([*command, "--dry-run"]) == 0
  said = capsys.readouterr().out
  assert "2 of 4 cells done" in said and "would run dml/seed1" in said
  assert study.main(command) == 0
  assert summary.stat().st_mtime_ns == written

  found = results(tmp_path)
  assert len(found["cells"]) == 4
  for cell in found["cells"]:
    run = tmp_path / "out" / "cells" / cell["name"]
    own = json.loads((run / "summary.json").read_text())
    assert cell["digest"] == own["config_digest"]
    for name, member in cell["members"].items():
      assert member["last"] == own["members"][name]["last"]
  # A pair of seeds begins alike.
  firsts = [cell["members"]["net.0"]["last"] for cell in found["cells"][:2]]
  assert firsts[0] != firsts[1]
  capsys.readouterr()
  assert study.main([*command, "--list"]) == 0
  assert capsys.readouterr().out.count("done   net.0") == 4
  assert study.main([*command, "--config.batch_size=32"]) == 2
  assert "under cells that were begun" in capsys.readouterr().err


def test_processes_share_the_cells(command, tmp_path):
  result = subprocess.run(
    [sys.executable, "-m", "jaxdistill", "study", *command, "--jobs=2"],
    capture_output=True,
    text=True,
    cwd=runs.ROOT,
    env=runs.environment(),
    timeout=900,
  )
  assert result.returncode == 0, result.stderr
  assert len(results(tmp_path)["cells"]) == 4
  # No cell was done twice: each is told once.
  assert result.stdout.count("alone/seed0: net.0") == 1


def test_a_cell_that_fails_is_named_and_the_others_are_done(command, tmp_path, capsys):
  wild = "--config.optimizer.learning_rate=1e30"
  code = study.main([*command, wild, "--config.patience=1 steps"])
  assert code == errors.DivergedError.exit_code
  assert "4 cells failed, the first is alone/seed0" in capsys.readouterr().err
