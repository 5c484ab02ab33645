"""Starting from published weights, or from those of another run."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import safetensors.numpy

import jaxdistill
from jaxdistill import metrics
from jaxdistill.core import registry
from jaxdistill.errors import CheckpointError, ConfigError, DataError
from jaxdistill.inputs.normalize import Normalization
from jaxdistill.models import vim, vit
from jaxdistill.run import checkpoint, pretrained
from jaxdistill.run.build import build
from jaxdistill.run.config import apply_overrides
from tests.faults.malformed import PLACES
from tests.helpers import runs


def tiny_network(num_classes=10):
  """Returns the shapes of a tiny network's variables, and weights for it.

  The weights are under their published names.
  """
  model = registry.resolve("models", "small.convnet", num_classes=num_classes, width=4)
  rng = np.random.default_rng(num_classes)

  def init():
    return model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)

  variables = jax.eval_shape(init)
  tensors = {}
  for name, shape in pretrained.shapes(variables).items():
    tensors[name] = rng.uniform(0.5, 1, shape).astype(np.float32)
  return variables, tensors


def save(path, tensors):
  safetensors.numpy.save_file(tensors, path)
  return str(path)


def cohort(*overrides, members=2):
  return runs.config("independent", f"cohort.convnet.members={members}", *overrides)


def starting_from(*files, members=2):
  return cohort(f"cohort.convnet.init={','.join(map(str, files))}", members=members)


def published(params, stats, member):
  """Returns a member's variables under their published names."""
  variables = {"params": params, **stats}
  return pretrained.to_published(jax.tree.map(lambda x: x[member], variables))


def test_the_whole_tree_survives_the_published_layout():
  variables, tensors = tiny_network()
  back = pretrained.to_published(pretrained.from_published(tensors, variables))
  assert back.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize(
  "prefix, dtype", [("", np.float32), ("module.", np.float16), ("", "bfloat16")]
)
def test_members_start_from_a_file_each_or_from_one(tmp_path, prefix, dtype):
  _, tensors = tiny_network()
  files = []
  expected = []
  for k in range(2):
    weights = {name: (x + k).astype(jnp.dtype(dtype)) for name, x in tensors.items()}
    expected.append({name: np.float32(x) for name, x in weights.items()})
    stored = {prefix + name: x for name, x in weights.items()}
    stored[f"{prefix}bn.num_batches_tracked"] = np.zeros((), np.int64)
    files.append(save(tmp_path / f"{k}.safetensors", stored))

  def check(params, stats, member, file):
    found = published(params, stats, member)
    for name, x in expected[file].items():
      np.testing.assert_allclose(found[name], x, err_msg=name)

  group = build(starting_from(*files)).init().cohort["convnet"]
  check(group.params, group.stats, member=0, file=0)
  check(group.params, group.stats, member=1, file=1)

  # Averaged weights start there too.
  config = cohort(f"cohort.convnet.init={files[1]}", "ema_decay=0.9")
  params, stats = build(config).init().cohort["convnet"].evaluated
  check(params, stats, member=0, file=1)
  check(params, stats, member=1, file=1)


def test_a_classifier_for_other_classes_is_left_random(tmp_path):
  _, tensors = tiny_network(num_classes=7)
  path = save(tmp_path / "w.safetensors", tensors)
  experiment = build(starting_from(path))
  start, statistics = experiment.notes
  assert "but for fc.bias, fc.weight, which it has for 10 classes" in start
  assert "convnet normalises its images with the data set's mean and std" in statistics

  params = experiment.init().cohort["convnet"].params
  fresh = build(cohort()).init().cohort["convnet"].params
  np.testing.assert_array_equal(params["fc"]["kernel"], fresh["fc"]["kernel"])
  for name in params:
    if "Conv" in name:
      assert np.abs(params[name]["kernel"] - fresh[name]["kernel"]).max() > 0.1


@pytest.mark.slow
def test_a_member_of_another_run_starts_one_here(tmp_path):
  summary = jaxdistill.train(cohort("steps=4"), tmp_path / "first", quiet=True)
  assert summary["steps"] == 4
  weights = tmp_path / "first" / "members" / "convnet.1" / "last"
  state = build(starting_from(weights, members=1)).init()
  saved, *_ = checkpoint.load(weights)

  def check(found, expected):
    np.testing.assert_array_equal(found[0], expected)

  jax.tree.map(check, state.cohort["convnet"].params, saved["params"])


def lose_a_tensor(tensors):
  tensors.pop("fc.bias")


def add_a_tensor(tensors):
  tensors["extra"] = tensors["fc.bias"]


def cut_a_tensor(tensors):
  tensors["fc.weight"] = tensors["fc.weight"][:, :3]


def rename_convolutions(tensors):
  for name in list(tensors):
    if "Conv" in name:
      tensors.pop(name)
  tensors["x"] = tensors["fc.bias"]


def lose_all_but_the_classifier(tensors):
  for name in list(tensors):
    if not name.startswith("fc."):
      tensors.pop(name)


@pytest.mark.parametrize(
  "change, message",
  [
    (lose_a_tensor, "missing: fc.bias$"),
    (add_a_tensor, "unexpected: extra$"),
    (
      cut_a_tensor,
      r"of another shape: fc.weight \[10, 3\] instead of \[10, 16\]$",
    ),
    (rename_convolutions, "missing: Conv_0.weight, .*; unexpected: x$"),
    # Of 15 names the first 3 are told.
    (
      lose_all_but_the_classifier,
      r"missing: ([A-Z]\w+\.\w+, ){2}[A-Z]\w+\.\w+ and 12 more$",
    ),
  ],
)
def test_files_of_other_networks_are_refused(tmp_path, change, message):
  _, tensors = tiny_network()
  change(tensors)
  path = save(tmp_path / "w.safetensors", tensors)
  refusal = r"cohort.convnet: init .*w.safetensors does not fit the network: "
  with pytest.raises(ConfigError, match=refusal + message):
    build(starting_from(path))


@pytest.mark.parametrize(
  "library, name",
  [
    ("keras", "conv1/kernel:0"),
    ("keras", "bn1.moving_mean"),
    ("flax", "params.Conv_0.kernel"),
    ("flax", "ln/scale"),
    ("transformers", "vit.embeddings.cls_token"),
    ("transformers", "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"),
    ("torchvision", "encoder.layers.encoder_layer_0.ln_1.weight"),
    ("torchvision", "layer1.0.conv1.weight"),
    ("timm", "blocks.0.attn.qkv.weight"),
    ("timm", "conv_stem.weight"),
  ],
)
def test_whose_names_they_look_like_is_said(tmp_path, library, name):
  variables, _ = tiny_network()
  path = save(tmp_path / "w.safetensors", {name: np.zeros(2, np.float32)})
  message = f"its names look like those of {library}, such as {name}, and the network"
  with pytest.raises(ConfigError, match=message):
    pretrained.load(path, variables, num_classes=10)


def grid_of(side, rng, dim=3):
  """Returns positions [1, side * side, D] of a grid."""
  return rng.normal(size=(1, side * side, dim)).astype(np.float32)


def resized_by_pillow(grid, side):
  """Returns a grid as Pillow resizes it, whose bicubic PyTorch's antialiased one is."""
  _, count, dim = grid.shape
  old = round(count**0.5)
  channels = []
  for channel in np.moveaxis(grid.reshape(old, old, dim), -1, 0):
    image = Image.fromarray(np.ascontiguousarray(channel))
    channels.append(image.resize((side, side), Image.Resampling.BICUBIC))
  return np.stack(channels, axis=-1).reshape(1, side * side, dim)


@pytest.mark.parametrize("network", [vit.ViT, vim.Vim])
@pytest.mark.parametrize("old, new", [(7, 2), (2, 3)])
def test_positions_of_another_grid_are_interpolated_as_timm_does(
  tmp_path, rng, network, old, new
):
  grid = grid_of(old, rng)
  class_token = rng.normal(size=(1, 1, 3)).astype(np.float32)

  def joined(grid):
    # Vim's class token stands in the middle.
    at = grid.shape[1] // 2 if network is vim.Vim else 0
    return np.concatenate([grid[:, :at], class_token, grid[:, at:]], axis=1)

  path = save(tmp_path / "w.safetensors", {"pos_embed": joined(grid)})
  variables = {
    "params": {"pos_embed": jax.ShapeDtypeStruct((1, 1 + new**2, 3), jnp.float32)}
  }
  with pytest.raises(ConfigError, match="of another shape: pos_embed"):
    pretrained.load(path, variables, num_classes=5)
  weights = pretrained.load(
    path, variables, num_classes=5, class_position=network.class_position
  )
  found = weights.arrays["params", "pos_embed"]
  expected = joined(resized_by_pillow(grid, new))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  line = weights.describe("vit", "FILE", num_classes=5)
  assert line.endswith(f"pos_embed was interpolated from {old}x{old} to {new}x{new}")


def test_positions_that_are_no_square_or_of_another_width_are_refused(tmp_path, rng):
  variables = {"params": {"pos_embed": jax.ShapeDtypeStruct((1, 5, 3), jnp.float32)}}
  for shape in ((1, 7, 3), (1, 10, 4), (1, 1, 3), (10, 3)):
    positions = rng.normal(size=shape).astype(np.float32)
    path = save(tmp_path / "w.safetensors", {"pos_embed": positions})
    with pytest.raises(ConfigError, match="of another shape: pos_embed"):
      pretrained.load(path, variables, 5, class_position=vit.ViT.class_position)


# What images are normalised with.

OWN = Normalization((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))


def save_member(directory, statistics):
  """Writes a tiny network as a member of a run with these statistics."""
  variables, tensors = tiny_network()
  manifest = {"mean": statistics.mean, "std": statistics.std}
  checkpoint.save(directory, pretrained.from_published(tensors, variables), **manifest)
  return str(directory)


def test_weights_bring_their_normalisation_unless_the_config_says_another(tmp_path):
  member = save_member(tmp_path / "best", OWN)
  _, tensors = tiny_network()
  path = save(tmp_path / "w.safetensors", tensors)

  experiment = build(starting_from(member, path))
  dataset = experiment.dataset
  of_data = Normalization(dataset.mean, dataset.std)
  assert experiment.normalizations == {"convnet.0": OWN, "convnet.1": of_data}
  _, _, first, second = experiment.notes
  assert first.startswith(
    "convnet.0 normalises its images with mean 0.5, 0.4, 0.3 and "
  )
  assert second.endswith("with others, set cohort.convnet.mean and .std")

  config = starting_from(member, path)
  given = ["cohort.convnet.mean=0.1,0.2,0.3", "cohort.convnet.std=1,1,0.5"]
  apply_overrides(config, given)
  experiment = build(config)
  assert set(experiment.normalizations.values()) == {
    Normalization((0.1, 0.2, 0.3), (1.0, 1.0, 0.5))
  }
  (line,) = experiment.notes[2:]
  assert line.endswith("std 1, 1, 0.5, as its config says")


@pytest.mark.slow
def test_members_are_evaluated_and_exported_with_their_own_statistics(tmp_path):
  member = save_member(tmp_path / "best", OWN)
  _, tensors = tiny_network()
  path = save(tmp_path / "w.safetensors", tensors)
  config = starting_from(member, path)
  apply_overrides(config, ["steps=2", "perturb.ops=noise", "perturb.every=1"])
  jaxdistill.train(config, tmp_path / "run", quiet=True)

  dataset = build(config).dataset
  expected = {"convnet.0": OWN, "convnet.1": (dataset.mean, dataset.std)}
  for name, (mean, std) in expected.items():
    loaded = jaxdistill.load(tmp_path / "run" / "members" / name / "last")
    assert loaded.manifest["mean"] == pytest.approx(mean)
    assert loaded.manifest["std"] == pytest.approx(std)
    score = metrics.negative_log_likelihood(
      loaded(dataset.test.image), dataset.test.label
    )
    assert loaded.manifest["metrics"]["nll"] == pytest.approx(score.mean(), rel=1e-4)


@pytest.mark.parametrize(
  "override, message",
  [
    ("mean=0.5,0.5,0.5", "cohort.convnet: mean and std go together"),
    ("mean=0.5,0.5", "cohort.convnet.mean must be empty or three numbers in"),
    ("mean=124,116,104", r"cohort.convnet.mean must be .* in \[0, 1\], got"),
    ("std=0.2,0,0.2", r"cohort.convnet.std must be .* in \(0, 1\], got"),
    ("std=a,b,c", "cohort.convnet.std must be empty or three numbers"),
  ],
)
def test_impossible_statistics_are_refused(override, message):
  with pytest.raises(ConfigError, match=message):
    build(cohort(f"cohort.convnet.{override}"))


@pytest.mark.parametrize("std", [[0.5], [0.5, 0.5, None], "abc", None])
def test_a_directory_without_statistics_of_three_channels_is_refused(
  tmp_path, monkeypatch, std
):
  contents = {"mean": [0.5, 0.5, 0.5], "std": std}
  monkeypatch.setattr(checkpoint, "load", lambda directory: ({}, contents))
  with pytest.raises(CheckpointError, match="std in its manifest is .*, not a number"):
    pretrained.load(str(tmp_path), {}, num_classes=10)


def with_header(path, change):
  """Changes the header of a safetensors file; the data stays."""
  content = path.read_bytes()
  size = int.from_bytes(content[:8], "little")
  header = change(content[8 : 8 + size])
  path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])


def twice(header):
  table = json.loads(header)
  again = json.dumps({"fc.bias": table["fc.bias"]})
  return header.rstrip()[:-1] + b", " + again[1:].encode()


def of_type(dtype):
  # Any of them: the type is told before its size is.
  return lambda header: header.replace(b'"F32"', b'"%s"' % dtype)


@pytest.mark.parametrize(
  "change, message",
  [
    (of_type(b"F8_E4M3"), "is of type F8_E4M3, not one of F64, F32, F16, BF16"),
    (of_type(b"F4"), "is of type F4"),
    (of_type(b"I32"), "is of type I32"),
    (of_type(b"C64"), "is of type C64"),
    (twice, "it has a key twice"),
    (lambda header: b"[]", "its header is no table"),
    (
      lambda header: header.replace(b"[0,", b"[4,"),
      "is not an intact safetensors file",
    ),
    (lambda header: b'{"a": 1}', "a is of type None"),
  ],
)
def test_other_headers_are_refused(tmp_path, change, message):
  variables, tensors = tiny_network()
  path = tmp_path / "w.safetensors"
  save(path, tensors)
  with_header(path, change)
  with pytest.raises(DataError, match=re.escape(message)):
    pretrained.load(str(path), variables, num_classes=10)


@pytest.mark.parametrize("kind", ["pipe", "zeros", "socket", "loop"])
def test_what_is_no_file_is_not_read(tmp_path, kind):
  variables, _ = tiny_network()
  path = tmp_path / "w.safetensors"
  PLACES[kind](path)
  with pytest.raises(DataError, match="not a file|symbolic links"):
    pretrained.load(str(path), variables, num_classes=10)


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "a\0b", "~nobody/x"])
def test_names_that_no_file_can_have_are_refused(path):
  variables, _ = tiny_network()
  with pytest.raises(DataError, match="not an intact|no such file"):
    pretrained.load(path, variables, num_classes=10)


def test_numbers_too_large_for_float32_are_not_finite(tmp_path):
  variables, tensors = tiny_network()
  tensors = {name: x.astype(np.float64) for name, x in tensors.items()}
  tensors["fc.bias"][0] = 1e300
  path = save(tmp_path / "w.safetensors", tensors)
  with pytest.raises(DataError, match="not finite, in fc.bias"):
    pretrained.load(path, variables, num_classes=10)


def test_missing_damaged_and_too_many_files_are_refused(tmp_path):
  _, tensors = tiny_network()
  intact = tmp_path / "w.safetensors"
  save(intact, tensors)
  half = tmp_path / "half.safetensors"
  half.write_bytes(intact.read_bytes()[:500])
  with pytest.raises(DataError, match="is not an intact safetensors file"):
    build(starting_from(half))
  with pytest.raises(DataError, match="there is no such file"):
    build(starting_from(tmp_path / "none.safetensors"))
  with pytest.raises(ConfigError, match="names 3 files for 2 members"):
    build(starting_from(intact, intact, intact))
