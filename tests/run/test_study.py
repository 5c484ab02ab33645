"""A study: its file, fair controls, pairs of seeds, and what is kept of its cells."""

import functools
import json
import re

import jax
import pytest

from jaxdistill.core import registry
from jaxdistill.core.method import variables_of
from jaxdistill.engine.evaluate import make_forward
from jaxdistill.errors import ConfigError
from jaxdistill.run import study
from jaxdistill.run.config import config_digest
from jaxdistill.run.manifest import write_json
from tests.helpers import runs, toy

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
    (PAIR, "(0,), references=('c',)", "reference 'c' is no row: it has alone, dml"),
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


def finish(cell):
  """Leaves what a finished run of a cell would, with two training lines."""
  cell.path.mkdir(parents=True)
  measured = {"last": {"top1": 0.5}, "best": {"top1": 0.6}}
  summary = {
    "members": {"net.0": {**measured, "model": "small.convnet"}},
    "ensemble": measured,
    "predictions": ["ensemble"],
    "method": cell.config.method.name,
    "steps": 2,
    "seconds": 1.0,
    "config_digest": config_digest(cell.config),
  }
  write_json(cell.path / "summary.json", summary)
  lines = []
  for step, speed in enumerate((64.0, 640.0), start=1):
    line = {"step": step, "epoch": 0.0, "split": "train", "images_per_second": speed}
    lines.append(json.dumps(line) + "\n")
  (cell.path / "metrics.jsonl").write_text("".join(lines))


def test_results_hold_what_a_report_needs_and_finished_cells_are_read_once(tmp_path):
  found = load(tmp_path, PAIR + NOISY, "(0, 1), references=('dml',)")
  cells = study.cells_of(found, tmp_path)
  results = study.Results(found, cells, tmp_path)
  finish(cells[0])
  results.write()
  # Whatever becomes of a run afterwards.
  (cells[0].path / "summary.json").unlink()
  finish(cells[1])
  written = json.loads(results.write().read_text())

  assert [cell["name"] for cell in written["cells"]] == ["alone/seed0", "dml/seed0"]
  # Batches of 64 images in one second, and in a tenth of it.
  assert written["cells"][0]["seconds_per_step"] == pytest.approx(0.55)
  rows = {row["name"]: row for row in written["rows"]}
  references = {name: row["reference"] for name, row in rows.items()}
  assert references == {"alone": False, "dml": True, "noisy": False, "best": False}
  assert rows["best"]["control"] == "noisy" and rows["best"]["perturbed"]
  network = {"model": "small.convnet", "width": 4, "members": 2}
  assert rows["best"]["cohort"] == {"net": network}
  assert rows["best"]["data"] == "digits"


def test_the_time_of_a_step_is_unknown_where_no_line_tells_a_speed():
  assert study.seconds_per_step([{"step": 1}, {"images_per_second": None}], 64) is None


@pytest.mark.parametrize(
  "published, message",
  [
    ('{"net.0": 71.4}', "71.4 is published of net.0, which is a fraction"),
    ('{"top5/net": 5.57}', "5.57 is published of top5/net"),
    ('{"topp/net": 0.5}', "'topp/net' is published of no metric that there is"),
  ],
)
def test_what_is_published_is_a_fraction_of_a_known_metric(
  tmp_path, published, message
):
  with pytest.raises(ConfigError, match=message):
    load(tmp_path, f'row("alone", "independent", published={published}),')
  known = '{"net.0": 0.714, "nll/net": 1.2, "rank1/net": 1.0}'
  load(tmp_path, f'row("alone", "independent", published={known}),')
  assert study.from_per_cent({"net": 71.45}) == {"net": 0.7145}


# Those of the package.

STUDIES = sorted((runs.ROOT / "studies").glob("*.py"))


def arguments(path):
  """What a study can be told: its ARGUMENTS, or nothing."""
  return getattr(registry.load_file(str(path)), "ARGUMENTS", ())


NAMES = []
for path in STUDIES:
  names = [f"{path.stem}:{argument}" for argument in arguments(path)]
  first, *others = names or [path.stem]
  NAMES.append(first)
  NAMES += [pytest.param(name, marks=pytest.mark.thorough) for name in others]


@pytest.mark.parametrize("name", NAMES)
def test_every_study_is_valid_and_published_values_have_their_place(name):
  found = study.load_study(name)
  assert len(found.seeds) >= 3
  for row in found.rows:
    _check_controls(row, found)
    for key in row.published:
      named = key.rpartition("/")[2]
      group, _, member = named.partition(".")
      if group in row.config.cohort:
        assert not member or int(member) < row.config.cohort[group].members, key
      else:
        assert named in predictions(row.config.method.name), key


def _check_controls(row, found):
  """A row and its control have the same networks, data and perturbations."""
  control = study.control_of(row, found)
  assert control.config.perturb == row.config.perturb
  assert control.config.data == row.config.data
  for name, section in row.config.cohort.items():
    members = min(section.members, control.config.cohort[name].members)
    mine, theirs = section.to_dict(), control.config.cohort[name].to_dict()
    assert {**mine, "members": members} == {**theirs, "members": members}
  if row.config.perturb.ops:
    unperturbed = [
      other
      for other in found.rows
      if not other.config.perturb.ops and study.control_of(other, found) is other
    ]
    assert any(other.config.cohort == row.config.cohort for other in unperturbed)


@functools.cache
def predictions(method):
  """Names of what a method predicts beside its members."""
  method = registry.resolve("methods", method)
  trial = toy.Trial(method, toy.cohort("same"))
  run = make_forward(trial.specs, mean=toy.MEAN, std=toy.STD, evaluated=True)

  def predict(state, image):
    modules = variables_of(state.method.modules, evaluated=True)
    outputs = run(state.cohort, image)
    return method.predict(modules, state.method.memory, outputs)

  return set(jax.eval_shape(predict, trial.initial, toy.data()[0][:2]))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_says_how_to_run_it(path):
  docstring = path.read_text().split('"""')[1]
  assert "python -m jaxdistill study --config=" in docstring
  assert re.search(rf"(--config|NAME)={path.stem}\b", docstring)
  first = next(iter(arguments(path)), None)
  if first is not None:
    # The first one is the default.
    title = study.load_study(path.stem).title
    assert title == study.load_study(f"{path.stem}:{first}").title
    with pytest.raises(ConfigError, match="must be one of .*, got 'no_such_table'$"):
      study.load_study(f"{path.stem}:no_such_table")
