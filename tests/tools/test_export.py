"""Exported members: the files, their cards, and what is refused."""

import json
import os
import shutil
import subprocess
import sys

import flax.serialization
import jax
from jax import export as jax_export
import numpy as np
import pytest
import safetensors.numpy

import jaxdistill
from jaxdistill import __main__ as commands
from jaxdistill.errors import CheckpointError, ConfigError
from jaxdistill.inputs.normalize import Normalization
from jaxdistill.nn import heads
from jaxdistill.run import pretrained
from jaxdistill.tools import _twins, export
from tests.helpers import members, runs


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A tiny member that nobody has trained, in the place of a run's."""
  run = tmp_path_factory.mktemp("run")
  return members.save(run / "members" / "convnet.0" / "best")


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def command(*args):
  return commands.main(["export", *map(str, args)])


# The formats.


def test_a_safetensors_file_is_loaded_by_its_card(source, images, tmp_path, capsys):
  out = tmp_path / "new" / "net.safetensors"
  assert command(source, "--to=safetensors", f"--out={out}") == 0
  said = capsys.readouterr().out
  assert said.startswith(f"wrote {out} (0.0 MB), net.safetensors.json and net.saf")
  assert sorted(os.listdir(out.parent)) == [
    "net.safetensors",
    "net.safetensors.json",
    "net.safetensors.md",
  ]
  expected = jaxdistill.load(source)
  found = jaxdistill.load(out)
  np.testing.assert_array_equal(found(images), expected(images))
  assert found.class_names == ("cat", "dog", "owl")
  assert jax.tree.structure(found.variables) == jax.tree.structure(expected.variables)

  # Once more, from the file: nothing is lost.
  again = tmp_path / "again.safetensors"
  export.export(out, "safetensors", again)
  assert again.read_bytes() == out.read_bytes()
  before = json.loads((out.parent / f"{out.name}.json").read_text())
  after = json.loads((tmp_path / "again.safetensors.json").read_text())
  assert after == before


def test_batch_normalisations_have_their_counters(source, tmp_path):
  out = tmp_path / "net.safetensors"
  export.export(source, "safetensors", out)
  tensors = safetensors.numpy.load_file(out)
  counters = {name for name in tensors if name.endswith("num_batches_tracked")}
  means = {name for name in tensors if name.endswith("running_mean")}
  assert len(counters) == len(means) > 0
  for name in counters:
    assert (tensors[name].dtype, tensors[name].shape) == (np.int64, ())
    assert tensors[name] == 7


def test_a_run_that_starts_from_the_file_normalises_as_its_card_says(source, tmp_path):
  out = tmp_path / "net.safetensors"
  export.export(source, "safetensors", out)
  variables = jaxdistill.load(source).variables
  weights = pretrained.load(str(out), variables, num_classes=3)
  expected = Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
  assert weights.normalization == expected
  card = tmp_path / "net.safetensors.json"
  # Not a card of ours.
  card.write_text("{}")
  assert pretrained.load(str(out), variables, num_classes=3).normalization is None


def test_the_variables_come_back_from_flax(source, tmp_path):
  out = tmp_path / "net.msgpack"
  export.export(source, "flax", out)
  found = flax.serialization.msgpack_restore(out.read_bytes())
  jax.tree.map(np.testing.assert_array_equal, found, jaxdistill.load(source).variables)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_program_takes_any_batch_and_normalises_itself(
  source, images, tmp_path, kind
):
  out = tmp_path / "net.stablehlo"
  export.export(source, "stablehlo", out, images=kind)
  program = jax_export.deserialize(bytearray(out.read_bytes()))
  assert program.platforms == ("cpu", "cuda", "tpu")
  given = images if kind == "uint8" else images.astype(np.float32) / 255
  expected = jaxdistill.load(source)(images)
  for count in (1, 5):
    np.testing.assert_allclose(
      program.call(given[:count]), expected[:count], rtol=1e-4, atol=1e-5
    )
  card = json.loads((tmp_path / "net.stablehlo.json").read_text())
  assert card["input"].startswith(kind)
  with pytest.raises(CheckpointError, match="was exported as stablehlo"):
    jaxdistill.load(out)


@pytest.mark.slow
def test_an_onnx_program_computes_the_same(source, images, tmp_path):
  pytest.importorskip("jax2onnx")
  onnxruntime = pytest.importorskip("onnxruntime")
  out = tmp_path / "net.onnx"
  export.export(source, "onnx", out)
  session = onnxruntime.InferenceSession(str(out))
  (given,) = session.get_inputs()
  (found,) = session.run(None, {given.name: images})
  expected = jaxdistill.load(source)(images)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ceil", [False, True])
def test_maps_that_are_padded_apart_are_pooled_the_same(rng, ceil):
  x = rng.normal(size=(1, 7, 6, 2)).astype(np.float32)
  expected = heads.max_pool(x, 3, 2, padding=1, ceil=ceil)
  with heads.padded_apart():
    found = heads.max_pool(x, 3, 2, padding=1, ceil=ceil)
    program = str(jax.make_jaxpr(lambda x: heads.max_pool(x, 3, 2, padding=1))(x))
  np.testing.assert_array_equal(found, expected)
  assert "padding=((0, 0), (0, 0), (0, 0), (0, 0))" in program


def test_what_a_converter_cannot_do_is_one_line():
  with pytest.raises(ConfigError, match="^jax2onnx cannot convert this .*: no rule"):
    with export._converting("jax2onnx"):
      raise NotImplementedError("no rule\nat all")


def test_a_program_that_computes_something_else_is_not_kept(
  source, tmp_path, monkeypatch
):
  def wrong(exported, path):
    def run(images):
      return np.zeros((len(images), 3))

    export._require_same_logits(exported, run, path)

  monkeypatch.setitem(
    export.FORMATS, "flax", export.FORMATS["flax"]._replace(check=wrong)
  )
  with pytest.raises(ConfigError, match="logits differ from the member's by"):
    export.export(source, "flax", tmp_path / "net")
  assert os.listdir(tmp_path) == []


# The cards.


def test_the_cards_tell_of_the_run(source, tmp_path):
  run = tmp_path / "run"
  place = run / "members" / "convnet.0" / "best"
  shutil.copytree(source, place)
  config = runs.config("competitive", "cohort.convnet.init=/secret/old.safetensors")
  config = {**config.to_dict()}
  config["data"] = {"name": "digits", "dir": "/secret"}
  record = {
    "version": 1,
    "config": config,
    "config_digest": "abc",
    "digests": ["abc"],
    "versions": {"jax": "0.10"},
  }
  (run / "config.json").write_text(json.dumps(record))
  out = tmp_path / "net.safetensors"
  export.export(place, "safetensors", out)

  card = json.loads((tmp_path / "net.safetensors.json").read_text())
  assert card["model"] == {"model": "small.convnet", "width": 4}
  assert card["class_names"] == ["cat", "dog", "owl"]
  assert (card["step"], card["metrics"]["top1"]) == (7, 0.5)
  assert (card["member"], card["which"]) == ("convnet.0", "best")
  assert card["image_shape"] == [8, 8, 3]
  training = card["training"]
  assert (training["data"], training["members"]) == ("digits", 2)
  assert training["config_digest"] == "abc"
  assert training["recipe"]["batch_size"] == 64
  assert "/secret" not in json.dumps(card)

  text = (tmp_path / "net.safetensors.md").read_text()
  for told in (
    "`small.convnet` (`width=4`), 3 classes",
    "At step 7, the best evaluation, chosen on the test split",
    "| top1 | 0.5000 |",
    "RGB, 8x8 pixels",
    "cat, dog, owl.",
    "- Data: `digits`",
    "those of the weights it started from, old.safetensors",
    "Neither torchvision nor timm",
  ):
    assert told in text


def test_a_run_whose_config_cannot_be_read_is_not_told_of(source, tmp_path):
  place = tmp_path / "run" / "members" / "convnet.0" / "best"
  shutil.copytree(source, place)
  config = tmp_path / "run" / "config.json"
  for number, text in enumerate(("{", '{"version": 1, "config": {}, "digests": []}')):
    config.write_text(text)
    out = tmp_path / f"net{number}"
    export.export(place, "flax", out)
    assert json.loads((tmp_path / f"net{number}.json").read_text())["training"] == {}
    assert "Not known" in (tmp_path / f"net{number}.md").read_text()


def test_cards_of_other_files_are_noticed(source, tmp_path):
  out = tmp_path / "net.safetensors"
  export.export(source, "safetensors", out)
  card = tmp_path / "net.safetensors.json"
  contents = json.loads(card.read_text())

  def refused(message, **changes):
    card.write_text(json.dumps({**contents, **changes}))
    with pytest.raises(CheckpointError, match=message):
      jaxdistill.load(out)

  refused("is the card of another file than net.safetensors", sha256="0")
  refused("is a card of version 2, not 1", jaxdistill_card=2)
  refused("num_classes in its manifest is 'x'", num_classes="x")
  refused("its card says 4 classes", num_classes=4)
  refused("image_shape in its manifest is .8, 8., which", image_shape=[8, 8])
  refused("its card is another network's", model={"model": "small.convnet", "width": 5})
  refused("pass trust_code=True", model={"model": "my_lab.nets:mine"})
  card.write_text("{")
  with pytest.raises(CheckpointError, match="the card of net.safetensors, cannot be"):
    jaxdistill.load(out)
  card.unlink()
  with pytest.raises(CheckpointError, match="has no card: the file net.safetensors.js"):
    jaxdistill.load(out)


# What is refused.


def test_outputs_that_exist_are_kept_unless_told(source, tmp_path, capsys):
  out = tmp_path / "net"
  (tmp_path / "net.md").write_text("mine")
  assert command(source, "--to=flax", f"--out={out}") == 2
  said = capsys.readouterr().err
  assert f"{out}.md exists already" in said
  assert "--overwrite" in said
  assert os.listdir(tmp_path) == ["net.md"]
  assert command(source, "--to=flax", f"--out={out}", "--overwrite") == 0
  assert (tmp_path / "net.md").read_text().startswith("# net\n")
  assert command(source, "--to=flax", f"--out={tmp_path}") == 2
  assert "is a directory" in capsys.readouterr().err


def test_what_is_no_member_is_told_with_those_there_are(source, tmp_path, capsys):
  run = source.parent.parent.parent
  flags = ("--to=flax", f"--out={tmp_path / 'net'}")
  assert command(run, *flags) == 3
  assert "is a run, not a member of one: name members/convnet.0/best in it" in (
    capsys.readouterr().err
  )
  assert command(tmp_path, *flags) == 3
  assert "holds no member" in capsys.readouterr().err
  assert command(tmp_path / "none", *flags) == 3
  assert "there is no such directory or file" in capsys.readouterr().err
  (tmp_path / "config.json").write_text("{}")
  assert command(tmp_path, *flags) == 3
  assert "a run without a finished evaluation" in capsys.readouterr().err


def test_a_library_that_is_missing_is_named(source, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)
  assert command(source, "--to=onnx", f"--out={tmp_path / 'net'}") == 2
  said = capsys.readouterr().err
  assert said.startswith("jaxdistill: error: --to=onnx needs jax2onnx: pip install")
  assert said.count("\n") == 1


def test_sizes_are_asked_for_and_checked(tmp_path, capsys):
  old = members.save(tmp_path / "old", image_shape=None)
  flags = ("--to=flax", f"--out={tmp_path / 'net'}")
  assert command(old, *flags) == 2
  assert "--size=HxW" in capsys.readouterr().err
  for wrong in ("8x", "0", "axb", "99999"):
    assert command(old, *flags, f"--size={wrong}") == 2
    assert "--size must be" in capsys.readouterr().err
  assert command(old, *flags, "--size=8") == 0
  keys = {"dim": 8, "depth": 1, "heads": 1, "patch": 4}
  tokens = members.save(tmp_path / "vit", "vit", keys=keys)
  assert command(tokens, *flags, "--size=16x8", "--overwrite") == 2
  said = capsys.readouterr().err
  assert "takes no images of 16x8 (it was trained on 8x8)" in said


# PyTorch.

TWINS = {
  "resnet.resnet18": {},
  "resnet.resnet18 cifar": {"stem": "cifar"},
  "resnet.resnet34": {},
  "resnet.resnet50": {},
  "resnet.resnet101": {},
  "resnet.resnet152": {},
  "resnet.resnext50": {},
  "vgg.vgg16": {},
  "vgg.vgg19": {},
  "alexnet": {},
  "squeezenet.squeezenet1_1": {},
  "mobilenet.v1": {},
  "mobilenet.v2": {},
  "vit.vit_ti": {},
  "vit.vit_s": {},
  "vit.vit_b": {},
}
"""Networks that torchvision or timm have -> keys."""


def with_torch():
  """Returns a Python that has PyTorch, torchvision and timm; skips without one.

  `JAXDISTILL_TORCH_PYTHON` names one that need not have JAX.
  """
  python = os.environ.get("JAXDISTILL_TORCH_PYTHON", sys.executable)
  code = "import safetensors.torch, torchvision, timm"
  if subprocess.run([python, "-c", code], capture_output=True).returncode:
    pytest.skip("needs torch, torchvision and timm: see docs/deploying.md")
  return python


def test_networks_in_forms_of_their_own_have_no_twin():
  assert _twins.find({"model": "resnet.resnet18", "width": 32}, 10, 32) is None
  assert _twins.find({"model": "vgg.vgg16", "stem": "cifar"}, 10, 32) is None
  assert _twins.find({"model": "mobilenet.v1", "width": 0.5}, 10, 32) is None
  assert _twins.find({"model": "my_lab:net"}, 10, 32) is None
  twin = _twins.find({"model": "mobilenet.v2", "width": 0.5}, 10, 32)
  assert twin.lines == (
    "model = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.5)",
  )


@pytest.mark.slow
@pytest.mark.parametrize("case", TWINS)
def test_pytorch_loads_it_as_the_card_says_and_computes_the_same(case, rng, tmp_path):
  python = with_torch()
  name = case.split()[0]
  side = 32 if "cifar" in case else 224
  keys = TWINS[case]
  source = members.save(tmp_path / "m", name, side=side, num_classes=10, keys=keys)
  out = tmp_path / "net.safetensors"
  export.export(source, "safetensors", out)
  loaded = jaxdistill.load(out)
  shutil.rmtree(source)

  images = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
  mean, std = (np.float32(loaded.manifest[key]) for key in ("mean", "std"))
  normalised = (images / np.float32(255) - mean) / std
  np.save(tmp_path / "images.npy", normalised.transpose(0, 3, 1, 2))
  result = subprocess.run(
    [python, runs.ROOT / "tests" / "helpers" / "in_torch.py", tmp_path],
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  found = np.load(tmp_path / "logits.npy")
  expected = np.asarray(loaded(images))
  out.unlink()
  # Two images tell apart: not a constant.
  assert np.abs(expected[0] - expected[1]).max() > 1e-2
  limit = 1e-4 * np.abs(expected).max()
  difference = np.abs(found - expected).max()
  print(f"{case}: logits of {np.abs(expected).max():.3g} differ by {difference:.2g}")
  assert difference < limit
