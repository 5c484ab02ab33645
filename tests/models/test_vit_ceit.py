"""ViT and CeiT: sizes, shapes, dropped paths, and CeiT's own blocks in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import ceit, vit
from jaxdistill.nn.tokens import DropPath
from tests.helpers import networks

# Patches of 8x8 pixels: CeiT's are of its stem's map, a quarter of the image.
TINY = {
  "vit": {"num_classes": 3, "dim": 12, "depth": 3, "heads": 3, "patch": 8},
  "ceit": {"num_classes": 3, "dim": 12, "depth": 3, "heads": 3, "patch": 2},
}


def tiny(name, **kwargs):
  return registry.resolve("models", name, **TINY[name], **kwargs)


def draw_variables(rng, model, side):
  _, structure = networks.shapes(model, side)
  return networks.draw(rng, structure)


def evaluated_logits(model, variables, image):
  return jax.jit(lambda: model.apply(variables, image, train=False).logits)()


@pytest.mark.parametrize(
  "name, image, num_classes, count",
  [
    ("vit.vit_ti", 224, 1000, 5_717_416),
    ("vit.vit_s", 224, 1000, 22_050_664),
    ("vit.vit_b", 224, 1000, 86_567_656),
    ("vit.vit_b", 32, 100, 85_728_100),
    ("ceit.ceit_t", 224, 1000, 6_356_904),
    ("ceit.ceit_s", 224, 1000, 24_204_840),
    ("ceit.ceit_b", 224, 1000, 94_405_416),
    ("ceit.ceit_b", 32, 10, 93_496_650),
  ],
)
def test_sizes_are_the_published_codes(name, image, num_classes, count):
  model = registry.resolve("models", name, num_classes=num_classes)
  assert networks.size(model, image) == count


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "name, image, kwargs, side",
  [
    ("vit", 32, {"patch": 4, "depth": 6}, 8),
    ("vit", 32, {"patch": 8, "depth": 2}, 4),
    ("vit", 32, {"depth": 4, "resize": 48}, 3),
    ("ceit", 32, {"depth": 6}, 2),
    ("ceit", 30, {"patch": 2, "depth": 2}, 4),
    ("ceit", 32, {"depth": 4, "resize": 64}, 4),
  ],
)
def test_shapes_and_types(name, image, kwargs, side, dtype):
  model = registry.resolve("models", name, num_classes=7, dim=24, dtype=dtype, **kwargs)
  count = 1 + min(4, kwargs["depth"])
  maps = networks.named_maps([side] * count, [24] * count)
  networks.check_shapes(model, image, maps, 24, dtype)


@pytest.mark.parametrize(
  "name, kwargs",
  [
    ("vit", {"dim": 0}),
    ("vit", {"dim": 25}),
    ("vit", {"depth": 0}),
    ("vit", {"heads": 0}),
    ("vit.vit_b", {"patch": 0}),
    ("vit.vit_s", {"drop_path": 1.0}),
    ("vit.vit_ti", {"dropout": -0.1}),
    ("vit", {"resize": -1}),
    ("ceit", {"dim": 25}),
    ("ceit", {"stem_width": 0}),
    ("ceit.ceit_t", {"drop_path": 1.0}),
    ("ceit.ceit_s", {"resize": -1}),
    ("ceit.ceit_b", {"patch": 0}),
  ],
)
def test_impossible_values_are_refused(name, kwargs):
  with pytest.raises(ConfigError, match=f"^{next(iter(kwargs))} "):
    registry.resolve("models", name, num_classes=10, **kwargs)


@pytest.mark.parametrize(
  "name, numbers", [("vit.vit_ti", "40x40.* 16;"), ("ceit.ceit_t", "10x10.* 4;")]
)
def test_images_that_patches_do_not_fill_are_refused(name, numbers):
  model = registry.resolve("models", name, num_classes=10)
  with pytest.raises(ConfigError, match=f"patch .*{numbers}"):
    networks.shapes(model, 40)


def test_initial_weights_are_timms():
  model = vit.vit(num_classes=50, dim=60, depth=1, patch=4)

  @jax.jit
  def init():
    return model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)

  params = init()["params"]
  block = params["blocks.0"]
  layers = [
    block["attn"]["qkv"],
    block["attn"]["proj"],
    block["mlp"]["fc1"],
    block["mlp"]["fc2"],
  ]
  normal = [params["pos_embed"], params["cls_token"], params["head"]["kernel"]]
  for layer in layers:
    normal.append(layer["kernel"])
    np.testing.assert_array_equal(layer["bias"], 0)
  for weights in normal:
    np.testing.assert_allclose(jnp.std(weights), 0.02, rtol=0.3)
  kernel = params["patch_embed.proj"]["kernel"]
  np.testing.assert_allclose(jnp.std(kernel), (3 * 4 * 4) ** -0.5, rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "ceit"])
def test_stages_end_after_each_quarter_of_the_blocks(rng, name):
  model = tiny(name).clone(depth=6)
  variables = draw_variables(rng, model, 16)
  image = networks.images(rng, side=16, batch=1)

  @jax.jit
  def run():
    return model.apply(variables, image, train=False, capture_intermediates=True)

  output, captured = run()
  for stage, block in enumerate((0, 2, 3, 5), start=1):
    tokens = captured["intermediates"][f"blocks.{block}"]["__call__"][0]
    found = output.features[f"stage{stage}"].reshape(1, 4, 12)
    np.testing.assert_array_equal(found, tokens[:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "ceit"])
def test_paths_are_dropped_in_training_only_and_linearly_in_depth(rng, name):
  dropped = tiny(name, drop_path=0.8)
  whole = tiny(name)
  variables = draw_variables(rng, whole, 8)
  image = networks.images(rng, side=8, batch=1024)

  @jax.jit
  def train(key):
    output, _ = dropped.apply(
      variables,
      image,
      train=True,
      rngs={"dropout": key},
      mutable=["batch_stats"],
    )
    return output

  output = train(jax.random.key(0))
  other = train(jax.random.key(1))
  assert np.abs(output.logits - other.logits).max() > 0.1
  stage1, stage2, stage3 = (output.features[f"stage{stage}"] for stage in (1, 2, 3))
  np.testing.assert_array_equal(stage1, other.features["stage1"])
  for before, after, rate in ((stage1, stage2, 0.4), (stage2, stage3, 0.8)):
    # Both branches of the block are dropped.
    is_skipped = np.all(before == after, axis=(1, 2, 3))
    np.testing.assert_allclose(is_skipped.mean(), rate**2, atol=0.06)

  evaluated = evaluated_logits(whole, variables, image[:2])
  found = evaluated_logits(dropped, variables, image[:2])
  np.testing.assert_array_equal(found, evaluated)


def test_training_without_dropping_needs_no_random_stream(rng):
  # Of ViT only: CeiT's batch normalisation tells training apart.
  model = tiny("vit")
  variables = draw_variables(rng, model, 8)
  image = networks.images(rng, side=8, batch=2)
  trained = jax.jit(lambda: model.apply(variables, image, train=True).logits)()
  expected = evaluated_logits(model, variables, image)
  np.testing.assert_array_equal(trained, expected)


def test_dropped_paths_keep_the_expectation():
  x = jnp.ones((4096, 2, 1))
  rngs = {"dropout": jax.random.key(0)}
  y = DropPath(0.75).apply({}, x, train=True, rngs=rngs)
  assert set(np.unique(y)) == {0, 4}
  np.testing.assert_array_equal(y[:, 0], y[:, 1])
  np.testing.assert_allclose(y.mean(), 1, atol=0.15)


def test_dropout_is_random_in_training_only(rng):
  model = tiny("vit", dropout=0.5)
  whole = tiny("vit")
  variables = draw_variables(rng, whole, 8)
  image = networks.images(rng, side=8, batch=2)

  @jax.jit
  def train(key):
    rngs = {"dropout": key}
    return model.apply(variables, image, train=True, rngs=rngs).logits

  first = train(jax.random.key(0))
  second = train(jax.random.key(1))
  assert np.abs(first - second).max() > 0.1
  found = evaluated_logits(model, variables, image)
  np.testing.assert_array_equal(found, evaluated_logits(whole, variables, image))


@pytest.mark.parametrize(
  "name, dtype, tolerance",
  [
    ("vit", jnp.float32, 1e-4),
    ("vit", jnp.bfloat16, 5e-2),
    pytest.param("ceit", jnp.float32, 1e-4, marks=pytest.mark.slow),
  ],
)
def test_stacked_members_are_the_members(rng, name, dtype, tolerance):
  model = tiny(name, dtype=dtype, drop_path=0.5).clone(depth=2)
  gradients = networks.check_stacked(rng, model, 16, tolerance)
  reached = [gradients[name] for name in ("blocks.0", "cls_token", "pos_embed")]
  for gradient in jax.tree.leaves(reached):
    assert np.abs(gradient[0]).max() > 0


@np.vectorize
def gelu(x):
  return x * (1 + math.erf(x / math.sqrt(2))) / 2


def dense(params, x):
  return x @ params["kernel"] + params["bias"]


def layer_norm(params, x):
  x = x - x.mean(-1, keepdims=True)
  deviation = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x / deviation * params["scale"] + params["bias"]


def init_shapes(model, x):
  return jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))


def test_leff_is_numpys(rng):
  model = ceit.LeFF((3, 2))
  x = np.float32(rng.normal(size=(2, 7, 4)))
  variables = networks.draw(rng, init_shapes(model, x))
  params = jax.tree.map(np.float64, variables["params"])
  stats = jax.tree.map(np.float64, variables["batch_stats"])

  def normalise(x, name):
    x = (x - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + 1e-5)
    return x * params[name]["scale"] + params[name]["bias"]

  def pointwise(x, name):
    return x @ params[name]["kernel"][0, 0] + params[name]["bias"]

  def depthwise(x, name):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = params[name]["bias"]
    for i in range(3):
      for j in range(3):
        window = padded[:, i : i + 3, j : j + 2]
        total = total + window * params[name]["kernel"][i, j, 0]
    return total

  y = x[:, 1:].reshape(2, 3, 2, 4)
  y = gelu(normalise(pointwise(y, "conv1"), "bn1"))
  y = gelu(normalise(depthwise(y, "conv2"), "bn2"))
  y = normalise(pointwise(y, "conv3"), "bn3")
  found = jax.jit(lambda: model.apply(variables, x, train=False))()
  np.testing.assert_array_equal(found[:, 0], x[:, 0])
  np.testing.assert_allclose(found[:, 1:], y.reshape(2, 6, 4), atol=1e-4)


def test_class_attention_is_numpys(rng):
  model = ceit.ClassAttention(heads=2)
  x = np.float32(rng.normal(size=(2, 5, 8)))
  variables = networks.draw(rng, init_shapes(model, x))
  params = jax.tree.map(np.float64, variables["params"])

  qkv = dense(params["attn"]["qkv"], layer_norm(params["norm1"], x))
  q, k, v = np.split(qkv, 3, axis=-1)
  heads = []
  for part in (slice(0, 4), slice(4, 8)):
    scores = np.einsum("bd,bnd->bn", q[:, -1, part], k[..., part]) / 2
    weights = np.exp(scores)
    weights = weights / weights.sum(1, keepdims=True)
    heads.append(np.einsum("bn,bnd->bd", weights, v[..., part]))
  y = x[:, -1] + dense(params["attn"]["proj"], np.concatenate(heads, axis=-1))
  hidden = gelu(dense(params["feedforward"]["fc1"], layer_norm(params["norm2"], y)))
  y = y + dense(params["feedforward"]["fc2"], hidden)

  found = jax.jit(lambda: model.apply(variables, x, train=False))()
  np.testing.assert_allclose(found, y, atol=1e-4)
