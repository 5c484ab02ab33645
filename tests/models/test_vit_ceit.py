"""ViT and CeiT: sizes, shapes, refusals, dropped paths, members stacked, and CeiT's own blocks written in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import ceit, layers, vit
from tests.helpers import networks

TINY = {"num_classes": 3, "dim": 12, "depth": 3, "heads": 3}


def tiny(name, **kwargs):
  """A network whose patches are 8x8 pixels."""
  return registry.resolve(
    "models",
    name,
    **TINY,
    **kwargs,
    **({"patch": 8} if name == "vit" else {"patch": 2}),
  )


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
  assert (
    networks.size(registry.resolve("models", name, num_classes=num_classes), image)
    == count
  )


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
  stages = 1 + min(4, kwargs["depth"])
  networks.check_shapes(
    model, image, networks.named_maps([side] * stages, [24] * stages), 24, dtype
  )


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
  "name, image, numbers",
  [("vit.vit_ti", 40, "40x40.* 16;"), ("ceit.ceit_t", 40, "10x10.* 4;")],
)
def test_images_that_patches_do_not_fill_are_refused(name, image, numbers):
  with pytest.raises(ConfigError, match=f"patch .*{numbers}"):
    networks.shapes(registry.resolve("models", name, num_classes=10), image)


def test_initial_weights_are_timms():
  model = vit.vit(num_classes=50, dim=60, depth=1, patch=4)
  params = jax.jit(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
  )()["params"]
  normal = [params["pos_embed"], params["cls_token"], params["head"]["kernel"]]
  for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
    outer, inner = layer.split(".")
    normal.append(params["blocks.0"][outer][inner]["kernel"])
    np.testing.assert_array_equal(params["blocks.0"][outer][inner]["bias"], 0)
  for x in normal:
    np.testing.assert_allclose(jnp.std(x), 0.02, rtol=0.3)
  np.testing.assert_allclose(
    jnp.std(params["patch_embed.proj"]["kernel"]), (3 * 4 * 4) ** -0.5, rtol=0.1
  )


@pytest.mark.parametrize("name", ["vit", "ceit"])
def test_stages_end_after_each_quarter_of_the_blocks(rng, name):
  model = tiny(name).clone(depth=6)
  variables, x = (
    networks.draw(rng, networks.shapes(model, 16)[1]),
    jnp.float32(rng.normal(size=(1, 16, 16, 3))),
  )
  output, inside = jax.jit(
    lambda: model.apply(variables, x, train=False, capture_intermediates=True)
  )()
  for stage, block in enumerate((0, 2, 3, 5), start=1):
    tokens = inside["intermediates"][f"blocks.{block}"]["__call__"][0]
    np.testing.assert_array_equal(
      output.features[f"stage{stage}"].reshape(1, 4, 12), tokens[:, 1:]
    )


@pytest.mark.parametrize("name", ["vit", "ceit"])
def test_paths_are_dropped_in_training_only_and_linearly_in_depth(rng, name):
  dropped, whole = tiny(name, drop_path=0.8), tiny(name)
  variables, x = (
    networks.draw(rng, networks.shapes(whole, 8)[1]),
    jnp.float32(rng.normal(size=(1024, 8, 8, 3))),
  )

  @jax.jit
  def train(key):
    return dropped.apply(
      variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )[0]

  output, other = train(jax.random.key(0)), train(jax.random.key(1))
  assert np.abs(output.logits - other.logits).max() > 0.1
  stages = [output.features[f"stage{stage}"] for stage in (1, 2, 3)]
  np.testing.assert_array_equal(stages[0], other.features["stage1"])
  for before, after, rate in zip(stages, stages[1:], (0.4, 0.8)):
    skipped = np.all(
      before == after, axis=(1, 2, 3)
    ).mean()  # both branches of the block
    np.testing.assert_allclose(skipped, rate**2, atol=0.06)
  evaluate = lambda model: jax.jit(
    lambda: model.apply(variables, x[:2], train=False).logits
  )()
  np.testing.assert_array_equal(evaluate(dropped), evaluate(whole))
  if name == "vit":  # CeiT's batch normalisation tells training apart
    trained = jax.jit(
      lambda: whole.apply(variables, x[:2], train=True).logits
    )()  # needs no random stream
    np.testing.assert_array_equal(trained, evaluate(whole))


def test_dropped_paths_keep_the_expectation():
  x = jnp.ones((4096, 2, 1))
  y = layers.DropPath(0.75).apply(
    {}, x, train=True, rngs={"dropout": jax.random.key(0)}
  )
  assert set(np.unique(y)) == {0, 4} and np.array_equal(y[:, 0], y[:, 1])
  np.testing.assert_allclose(y.mean(), 1, atol=0.15)


def test_dropout_is_random_in_training_only(rng):
  model, whole = tiny("vit", dropout=0.5), tiny("vit")
  variables, x = (
    networks.draw(rng, networks.shapes(whole, 8)[1]),
    jnp.float32(rng.normal(size=(2, 8, 8, 3))),
  )
  train = jax.jit(
    lambda key: model.apply(variables, x, train=True, rngs={"dropout": key}).logits
  )
  assert np.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 0.1
  evaluate = lambda model: jax.jit(
    lambda: model.apply(variables, x, train=False).logits
  )()
  np.testing.assert_array_equal(evaluate(model), evaluate(whole))


@pytest.mark.parametrize(
  "name, dtype, tolerance",
  [
    ("vit", jnp.float32, 1e-4),
    ("vit", jnp.bfloat16, 5e-2),
    ("ceit", jnp.float32, 1e-4),
  ],
)
def test_stacked_members_are_the_members(rng, name, dtype, tolerance):
  model = tiny(name, dtype=dtype, drop_path=0.5).clone(depth=2)
  gradients = jax.tree.map(
    lambda g: np.abs(g[0]).max(), networks.check_stacked(rng, model, 16, tolerance)
  )
  assert all(
    x > 0
    for x in jax.tree.leaves(gradients["blocks.0"])
    + [gradients["cls_token"], gradients["pos_embed"]]
  )


gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)


def dense(params, x):
  return x @ params["kernel"] + params["bias"]


def layer_norm(params, x):
  x = x - x.mean(-1, keepdims=True)
  return (
    x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["scale"]
    + params["bias"]
  )


def test_leff_is_numpys(rng):
  model, x = ceit.LeFF((3, 2)), np.float32(rng.normal(size=(2, 7, 4)))
  variables = networks.draw(
    rng, jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
  )
  params, stats = jax.tree.map(
    np.float64, (variables["params"], variables["batch_stats"])
  )

  def normalised(x, name):
    x = (x - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + 1e-5)
    return x * params[name]["scale"] + params[name]["bias"]

  point = lambda x, name: x @ params[name]["kernel"][0, 0] + params[name]["bias"]
  y = gelu(normalised(point(x[:, 1:].reshape(2, 3, 2, 4), "conv1"), "bn1"))
  padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y = params["conv2"]["bias"] + sum(
    padded[:, i : i + 3, j : j + 2] * params["conv2"]["kernel"][i, j, 0]
    for i in range(3)
    for j in range(3)
  )
  y = normalised(point(gelu(normalised(y, "bn2")), "conv3"), "bn3")
  found = jax.jit(lambda: model.apply(variables, x, train=False))()
  np.testing.assert_array_equal(found[:, 0], x[:, 0])
  np.testing.assert_allclose(found[:, 1:], y.reshape(2, 6, 4), atol=1e-4)


def test_class_attention_is_numpys(rng):
  model, x = ceit.ClassAttention(heads=2), np.float32(rng.normal(size=(2, 5, 8)))
  variables = networks.draw(
    rng, jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
  )
  params = jax.tree.map(np.float64, variables["params"])
  q, k, v = np.split(
    dense(params["attn"]["qkv"], layer_norm(params["norm1"], x)), 3, axis=-1
  )
  heads = []
  for part in (slice(0, 4), slice(4, 8)):
    weights = np.exp(np.einsum("bd,bnd->bn", q[:, -1, part], k[..., part]) / 2)
    heads.append(
      np.einsum("bn,bnd->bd", weights / weights.sum(1, keepdims=True), v[..., part])
    )
  y = x[:, -1] + dense(params["attn"]["proj"], np.concatenate(heads, axis=-1))
  hidden = gelu(dense(params["feedforward"]["fc1"], layer_norm(params["norm2"], y)))
  y = y + dense(params["feedforward"]["fc2"], hidden)
  found = jax.jit(lambda: model.apply(variables, x, train=False))()
  np.testing.assert_allclose(found, y, atol=1e-4)
