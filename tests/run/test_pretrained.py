"""Starting from published weights, and runs with label smoothing and averaged weights."""

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


def network(num_classes=10, **kwargs):
  """A tiny network, its variables' shapes, and weights for it under their published names."""
  model = registry.resolve(
    "models", "small.convnet", num_classes=num_classes, width=4, **kwargs
  )
  variables = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  )
  rng = np.random.default_rng(num_classes)
  return variables, {
    name: rng.uniform(0.5, 1, shape).astype(np.float32)
    for name, shape in pretrained.shapes(variables).items()
  }


def save(path, tensors):
  safetensors.numpy.save_file(tensors, path)
  return str(path)


def cohort(*overrides, members=2):
  return runs.config("independent", f"cohort.convnet.members={members}", *overrides)


def test_the_whole_tree_survives_the_published_layout():
  variables, tensors = network()
  back = pretrained.to_published(pretrained.from_published(tensors, variables))
  assert back.keys() == tensors.keys() and all(
    np.array_equal(back[name], tensors[name]) for name in tensors
  )


@pytest.mark.parametrize(
  "prefix, dtype", [("", np.float32), ("module.", np.float16), ("", "bfloat16")]
)
def test_members_start_from_a_file_each_or_from_one(tmp_path, prefix, dtype):
  _, tensors = network()
  files = []
  for k in range(2):
    stored = {
      prefix + name: (x + k).astype(jnp.dtype(dtype)) for name, x in tensors.items()
    }
    stored |= {f"{prefix}bn.num_batches_tracked": np.zeros((), np.int64)}
    files.append(save(tmp_path / f"{k}.safetensors", stored))
  state = build(cohort(f"cohort.convnet.init={','.join(files)}")).init()
  both = (
    build(cohort(f"cohort.convnet.init={files[1]}", "ema_decay=0.9"))
    .init()
    .cohort["convnet"]
  )
  group = state.cohort["convnet"]
  for k, found in (
    (0, (group.params, group.stats)),
    (1, (group.params, group.stats)),
    (1, both.evaluated),
  ):
    for member in [k] if found is not both.evaluated else [0, 1]:
      variables = {"params": found[0], **found[1]}
      published = pretrained.to_published(
        jax.tree.map(lambda x, member=member: x[member], variables)
      )
      for name, x in tensors.items():
        np.testing.assert_allclose(
          published[name], np.float32((x + k).astype(jnp.dtype(dtype))), err_msg=name
        )


def test_a_classifier_for_other_classes_is_left_random(tmp_path):
  _, tensors = network(num_classes=7)
  experiment = build(
    cohort(f"cohort.convnet.init={save(tmp_path / 'w.safetensors', tensors)}")
  )
  assert (
    len(experiment.notes) == 1
    and "but for fc.bias, fc.weight, which it has for 10 classes" in experiment.notes[0]
  )
  params, fresh = (
    e.init().cohort["convnet"].params for e in (experiment, build(cohort()))
  )
  np.testing.assert_array_equal(params["fc"]["kernel"], fresh["fc"]["kernel"])
  assert all(
    np.abs(params[name]["kernel"] - fresh[name]["kernel"]).max() > 0.1
    for name in params
    if "Conv" in name
  )


def test_a_member_of_another_run_starts_one_here(tmp_path):
  summary = jaxdistill.train(cohort("steps=4"), tmp_path / "first", quiet=True)
  assert summary["steps"] == 4
  weights = tmp_path / "first" / "members" / "convnet.1" / "last"
  state = build(cohort(f"cohort.convnet.init={weights}", members=1)).init()
  saved = checkpoint.load(weights)[0]
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[0], b),
    state.cohort["convnet"].params,
    saved["params"],
  )


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda t: t.pop("fc.bias"), "missing: fc.bias$"),
    (lambda t: t.update(extra=t["fc.bias"]), "unexpected: extra$"),
    (
      lambda t: t.update({"fc.weight": t["fc.weight"][:, :3]}),
      r"of another shape: fc.weight \[10, 3\] instead of \[10, 16\]$",
    ),
    (
      lambda t: (
        [t.pop(name) for name in list(t) if "Conv" in name] + [t.update(x=t["fc.bias"])]
      ),
      "missing: Conv_0.weight, .*; unexpected: x$",
    ),
  ],
)
def test_files_of_other_networks_are_refused(tmp_path, change, message):
  _, tensors = network()
  change(tensors)
  with pytest.raises(
    ConfigError,
    match=r"cohort.convnet: init .*w.safetensors does not fit the network: " + message,
  ):
    build(cohort(f"cohort.convnet.init={save(tmp_path / 'w.safetensors', tensors)}"))


def test_missing_damaged_and_too_many_files_are_refused(tmp_path):
  _, tensors = network()
  sound = save(tmp_path / "w.safetensors", tensors)
  (tmp_path / "half.safetensors").write_bytes(
    (tmp_path / "w.safetensors").read_bytes()[:500]
  )
  for name, message in (
    ("half.safetensors", "is not a sound safetensors file"),
    ("none.safetensors", "there is no such file"),
  ):
    with pytest.raises(DataError, match=message):
      build(cohort(f"cohort.convnet.init={tmp_path / name}"))
  with pytest.raises(ConfigError, match="names 3 files for 2 members"):
    build(cohort(f"cohort.convnet.init={sound},{sound},{sound}"))


def test_long_lists_are_cut():
  assert (
    pretrained._listed([str(i) for i in range(15)])
    == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more"
  )
