"""The command `report`: what is compared with what, its files, and what it refuses."""

import base64
import csv
from html.parser import HTMLParser
import json
import math
import re
import sys

import matplotlib
from matplotlib.figure import Figure
import pytest

from jaxdistill.errors import ConfigError, DataError
from jaxdistill.run.manifest import write_json
from jaxdistill.tools import _report_comparisons as comparisons
from jaxdistill.tools import _report_evaluation as evaluation
from jaxdistill.tools import _report_training as training
from jaxdistill.tools import report
from jaxdistill.tools._report_data import read_results
from jaxdistill.tools._report_theme import LIGHT, to_png, to_svg
from tests.helpers import reports


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """The report of a study with all parts, which is only read."""
  folder = reports.small_study(tmp_path_factory.mktemp("study"))
  for name in ("alone", "rivals"):
    workdir = folder / "cells" / name / "seed0"
    reports.write_metrics(workdir, contest=name == "rivals")
    reports.write_evaluation(workdir)
  return report.write_report(folder)


@pytest.fixture
def unrendered(monkeypatch):
  """Figures are made, but not drawn, which takes the most time."""

  def savefig(figure, file, **options):
    file.write(b"a figure")

  monkeypatch.setattr(Figure, "savefig", savefig)


def table(page, slug):
  """The rows of a part's CSV file."""
  with open(page.with_suffix("") / f"{slug}.csv") as file:
    return list(csv.DictReader(file))


def compared(folder):
  """(row, what it is compared with) -> the roles of the latter."""
  found = {}
  for pair in comparisons.comparisons(read_results(folder)):
    found[pair.row.name, pair.other.name] = pair.roles
  return found


# What is compared.


def test_rows_are_compared_with_control_and_with_members_alone_and_a_reference(
  tmp_path,
):
  assert compared(reports.small_study(tmp_path, seeds=1)) == {
    ("peers", "alone"): (comparisons.FAIR, comparisons.ALONE),
    ("rivals", "alone+"): (comparisons.FAIR,),
    ("alone+", "alone"): (comparisons.ALONE,),
    ("rivals", "alone"): (comparisons.ALONE,),
    ("rivals", "peers"): ("mutual",),
  }


def test_a_reference_of_the_same_control_is_preferred_and_a_row_may_be_named(tmp_path):
  rows = [
    reports.row("alone", "apart", "alone"),
    reports.row("alone+", "apart", "alone+", perturbed=True),
    reports.row("peers", "mutual", "alone", reference=True),
    reports.row("peers+", "mutual", "alone+", perturbed=True, reference=True),
    reports.row("rivals", "contest", "alone+", perturbed=True),
    reports.row("rivals-", "contest", "alone+", perturbed=True),
  ]
  cells = [reports.cell(row["name"], 0, 0.5, 0.6) for row in rows]
  folder = reports.write_study(tmp_path, rows, cells)
  found = compared(folder)
  assert found["rivals", "peers+"] == ("mutual",)
  assert ("rivals", "peers") not in found

  results = comparisons.with_references(read_results(folder), ["rivals"])
  pairs = [(p.row.name, p.other.name) for p in comparisons.comparisons(results)]
  assert ("rivals-", "rivals") in pairs
  with pytest.raises(ConfigError, match="--against=nobody: there is no finished row"):
    comparisons.with_references(results, ["nobody"])


def test_rows_of_other_networks_or_data_are_not_compared(tmp_path):
  other = {"net": {"model": "small.convnet", "members": 2, "width": 8}}
  rows = [
    reports.row("alone", "apart", "alone"),
    reports.row("peers", "mutual", "alone", reference=True),
    reports.row("wide", "apart", "wide", cohort=other),
    reports.row("rivals", "contest", "wide", cohort=other),
    # It has a member more than its control, and is compared as that is.
    reports.row("led", "lead", "alone", cohort={**reports.NETWORKS, **other}),
  ]
  cells = [reports.cell(row["name"], 0, 0.5, 0.6) for row in rows]
  found = compared(reports.write_study(tmp_path, rows, cells))
  assert set(found) == {
    ("peers", "alone"),
    ("rivals", "wide"),
    ("led", "alone"),
    ("led", "peers"),
  }


# What is said.


def test_differences_verdicts_and_ensembles(written):
  lines = {(line["row"], line["against"]): line for line in table(written, "verdict")}
  # Means of 0.03 and 0.03 against 0.01 and 0.03 above the level of the seed.
  fair = lines["rivals", "alone+"]
  assert float(fair["difference"]) == pytest.approx(0.01)
  assert float(fair["ci_low"]) == pytest.approx(0.01)
  assert (fair["verdict"], fair["n"], fair["ahead"]) == ("better", "5", "5")
  undecided = lines["peers", "alone"]
  # Half a point up in three seeds, and down in two.
  assert float(undecided["difference"]) == pytest.approx(0.001)
  assert undecided["verdict"] == "not told apart"
  ensembles = table(written, "verdict_ensemble")
  assert [line["verdict"] for line in ensembles].count("better") == 4
  assert "2 rows with a fair control: 1 better than it, 0 worse," in written.read_text()


def test_accuracies_have_spread_n_and_the_papers_value(written):
  lines = {(line["row"], line["member"]): line for line in table(written, "accuracy")}
  line = lines["rivals", "net.0"]
  # 0.63, 0.65, 0.67, 0.69 and 0.71: squares of deviations add up to 0.004.
  assert float(line["last_mean"]) == pytest.approx(0.67)
  assert float(line["last_sd"]) == pytest.approx(0.001**0.5)
  assert float(line["best_mean"]) == pytest.approx(0.68)
  assert line["n"] == "5"
  # The group's value is that of its members.
  assert float(line["minus_published"]) == pytest.approx(0.67 - 0.75)
  assert lines["rivals", "ensemble"]["published"] == ""
  shown = (written.with_suffix("") / "accuracy.md").read_text()
  assert "| rivals | net.0 | 67.00 ± 3.16 | 68.00 ± 3.16 | 5 | 75.00 | −8.00 |" in shown


def test_cost_is_relative_to_members_alone_under_the_same_seed(written):
  lines = {line["row"]: line for line in table(written, "cost")}
  assert float(lines["rivals"]["ratio"]) == pytest.approx(3)
  assert float(lines["alone"]["ratio"]) == 1
  assert lines["rivals"]["ratio_n"] == "5"


def test_a_missing_seed_leaves_the_pair_out(tmp_path):
  folder = reports.small_study(tmp_path, seeds=5)
  found = json.loads((folder / "results.json").read_text())
  kept = []
  for cell in found["cells"]:
    if cell["name"] != "alone+/seed1":
      kept.append(cell)
  reports.write_study(folder, found["rows"], kept)
  results = read_results(folder)
  (part, _) = comparisons.verdict_parts(results)
  lines = {(line[0], line[1]): line for line in part.table.rows}
  assert lines["rivals", "alone+"][3] == "not told apart"
  assert lines["rivals", "alone"][3] == "better"
  assert report.lead(results)[1].endswith("19 finished runs of 40 steps, 1 missing.")


# Training.


def test_windows_are_merged_by_their_lengths():
  curve = training.Curve([10, 20, 40, 50], [1.0, 4.0, 7.0, float("nan")])
  found = training.binned(curve, 2)
  # Two windows of ten steps; then one of twenty, and one without a value.
  assert found == training.Curve([20, 50], [2.5, 7.0])
  assert training.binned(curve, 9).steps == curve.steps


def test_the_teacher_is_who_taught_most_and_may_be_nobody():
  assert training.most([[0.2, 0.7, 0.0], [0.8, 0.3, 0.0]]) == [1, 0, None]
  assert training.most([]) == []


def test_seeds_are_averaged_at_the_steps_that_all_have():
  band = training.band(
    [training.Curve([1, 2, 3], [0.0, 1.0, 2.0]), training.Curve([2, 3], [3.0, 6.0])]
  )
  assert (band.steps, band.mean, band.n) == ([2, 3], [2.0, 4.0], 2)
  assert band.sd == pytest.approx([2**0.5, 8**0.5])


def test_a_step_without_a_finite_value_has_no_mean():
  gap = training.Curve([1, 2], [float("nan"), 1.0])
  band = training.band([gap, training.Curve([1, 2], [1.0, 1.0])])
  assert math.isnan(band.mean[0]) and math.isnan(band.sd[0])
  assert (band.mean[1], band.sd[1]) == (1.0, 0.0)


def test_who_taught_is_told_of_the_row_that_has_a_contest(written):
  lines = table(written, "teaching")
  assert {line["row"] for line in lines} == {"rivals"}
  shown = (written.with_suffix("") / "teaching.md").read_text()
  # 0.75 in the first half of the windows, 0.25 in the other.
  assert "| rivals | 0 | net.0 | 75.00 | 25.00 | 50.00 | 5 | 10 |" in shown
  losses = table(written, "cross_entropy")
  assert {line["row"] for line in losses} == {"alone", "rivals"}
  assert {line["taught"] for line in losses if line["row"] == "alone"} == {""}


# Evaluations.


def test_bins_of_several_runs_are_merged_by_their_counts():
  one = [{"confidence": 0.2, "accuracy": 0.5, "count": 10}]
  three = [{"confidence": 0.4, "accuracy": 0.1, "count": 30}]
  none = [{"confidence": None, "accuracy": None, "count": 0}]
  assert evaluation.merged_bins([one, three, none]) == [
    (pytest.approx(0.35), pytest.approx(0.2), 40)
  ]
  assert evaluation.merged_bins([none, none]) == [(None, None, 0)]


def test_evaluations_give_agreement_reliability_and_noise(written):
  line = table(written, "agreement")[0]
  assert (line["member"], line["other"]) == ("net.0", "net.1")
  assert (line["same_class"], line["kl"], line["n"]) == ("0.8", "0.3", "1")
  assert len(table(written, "reliability")) == 2 * 3 * 10
  noise = {
    (line["row"], line["member"], line["std"]) for line in table(written, "noise")
  }
  assert ("rivals", "net.1", "0.1") in noise


def test_a_damaged_evaluation_is_named(tmp_path):
  folder = reports.small_study(tmp_path, seeds=1)
  workdir = folder / "cells" / "alone" / "seed0"
  workdir.mkdir(parents=True)
  reports.write_evaluation(workdir)
  path = workdir / "evaluation.json"
  found = json.loads(path.read_text())
  found["agreement"]["kl"] = [[0.0]]
  write_json(path, found)
  with pytest.raises(DataError, match="evaluation.json is damaged .*no square of 2"):
    evaluation.evaluation_parts(read_results(folder))


# The page.


class Page(HTMLParser):
  """What a page consists of, and loads."""

  def __init__(self, text):
    super().__init__()
    self.sections, self.addresses, self.media, self.open = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    found = dict(attrs)
    if tag == "section":
      self.sections.append(found["id"])
    for key in ("src", "srcset", "href"):
      if key in found:
        self.addresses.append(found[key])
    if tag == "source":
      self.media.append(found["media"])
    if tag not in ("meta", "img", "source"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_has_light_and_dark_figures(written):
  text = written.read_text()
  page = Page(text)
  assert page.open == []
  assert page.sections == [*report.SLUGS, "about"]
  assert set(page.media) == {"(prefers-color-scheme: dark)"}
  prefix = "data:image/svg+xml;base64,"
  figures = []
  for address in page.addresses:
    # Of this page itself, or inside of it.
    assert address.startswith(("#", prefix))
    if address.startswith(prefix):
      figures.append(base64.b64decode(address.removeprefix(prefix)))
  assert len(figures) == 2 * len(report.SLUGS)
  for light, dark in zip(figures[1::2], figures[::2], strict=True):
    assert light != dark
    assert light.endswith(b"</svg>\n") and b"#ffffff" in light and b"#14181d" in dark
  assert "http" not in re.sub(r"base64,[\w+/=]*", "", text)
  # Names come from files.
  assert "A &lt;small&gt; study" in text and "<small>" not in text


def test_each_part_has_a_picture_a_page_and_a_table(written):
  names = {path.name for path in written.with_suffix("").iterdir()}
  expected = set()
  for slug in report.SLUGS:
    expected |= {f"{slug}.png", f"{slug}.md", f"{slug}.csv"}
  assert names == expected
  picture = (written.with_suffix("") / "verdict.png").read_bytes()
  assert picture.startswith(b"\x89PNG")


def test_the_same_figure_has_the_same_bytes_whatever_the_user_has_set(
  tmp_path, monkeypatch
):
  part = comparisons.accuracy_part(read_results(reports.small_study(tmp_path, seeds=3)))
  first = to_svg(part.draw, LIGHT), to_png(part.draw, LIGHT)
  monkeypatch.setitem(matplotlib.rcParams, "font.size", 20)
  assert (to_svg(part.draw, LIGHT), to_png(part.draw, LIGHT)) == first


@pytest.mark.usefixtures("unrendered")
def test_a_run_has_a_report_of_its_own(tmp_path):
  workdir = reports.write_run(tmp_path / "run")
  page = report.write_report(workdir)
  found = Page(page.read_text()).sections
  assert "verdict" not in found
  assert {"accuracy", "convergence", "cross_entropy", "teaching", "noise"} <= set(found)
  (line,) = table(page, "cost")
  # Batches of 64 at 640 images a second.
  assert float(line["seconds_per_step"]) == pytest.approx(0.1)
  assert {line["label"] for line in table(page, "convergence")} == {
    *reports.MEMBERS,
    "ensemble",
  }


@pytest.mark.usefixtures("unrendered")
def test_a_run_that_cannot_be_evaluated_is_reported_without(tmp_path, capsys):
  workdir = reports.write_run(tmp_path / "run")
  (workdir / "evaluation.json").unlink()
  page = report.write_report(workdir)
  assert f"{workdir} is not evaluated: " in capsys.readouterr().out
  assert "agreement" not in Page(page.read_text()).sections
  assert not (workdir / "evaluation.json").exists()
  report.write_report(workdir, evaluating=False)
  assert capsys.readouterr().out == ""


# What is refused.


@pytest.mark.usefixtures("unrendered")
def test_what_is_no_report_is_not_replaced(tmp_path, capsys):
  folder = reports.small_study(tmp_path / "study", seeds=1)
  out = tmp_path / "page.html"
  arguments = [str(folder), f"--out={out}"]
  assert report.main(arguments) == 0
  assert report.main(arguments) == 0
  out.write_text("mine")
  capsys.readouterr()
  assert report.main(arguments) == ConfigError.exit_code
  said = capsys.readouterr().err
  assert said.count("\n") == 1 and "is no report: give another --out" in said
  assert out.read_text() == "mine"
  assert report.main([*arguments, "--overwrite"]) == 0
  assert out.read_text() != "mine"

  (tmp_path / "other").mkdir()
  assert report.main([str(folder), f"--out={tmp_path / 'other.html'}"]) == 2
  assert "folder for the parts of the report, exists" in capsys.readouterr().err
  assert report.main([str(folder), f"--out={tmp_path / 'page.pdf'}"]) == 2
  assert "--out must end in .html" in capsys.readouterr().err


@pytest.mark.usefixtures("unrendered")
def test_parts_that_are_no_more_are_removed(tmp_path):
  workdir = reports.write_run(tmp_path / "run")
  page = report.write_report(workdir)
  assert (page.with_suffix("") / "noise.csv").exists()
  reports.write_evaluation(workdir, noise=False)
  (page.with_suffix("") / "notes.txt").write_text("mine")
  report.write_report(workdir)
  assert not (page.with_suffix("") / "noise.csv").exists()
  assert (page.with_suffix("") / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
  "prepare, message",
  [
    (lambda folder: folder.rmdir(), "is no folder"),
    (lambda folder: None, "is no folder of a study or run"),
    (lambda folder: (folder / "cells").mkdir(), "no cell of this study is finished"),
    (
      lambda folder: reports.write_study(folder, [], []),
      "no cell of this study is finished",
    ),
    (lambda folder: reports.write_metrics(folder), "it is not finished"),
    (lambda folder: (folder / "results.json").write_text("{"), "is damaged"),
    (lambda folder: (folder / "results.json").write_text("[]"), "holds no table"),
    (lambda folder: write_json(folder / "results.json", {}), "is damaged (KeyError"),
    (lambda folder: write_json(folder / "summary.json", {}), "is damaged (KeyError"),
    (
      lambda folder: reports.write_study(
        folder, [reports.row("../x", "m", "../x")], [reports.cell("../x", 0, 0.1, 0.2)]
      ),
      "names no row",
    ),
    (
      lambda folder: reports.write_study(folder, [], [reports.cell("a", 0, 0.1, 0.2)]),
      "cell of a row 'a' that is not there",
    ),
    (
      lambda folder: reports.write_study(
        folder,
        [reports.row("a", "m", "a")],
        [reports.cell("a", 0, 0.1, 0.2), reports.cell("a", 0, 0.1, 0.3)],
      ),
      "two cells of row 'a' and seed 0",
    ),
  ],
)
def test_what_cannot_be_reported_is_told_in_one_line(
  tmp_path, capsys, prepare, message
):
  folder = tmp_path / "folder"
  folder.mkdir()
  prepare(folder)
  assert report.main([str(folder)]) == 2
  said = capsys.readouterr().err
  assert said.count("\n") == 1 and message in said


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(ConfigError, match=r"pip install 'jaxdistill\[report\]'"):
    report.write_report(tmp_path)
