"""A study: its file, fair controls, pairs of seeds, and what is kept of its cells."""

import pytest

from jaxdistill.errors import ConfigError
from jaxdistill.run import study
from jaxdistill.run.manifest import write_json
from tests.helpers import runs

HEAD = """
from jaxdistill.run.config import group, perturbation
from jaxdistill.run.study import Row, Study
from jaxdistill.run import recipes


def row(name, method, ops=(), **keys):
  config = recipes.digits(method)
  config.cohort.net = group("small.convnet", members=2, width=4)
  config.perturb = perturbation(ops=ops)
  return Row(name, config, **keys)


def get_study(argument=""):
"""


def load(tmp_path, rows, seeds="(0, 1)", *overrides):
  path = tmp_path / "mine.py"
  path.write_text(f'{HEAD}  return Study("mine", ({rows}), {seeds})\n')
  return study.load_study(str(path), overrides)


PAIR = 'row("alone", "independent"), row("dml", "dml"),'
NOISY = (
  'row("noisy", "independent", ("noise",)), row("best", "competitive", ("noise",)),'
)


def test_one_seed_of_everything_comes_first_and_seeds_pair(tmp_path):
  cells = study.cells_of(load(tmp_path, PAIR), tmp_path)
  names = [cell.name for cell in cells]
  assert names == ["alone/seed0", "dml/seed0", "alone/seed1", "dml/seed1"]
  for cell in cells:
    assert cell.config.seed == cell.config.data.seed == cell.seed


def test_the_control_has_the_same_perturbations(tmp_path):
  found = load(tmp_path, PAIR + NOISY)
  controls = {row.name: study.control_of(row, found).name for row in found.rows}
  assert controls == {
    "alone": "alone",
    "dml": "alone",
    "noisy": "noisy",
    "best": "noisy",
  }


@pytest.mark.parametrize(
  "rows, seeds, message",
  [
    (
      'row("alone", "independent"), row("b", "dml", ("noise",)),',
      "(0,)",
      "b has no control",
    ),
    (
      PAIR + 'row("c", "dml", control="d"),',
      "(0,)",
      "the control 'd', which is no row",
    ),
    (PAIR + PAIR, "(0,)", "two rows 'alone'"),
    ('row("../x", "independent"),', "(0,)", "cannot name a row"),
    ("", "(0,)", "no rows"),
    (PAIR, "()", "no seeds"),
    (PAIR, "(1, 1)", "a seed twice"),
  ],
)
def test_what_makes_no_study_is_refused(tmp_path, rows, seeds, message):
  with pytest.raises(ConfigError, match=message):
    load(tmp_path, rows, seeds)


def test_overrides_hold_for_every_row_and_errors_name_it(tmp_path):
  found = load(tmp_path, PAIR, "(0,)", "steps=7")
  assert [row.config.steps for row in found.rows] == [7, 7]
  with pytest.raises(ConfigError, match="row alone: batch_size must be at least 1"):
    load(tmp_path, PAIR, "(0,)", "batch_size=0")
  with pytest.raises(ConfigError, match="there is no study 'nothing.py'"):
    study.load_study("nothing.py")


def test_cells_are_chosen_by_patterns(tmp_path):
  cells = study.cells_of(load(tmp_path, PAIR + NOISY), tmp_path)

  def chosen(*patterns):
    return [cell.name for cell in study.select(cells, patterns)]

  assert chosen("dml") == ["dml/seed0", "dml/seed1"]
  assert chosen("*/seed1", "dml") == [
    "dml/seed0",
    "alone/seed1",
    "dml/seed1",
    "noisy/seed1",
    "best/seed1",
  ]
  assert len(chosen()) == 8
  with pytest.raises(ConfigError, match="fits no cell: the rows are alone, dml"):
    chosen("nobody")


def test_cells_that_were_begun_otherwise_are_named(tmp_path):
  cells = study.cells_of(load(tmp_path, PAIR), tmp_path)
  begun = cells[1]
  begun.path.mkdir(parents=True)
  record = {"version": 1, "config": begun.config.to_dict(), "digests": []}
  write_json(begun.path / "config.json", record)
  study.require_same_configs(cells)
  changed = study.cells_of(load(tmp_path, PAIR, "(0,)", "batch_size=32"), tmp_path)
  with pytest.raises(
    ConfigError, match=r"\(dml/seed0\): batch_size: there 64, here 32"
  ):
    study.require_same_configs(changed)


@pytest.mark.parametrize("name", ["digits"])
def test_those_of_the_package_can_be_read(name):
  found = study.load_study(name)
  assert len(found.seeds) >= 5
  assert (runs.ROOT / "studies" / f"{name}.py").exists()
