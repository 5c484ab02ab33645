"""Runs, and members of them, measured in full."""

import json
import shutil

import numpy as np
import pytest

import jaxdistill
from jaxdistill import __main__ as commands
from jaxdistill.data.digits import digits
from jaxdistill.run import evaluation
from jaxdistill.run.evaluation import evaluate_member, evaluate_run
from tests.helpers import market, runs
from tests.run import test_retrieval

COUNT = len(digits().test.label)
MEASURES = ("top1", "top5", "nll", "ece", "aurc", "brier", "eaurc")


def command(*args):
  return commands.main(["evaluate", *map(str, args)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A tiny run with held-out examples."""
  workdir = tmp_path_factory.mktemp("runs") / "digits"
  config = runs.config("dml", "steps=8", "holdout=50")
  jaxdistill.train(config, workdir, quiet=True)
  return workdir


@pytest.fixture(scope="module")
def measured(trained):
  """What the command writes of it."""
  assert command(trained, "--ensemble=convnet.1,convnet.0") == 0
  return json.loads((trained / "evaluation.json").read_text())


@pytest.fixture
def copied(trained, tmp_path):
  """The run, to be changed."""
  return shutil.copytree(trained, tmp_path / "run")


def summary_of(workdir):
  return json.loads((workdir / "summary.json").read_text())


def assert_close(row, other):
  assert row.keys() == other.keys()
  for measure, value in row.items():
    assert value == pytest.approx(other[measure], rel=1e-4, abs=1e-6), measure


# A run.


def test_the_last_evaluation_is_repeated_to_the_last_digit(trained, measured):
  summary = summary_of(trained)
  assert measured["step"] == summary["steps"] == 8
  assert measured["config_digest"] == summary["config_digest"]
  assert measured["class_names"] == summary["class_names"]
  assert measured["count"] == COUNT
  rows = {name: row["last"] for name, row in summary["members"].items()}
  rows["ensemble"] = summary["ensemble"]["last"]
  found = measured["members"] | measured["predictions"]
  assert list(measured["members"]) == list(summary["members"])
  for name, row in rows.items():
    assert tuple(found[name]) == MEASURES
    for measure, value in row.items():
      if measure not in ("step", "holdout"):
        assert found[name][measure] == value


def test_everything_is_told_of_members_predictions_and_chosen_ensembles(measured):
  names = ["convnet.0", "convnet.1", "ensemble", "convnet.1+convnet.0"]
  assert (measured["source"], measured["weights"]) == ("run", "last")
  assert (measured["split"], measured["left_out"]) == ("test", 0)
  assert measured["noise"] is None
  for part in ("per_class", "confusions", "reliability"):
    assert list(measured[part]) == names
  counts = np.bincount(digits().test.label)
  for name in names:
    row = (measured["members"] | measured["predictions"])[name]
    accuracies = np.array(measured["per_class"][name])
    assert accuracies @ counts / COUNT == pytest.approx(row["top1"])
    assert sum(cell["count"] for cell in measured["reliability"][name]) == COUNT
    assert len(measured["confusions"][name]) == 10
  # An ensemble of all is that of the method.
  chosen = measured["predictions"]["convnet.1+convnet.0"]
  assert_close(chosen, measured["predictions"]["ensemble"])
  agreement = measured["agreement"]
  assert agreement["members"] == ["convnet.0", "convnet.1"]
  assert agreement["same_class"][0][0] == 1
  assert 0 < agreement["same_class"][0][1] == agreement["same_class"][1][0] < 1
  assert agreement["kl"][0][0] == pytest.approx(0, abs=1e-6)
  assert agreement["kl"][0][1] > 0


def test_tables_are_printed_and_an_own_evaluation_is_replaced(
  trained, measured, capsys
):
  assert command(trained, "--weights=best") == 0
  found = json.loads((trained / "evaluation.json").read_text())
  assert found["weights"] == "best"
  for name, row in summary_of(trained)["members"].items():
    best = dict(row["best"])
    best.pop("step")
    best.pop("holdout")
    kept = {measure: found["members"][name][measure] for measure in best}
    assert_close(kept, best)
  said = capsys.readouterr().out
  assert "top-1 %" in said and "E-AURC" in said and "most frequent mistakes" in said
  assert f"all numbers are in {trained / 'evaluation.json'}" in said
  (trained / "evaluation.json").write_text(json.dumps(measured))


def test_a_run_without_checkpoints_is_measured_by_its_members(copied, measured):
  shutil.rmtree(copied / "checkpoints")
  found = evaluate_run(copied, quiet=True)
  assert list(found["predictions"]) == ["ensemble"]
  for name, row in (found["members"] | found["predictions"]).items():
    assert_close(row, (measured["members"] | measured["predictions"])[name])


def test_held_out_examples_are_those_that_were_held_out(trained):
  found = evaluate_run(trained, split="holdout", quiet=True)
  assert (found["split"], found["count"]) == ("holdout", 50)
  for name, row in summary_of(trained)["members"].items():
    held_out = row["last"]["holdout"]
    kept = {measure: found["members"][name][measure] for measure in held_out}
    assert_close(kept, held_out)


def test_noise_harms_the_more_the_stronger_it_is(trained, measured, monkeypatch):
  monkeypatch.setattr(evaluation, "DEVIATIONS", (0.0, 0.1, 2.0))
  monkeypatch.setattr(evaluation, "DRAWS", 3)
  found = evaluate_run(trained, noise=True, quiet=True)["noise"]
  assert (found["std"], found["draws"]) == ([0.0, 0.1, 2.0], 3)
  for name, row in measured["members"].items():
    accuracy = found["top1"][name]
    assert accuracy[0] == pytest.approx(row["top1"])
    assert found["nll"][name][0] == pytest.approx(row["nll"], rel=1e-4)
    assert accuracy[2] < accuracy[0]
    assert found["nll"][name][1] != found["nll"][name][0]
    assert found["nll_sd"][name][0] == 0 < found["nll_sd"][name][1]
  assert found["top1"].keys() == found["top1_sd"].keys()
  assert "ensemble" in found["top1"]


# Members.


def test_a_member_is_measured_as_in_its_run(trained, measured, capsys, tmp_path):
  out = tmp_path / "one.json"
  place = trained / "members" / "convnet.1" / "last"
  assert command(place, f"--out={out}") == 0
  assert f"all numbers are in {out}" in capsys.readouterr().out
  found = json.loads(out.read_text())
  assert (found["source"], found["weights"]) == ("member", "last")
  assert found["predictions"] == {}
  assert_close(found["members"]["convnet.1"], measured["members"]["convnet.1"])


def test_an_exported_file_is_measured_on_the_data_that_are_named(
  trained, measured, tmp_path, capsys
):
  out = tmp_path / "net.safetensors"
  source = str(trained / "members" / "convnet.0" / "last")
  assert commands.main(["export", source, "--to=safetensors", f"--out={out}"]) == 0
  found = evaluate_member(out, data_changes=["name=digits"], quiet=True)
  assert found["config_digest"] is None
  assert_close(found["members"]["net"], measured["members"]["convnet.0"])
  assert command(out) == 2
  assert "name the data: --data.name=digits" in capsys.readouterr().err


# Other data.


def write_npz(path, classes=10, side=8, dim=False):
  """Writes the digits' test images as a data set of its own."""
  test = digits().test
  image = np.resize(test.image, (len(test.label), side, side, 3))
  if dim:
    image = image // 4
  label = np.minimum(test.label, classes - 1)
  arrays = {}
  for split in ("train", "test"):
    arrays |= {f"images_{split}": image, f"labels_{split}": label}
  np.savez(path, **arrays)
  return ["name=npz", f"path={path}"]


def test_other_data_are_normalised_as_the_members_know_them(
  trained, measured, tmp_path
):
  same = evaluate_run(
    trained, data_changes=write_npz(tmp_path / "same.npz"), quiet=True
  )
  for name, row in (same["members"] | same["predictions"]).items():
    assert_close(row, (measured["members"] | measured["predictions"])[name])
  # Images of a quarter of the brightness are not brightened by their own mean.
  dim = evaluate_run(
    trained, data_changes=write_npz(tmp_path / "dim.npz", dim=True), quiet=True
  )
  assert dim["data_changes"]
  assert dim["members"]["convnet.0"]["nll"] > same["members"]["convnet.0"]["nll"]


def test_streamed_images_that_cannot_be_read_are_left_out(trained, measured, capsys):
  changes = ["name=tests.helpers.streams:digits", "damaged=3"]
  found = evaluate_run(trained, data_changes=changes)
  assert (found["count"], found["left_out"]) == (COUNT - 3, 3)
  assert "3 examples of test could not be read" in capsys.readouterr().out
  row = found["members"]["convnet.0"]
  hits = round(row["top1"] * (COUNT - 3))
  assert 0 <= round(measured["members"]["convnet.0"]["top1"] * COUNT) - hits <= 3


@pytest.mark.slow
def test_a_searched_set_is_measured_by_what_members_find(tmp_path, capsys):
  folder = market.write(tmp_path / "set")
  config = test_retrieval.config_of(folder, "dml")
  summary = jaxdistill.train(config, tmp_path / "run", quiet=True)
  found = evaluate_run(tmp_path / "run", quiet=True)
  assert "predictions" not in found and "noise" not in found
  for name, row in summary["members"].items():
    assert found["members"][name] | {"step": 2} == row["last"]
  assert command(tmp_path / "run", "--weights=best") == 0
  assert "Rank-10 %" in capsys.readouterr().out
  assert command(tmp_path / "run", "--noise") == 2
  assert "noise is of classification" in capsys.readouterr().err


# What is refused.


def test_bad_calls_are_refused_in_one_line(trained, copied, tmp_path, capsys):
  def refused(message, *args, code=2):
    assert command(*args) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1

  refused("no such directory or file", tmp_path / "nothing", code=3)
  (tmp_path / "empty").mkdir()
  refused("is no run", tmp_path / "empty", code=3)
  refused("unknown argument '--nose'", trained, "--nose")
  refused("unknown key 'data.dri'", trained, "--data.dri=x")
  refused("no member 'convnet.7'", trained, "--ensemble=convnet.0,convnet.7")
  refused("name two members or more", trained, "--ensemble=convnet.0")
  member = trained / "members" / "convnet.0" / "best"
  refused("is of several members", member, "--ensemble=convnet.0,convnet.1")
  refused("is a member", member, "--weights=best")

  # Places that are taken, or are none.
  note = tmp_path / "note.json"
  note.write_text("mine")
  refused("--overwrite", trained, f"--out={note}")
  assert note.read_text() == "mine"
  refused("make it first", trained, f"--out={tmp_path / 'no' / 'x.json'}")
  refused("is a folder", trained, f"--out={tmp_path}")
  (copied / "evaluation.json").write_text("{}")
  refused("--overwrite", copied)

  # Data that do not fit.
  for changes, message in (
    (write_npz(tmp_path / "few.npz", classes=4), "tells 10 classes apart"),
    (write_npz(tmp_path / "large.npz", side=16), "images of 8x8 pixels"),
  ):
    refused(message, trained, *[f"--data.{change}" for change in changes])
  shutil.rmtree(copied / "members")
  (copied / "evaluation.json").unlink()
  refused("without a finished evaluation", copied, code=3)


def test_a_run_that_names_a_module_is_not_trusted(copied, capsys):
  record = json.loads((copied / "config.json").read_text())
  record["config"]["method"]["name"] = "tests.helpers.my_lab:method"
  (copied / "config.json").write_text(json.dumps(record))
  assert command(copied) == 3
  said = capsys.readouterr().err
  assert "method.name='tests.helpers.my_lab:method'" in said and "--trust-code" in said
