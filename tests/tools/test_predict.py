"""Image files and folders, classified from the command line and from Python."""

import json
import os

import jax
import numpy as np
from PIL import Image
import pytest

import jaxdistill
from jaxdistill import __main__ as commands
from jaxdistill.errors import DataError
from jaxdistill.run.build import build
from jaxdistill.run.pictures import read_picture
from jaxdistill.tools import predict
from tests.faults.malformed import PLACES
from tests.helpers import members, runs


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A tiny member that nobody has trained."""
  return members.save(tmp_path_factory.mktemp("member") / "best")


@pytest.fixture(scope="module")
def member(source):
  """The same, loaded: what it compiles is compiled once."""
  return jaxdistill.load(source)


@pytest.fixture
def loaded(member, monkeypatch):
  """Has the command use what is loaded already."""
  monkeypatch.setattr(predict, "load", lambda path, trust_code: member)
  return member


@pytest.fixture
def folder(rng, tmp_path):
  """Three images of the network's size, one of them in a folder, and a text."""
  place = tmp_path / "photos"
  (place / "a").mkdir(parents=True)
  for name in ("b.png", "a/z.png", "c.PNG"):
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / name, format="png")
  (place / "notes.txt").write_text("no image")
  return place


def command(*args):
  return commands.main(["predict", *map(str, args)])


def probabilities(member, file):
  """What the network says of an image of its size: f32[C]."""
  pixels = np.asarray(Image.open(file))
  rows = jax.nn.softmax(member(np.stack([pixels, pixels])))
  return np.asarray(rows)[0]


def test_folders_are_classified_as_a_list_of_json(source, loaded, folder, capsys):
  assert command(source, folder, "--json", "--top=2", "--batch=2") == 0
  found = json.loads(capsys.readouterr().out)
  files = [folder / name for name in ("a/z.png", "b.png", "c.PNG")]
  assert [record["file"] for record in found] == [str(file) for file in files]
  names = ("cat", "dog", "owl")
  for record in found:
    row = probabilities(loaded, record["file"])
    best = np.argsort(-row)[:2]
    assert [entry.keys() for entry in record["top"]] == [{"class", "probability"}] * 2
    assert [entry["class"] for entry in record["top"]] == [names[k] for k in best]
    given = [entry["probability"] for entry in record["top"]]
    np.testing.assert_allclose(given, row[best], rtol=1e-5)


def test_a_file_that_is_no_image_is_named_and_the_others_done(
  source, loaded, folder, tmp_path, capsys
):
  half = tmp_path / "half.png"
  half.write_bytes((folder / "b.png").read_bytes()[:60])
  pipe = tmp_path / "pipe.png"
  PLACES["pipe"](pipe)
  bad = [folder / "notes.txt", half, tmp_path / "none.png", pipe]
  assert command(source, folder / "b.png", *bad, folder / "c.PNG", "--batch=2") == 2
  said = capsys.readouterr()
  shown = [line for line in said.out.splitlines() if not line.startswith("  ")]
  assert shown == [str(folder / "b.png"), str(folder / "c.PNG")]
  lines = said.err.splitlines()
  assert len(lines) == len(bad)
  for line, file in zip(lines, bad, strict=True):
    assert line.startswith(f"jaxdistill: {file} is no image")


def test_classes_without_names_are_numbers(source, loaded, folder, monkeypatch, capsys):
  monkeypatch.setattr(loaded, "class_names", ())
  assert command(source, folder / "b.png", folder / "c.PNG", "--json") == 0
  record, _ = json.loads(capsys.readouterr().out)
  assert sorted(entry["class"] for entry in record["top"]) == [0, 1, 2]


def test_bad_calls_are_refused_in_one_line(source, folder, tmp_path, capsys):
  def refused(message, *args):
    assert command(*args) in (2, 3)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1

  (tmp_path / "empty").mkdir()
  refused("there is no image in this folder", source, tmp_path / "empty")
  refused("--top must be", source, folder, "--top=0")
  refused("--batch must be", source, folder, "--batch=0")
  refused("holds no member", folder, folder)
  old = members.save(tmp_path / "old", image_shape=None)
  refused("--size=HxW", old, folder)
  refused("--size must be", old, folder, "--size=8x8x3")


def test_a_member_predicts_arrays_and_files_in_python(member, folder):
  file = folder / "b.png"
  pixels = np.asarray(Image.open(file))
  from_files = member.predict([file, str(file)], top=1)
  assert from_files == member.predict(np.stack([pixels, pixels]), top=1)
  for ((name, probability),) in from_files:
    assert name in member.class_names
    assert probability == pytest.approx(probabilities(member, file).max())


# Pictures of all kinds.


def test_pictures_are_resized_by_the_shorter_side_and_cropped_in_the_middle(tmp_path):
  pixels = np.zeros((20, 60, 3), np.uint8)
  pixels[:, 20:40] = 200
  path = tmp_path / "wide.png"
  Image.fromarray(pixels).save(path)
  picture = read_picture(path, 10, 10)
  assert picture.shape == (10, 10, 3)
  # The middle third, and nothing of the black beside it.
  assert (picture[:, 2:-2] == 200).all()
  assert picture.min() > 180
  assert read_picture(path, 5, 15).mean() == pytest.approx(200 / 3, abs=1)


def test_pictures_are_turned_as_their_camera_says(tmp_path):
  pixels = np.zeros((8, 8, 3), np.uint8)
  pixels[:4] = 255
  exif = Image.Exif()
  # The top of what is stored is the right side of what was seen.
  exif[0x0112] = 6
  path = tmp_path / "turned.png"
  Image.fromarray(pixels).save(path, exif=exif)
  picture = read_picture(path, 8, 8)
  assert (picture[:, 4:] == 255).all()
  assert (picture[:, :4] == 0).all()


@pytest.mark.parametrize(
  "mode, ending, expected",
  [
    ("1", "png", 255),
    ("L", "png", 128),
    ("LA", "png", 128),
    # The nearest colour of the palette.
    ("P", "gif", 153),
    ("RGBA", "png", 128),
    ("CMYK", "jpg", 128),
    ("I;16", "png", 128),
  ],
)
def test_pictures_of_any_mode_become_rgb(tmp_path, mode, ending, expected):
  path = tmp_path / f"x.{ending}"
  if mode == "I;16":
    Image.fromarray(np.full((8, 8), 128 * 256 + 7, np.uint16)).save(path)
  else:
    grey = Image.new("RGB", (8, 8), (128, 128, 128))
    grey.convert(mode, dither=Image.Dither.NONE).save(path)
  picture = read_picture(path, 8, 8)
  assert (picture.shape, picture.dtype) == ((8, 8, 3), np.uint8)
  assert np.abs(picture.astype(int) - expected).max() <= 2


def test_images_too_large_to_open_are_refused(tmp_path, monkeypatch):
  path = tmp_path / "large.png"
  Image.new("L", (100, 100)).save(path)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with pytest.raises(DataError, match="large.png is no image that can be read"):
    read_picture(path, 8, 8)


@pytest.mark.slow
def test_a_trained_member_knows_digits_in_another_process(tmp_path):
  overrides = ("steps=300", "eval_every=300 steps", "cohort.convnet.width=8")
  config = runs.config("independent", *overrides)
  jaxdistill.train(config, tmp_path / "run", quiet=True)
  place = tmp_path / "run" / "members" / "convnet.0"
  member = jaxdistill.load(place / "last")
  assert member.manifest["image_shape"] == [8, 8, 3]

  test = build(config).dataset.test
  (tmp_path / "digits").mkdir()
  for row in range(40):
    path = tmp_path / "digits" / f"{row:02}-{test.label[row]}.png"
    Image.fromarray(np.asarray(test.image[row])).save(path)

  for where in (place / "last", tmp_path / "net.safetensors"):
    if where.suffix:
      flags = ("--to=safetensors", f"--out={where}")
      result = runs.run_module("jaxdistill", "export", str(place / "last"), *flags)
      assert result.returncode == 0, result.stderr
    folder = str(tmp_path / "digits")
    result = runs.run_module("jaxdistill", "predict", str(where), folder, "--json")
    assert result.returncode == 0, result.stderr
    records = json.loads(result.stdout)
    assert len(records) == 40
    right = 0
    for record in records:
      label = os.path.basename(record["file"]).split("-")[1].split(".")[0]
      right += str(record["top"][0]["class"]) == label
    assert right >= 32
