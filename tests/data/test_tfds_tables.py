"""The tables of a prepared directory: nothing that they name is imported or opened."""

import importlib
import json
import tempfile

import numpy as np
import pytest

from tests.helpers.data_files import error_of, load, to_tfrecord, write_tfds

TEXT = "tensorflow_datasets.core.features.text_feature.Text"


def edit(path, change):
  """Changes a table in place."""
  table = json.loads(path.read_text())
  change(table)
  path.write_text(json.dumps(table))


@pytest.mark.parametrize("where", ["the table", "image", "coarse_label"])
def test_a_directory_runs_no_code(tmp_path, arrays, monkeypatch, where):
  canary = tmp_path / "canary"
  module = f"canary_{where.replace(' ', '_')}"
  (tmp_path / f"{module}.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
  monkeypatch.syspath_prepend(tmp_path)
  folder = write_tfds(tmp_path, "cifar100", arrays)

  def name_it(table):
    feature = table
    if where != "the table":
      feature = table["featuresDict"]["features"].setdefault(where, {})
    feature["pythonClassName"] = f"{module}.Image"

  edit(folder / "features.json", name_it)
  text = error_of(load, "cifar100", tmp_path)
  assert str(folder / "features.json") in text
  assert f"{module}.Image" in text
  assert "was not imported" in text
  assert not canary.exists()
  importlib.import_module(module)
  assert canary.exists(), "the canary does not work"


def set_template(template):
  def change(info):
    for split in info["splits"]:
      split["filepathTemplate"] = template

  return change


def set_lengths(lengths):
  def change(info):
    info["splits"][0]["shardLengths"] = lengths

  return change


@pytest.mark.parametrize(
  "change, message",
  [
    (set_template("../../{SPLIT}"), "its files are named by '../../{SPLIT}'"),
    (set_template("{SPLIT:>9999999999}"), "its files are named by"),
    (
      lambda info: info.update(name="../../etc"),
      "'../../etc' is no name of a data set",
    ),
    (lambda info: info.pop("name"), "None is no name of a data set"),
    (
      lambda info: info.update(fileFormat="parquet"),
      "the format 'parquet' is not read",
    ),
    (lambda info: info.update(splits={}), "it has no split 'train'"),
    (lambda info: info["splits"].pop(0), "it has no split 'train'"),
    (set_lengths([]), "it has no list of shardLengths"),
    (set_lengths(["1" * 20]), "in shardLengths is no number of examples"),
    (set_lengths([-40]), "-40 in shardLengths is no number of examples"),
    (set_lengths(["41"]), "holds 40 examples, but dataset_info.json declares 41"),
    (set_lengths(["20", "20"]), "train.array_record-00000-of-00002 cannot be read"),
  ],
)
def test_what_the_tables_say_is_checked(tmp_path, arrays, change, message):
  folder = write_tfds(tmp_path, "cifar100", arrays)
  edit(folder / "dataset_info.json", change)
  text = error_of(load, "cifar100", tmp_path)
  assert message.replace("'", "") in text.replace("'", "")
  assert str(folder) in text


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda features: features.pop("label"), "it has no feature 'label'"),
    (
      lambda features: features["label"].update(pythonClassName=TEXT),
      "Text in place of ClassLabel",
    ),
    (lambda features: features["id"].pop("pythonClassName"), "has no class"),
    (lambda features: features.update(x=5), "has no class"),
  ],
)
def test_features_that_are_needed_are_checked(tmp_path, arrays, change, message):
  folder = write_tfds(tmp_path, "cifar100", arrays)
  edit(
    folder / "features.json", lambda table: change(table["featuresDict"]["features"])
  )
  assert message in error_of(load, "cifar100", tmp_path)


@pytest.mark.parametrize("text", ["apple\nbaby\n", "", "\0\n" * 100, "\xff"])
def test_a_directory_that_numbers_its_classes_otherwise_is_refused(
  tmp_path, arrays, text
):
  folder = write_tfds(tmp_path, "cifar100", arrays)
  path = folder / "label.labels.txt"
  path.write_text("\n".join(load("cifar100", tmp_path).class_names) + "\n")
  load("cifar100", tmp_path)
  path.write_text(text, "latin-1")
  message = error_of(load, "cifar100", tmp_path)
  assert "label.labels.txt names other classes than cifar100 has" in message


def old_form(feature):
  """Writes a feature as tensorflow_datasets did before version 4.5."""
  nested = feature.get("featuresDict", {}).get("features", {})
  content = {name: old_form(value) for name, value in nested.items()}
  return {"type": feature["pythonClassName"], "content": content}


def test_features_of_earlier_versions_are_read(tmp_path, arrays):
  folder = write_tfds(tmp_path, "cifar100", arrays)
  path = folder / "features.json"
  path.write_text(json.dumps(old_form(json.loads(path.read_text()))))
  loaded = load("cifar100", tmp_path)
  np.testing.assert_array_equal(loaded.train.image, arrays["images_train"])


def test_preparing_and_reading_leave_no_temporary_folder(tmp_path, arrays, monkeypatch):
  temporary = tmp_path / "temporary"
  temporary.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(temporary))
  folder = to_tfrecord(write_tfds(tmp_path / "data", "cifar100", arrays))
  load("cifar100", tmp_path / "data")
  (folder / "features.json").write_text("{}")
  error_of(load, "cifar100", tmp_path / "data")
  assert list(temporary.iterdir()) == []
