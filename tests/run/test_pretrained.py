"""Starting from published weights, or from those of another run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxdistill
from jaxdistill.core import registry
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.run import checkpoint, pretrained
from jaxdistill.run.build import build
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
  (note,) = experiment.notes
  assert "but for fc.bias, fc.weight, which it has for 10 classes" in note

  params = experiment.init().cohort["convnet"].params
  fresh = build(cohort()).init().cohort["convnet"].params
  np.testing.assert_array_equal(params["fc"]["kernel"], fresh["fc"]["kernel"])
  for name in params:
    if "Conv" in name:
      assert np.abs(params[name]["kernel"] - fresh[name]["kernel"]).max() > 0.1


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
    # Of 15 names the first 12 are told.
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
