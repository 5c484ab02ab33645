"""ResNet and ResNeXt: sizes, shapes, parity with a forward pass written in PyTorch, members stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import resnet


def shapes(model, image, batch=2):
  """Output and variables of a network as shapes and types, without computing them."""
  return jax.eval_shape(lambda: model.init_with_output(
      jax.random.key(0), jnp.zeros((batch, image, image, 3)), train=True))


def size(name, image=224, **kwargs):
  model = registry.resolve("models", f"resnet.{name}", **kwargs)
  return sum(x.size for x in jax.tree.leaves(shapes(model, image)[1]["params"]))


def draw(rng, model, image, members=()):
  """Random variables: weights that keep the scale of the maps, statistics that are not 0 and 1."""
  def leaf(path, x):
    name, shape = path[-1].key, (*members, *x.shape)
    if name in ("scale", "var"):
      return jnp.float32(rng.uniform(0.5, 1.5, shape))
    scale = np.sqrt(2 / np.prod(x.shape[:-1])) if name == "kernel" else 0.3
    return jnp.float32(scale * rng.normal(size=shape))
  return jax.tree_util.tree_map_with_path(leaf, shapes(model, image)[1])


@pytest.mark.parametrize("name, count", [  # as torchvision publishes them
    ("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032), ("resnet101", 44_549_160),
    ("resnet152", 60_192_808), ("resnext50", 25_028_904)])
def test_sizes_are_torchvisions(name, count):
  assert size(name, num_classes=1000) == count


@pytest.mark.parametrize("name, count", [("resnet18", 11_173_962), ("resnet50", 23_520_842)])
def test_sizes_with_the_stem_for_small_images(name, count):  # as github.com/kuangliu/pytorch-cifar has them
  assert size(name, image=32, num_classes=10, stem="cifar") == count


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("stem, image, sides", [
    ("imagenet", 224, (56, 56, 28, 14, 7)), ("imagenet", 32, (8, 8, 4, 2, 1)), ("cifar", 32, (32, 32, 16, 8, 4))])
@pytest.mark.parametrize("name, expansion", [("resnet18", 1), ("resnet50", 4), ("resnext50", 4)])
def test_shapes_and_types(name, expansion, stem, image, sides, dtype):
  model = registry.resolve("models", f"resnet.{name}", num_classes=7, stem=stem, dtype=dtype)
  output, variables = shapes(model, image)
  assert output.logits.shape == (2, 7) and output.logits.dtype == jnp.float32
  channels = (64, *(expansion * 64 * 2**k for k in range(4)))
  maps = {key: (2, side, side, count) for key, side, count in zip(
      ("stem", "stage1", "stage2", "stage3", "stage4"), sides, channels, strict=True)}
  expected = {**maps, "pooled": (2, channels[-1])}
  assert {key: x.shape for key, x in output.features.items()} == expected
  assert {key: x.dtype for key, x in output.features.items()} == {
      key: jnp.float32 if key == "pooled" else dtype for key in expected}
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name, kwargs", [
    ("resnet18", {"stem": "tiny"}), ("resnext50", {"stem": "tiny"}), ("resnet50", {"width": 0}),
    ("resnext50", {"width": 0}), ("resnext50", {"width": 8})])
def test_unknown_stems_and_impossible_widths_are_refused(name, kwargs):
  with pytest.raises(ConfigError, match=next(iter(kwargs))):
    registry.resolve("models", f"resnet.{name}", num_classes=10, **kwargs)


def torch_forward(variables, image, blocks, bottleneck, stem, groups):
  """Features and logits of the network, in PyTorch's layout and with its functions."""
  torch = pytest.importorskip("torch")
  F = torch.nn.functional
  tensor = lambda x: torch.from_numpy(np.array(x))

  def unit(x, at, index, stride=1, groups=1):
    params, stats = variables["params"], variables["batch_stats"]
    if at:
      params, stats = params[at], stats[at]
    kernel = tensor(params[f"Conv_{index}"]["kernel"]).permute(3, 2, 0, 1)
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
    norm, stats = params[f"BatchNorm_{index}"], stats[f"BatchNorm_{index}"]
    return F.batch_norm(x, tensor(stats["mean"]), tensor(stats["var"]), tensor(norm["scale"]), tensor(norm["bias"]))

  def block(x, at, stride, projected):
    if bottleneck:
      y = F.relu(unit(x, at, 0))
      y = F.relu(unit(y, at, 1, stride, groups))
      y = unit(y, at, 2)
    else:
      y = F.relu(unit(x, at, 0, stride))
      y = unit(y, at, 1)
    assert (f"Conv_{3 if bottleneck else 2}" in variables["params"][at]) == projected
    return F.relu(y + (unit(x, at, 3 if bottleneck else 2, stride) if projected else x))

  x = F.relu(unit(tensor(image).permute(0, 3, 1, 2), None, 0, stride=2 if stem == "imagenet" else 1))
  if stem == "imagenet":
    x = F.max_pool2d(x, 3, stride=2, padding=1)
  features = {"stem": x}
  for stage, count in enumerate(blocks):
    for index in range(count):
      # The first stage keeps the number of channels unless its blocks are bottlenecks.
      projected = index == 0 and (stage > 0 or bottleneck)
      x = block(x, f"stage{stage + 1}_block{index + 1}", 2 if stage and not index else 1, projected)
    features[f"stage{stage + 1}"] = x
  features = {key: value.permute(0, 2, 3, 1) for key, value in features.items()}
  features["pooled"] = F.adaptive_avg_pool2d(x, 1).flatten(1)
  head = variables["params"]["classifier"]
  return features, F.linear(features["pooled"], tensor(head["kernel"]).T, tensor(head["bias"]))


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("name, width, bottleneck, groups, image", [
    ("resnet18", 8, False, 1, 32), ("resnet50", 8, True, 1, 32), ("resnext50", 16, True, 32, 32),
    ("resnet18", 8, False, 1, 27)])
def test_forward_is_pytorchs(rng, name, width, bottleneck, groups, image, stem):
  model = registry.resolve("models", f"resnet.{name}", num_classes=5, width=width, stem=stem)
  variables = draw(rng, model, image)
  x = np.float32(rng.normal(size=(2, image, image, 3)))
  features, logits = torch_forward(
      variables, x, (2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3), bottleneck, stem, groups)
  found = jax.jit(lambda v: model.apply(v, x, train=False))(variables)
  assert set(found.features) == set(features)
  for key, value in {**features, "logits": logits}.items():
    value, got = value.numpy(), found.logits if key == "logits" else found.features[key]
    assert np.abs(value).max() > 0.1
    np.testing.assert_allclose(got, value, atol=1e-4 * max(1, np.abs(value).max()), err_msg=key)


def test_stacked_members_with_groups_are_the_members(rng):
  model = resnet.ResNet((1, 1), True, 5, "cifar", width=8, groups=4, hidden=2)
  variables = draw(rng, model, 8, members=(2,))
  x = jnp.float32(rng.normal(size=(4, 8, 8, 3)))

  @jax.jit
  def run(variables):
    def loss(params):
      output, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
      return jnp.sum(output.logits**2), updated
    return jax.value_and_grad(loss, has_aux=True)(variables["params"])

  stacked = jax.jit(jax.vmap(run))(variables)
  before, after = variables["batch_stats"], stacked[0][1]["batch_stats"]
  assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, before, after)))
  for k in range(2):
    alone = run(jax.tree.map(lambda leaf: leaf[k], variables))
    for a, b in zip(jax.tree.leaves(stacked), jax.tree.leaves(alone), strict=True):
      np.testing.assert_allclose(a[k], b, atol=1e-4 * (1 + np.abs(b).max()))
