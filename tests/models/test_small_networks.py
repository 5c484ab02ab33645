"""The small network, ResNet for CIFAR and wide ResNet: shapes, sizes, statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import resnet_cifar
from tests.helpers import networks

RESNET = {
  "stem": (32, 32, 16),
  "stage1": (32, 32, 16),
  "stage2": (16, 16, 32),
  "stage3": (8, 8, 64),
}
WIDE_RESNET = {
  "stem": (32, 32, 16),
  "stage1": (32, 32, 32),
  "stage2": (16, 16, 64),
  "stage3": (8, 8, 128),
}
CONVNET = {"stem": (32, 32, 16), "stage1": (16, 16, 32), "stage2": (8, 8, 64)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "name, maps, pooled",
  [
    ("resnet_cifar.resnet8", RESNET, 64),
    ("resnet_cifar.resnet20", RESNET, 64),
    ("resnet_cifar.resnet32", RESNET, 64),
    ("resnet_cifar.resnet44", RESNET, 64),
    ("resnet_cifar.resnet56", RESNET, 64),
    ("resnet_cifar.resnet110", RESNET, 64),
    ("wide_resnet.wrn", WIDE_RESNET, 128),
    ("small.convnet", CONVNET, 64),
  ],
)
def test_shapes_and_types(name, maps, pooled, dtype):
  model = registry.resolve("models", name, num_classes=7, dtype=dtype)
  networks.check_shapes(model, 32, maps, pooled, dtype)
  _, variables = networks.shapes(model, 32)
  assert set(variables) == {"params", "batch_stats"}


@pytest.mark.parametrize("name", ["small.convnet", "resnet_cifar.resnet8"])
def test_runs_on_small_images(name):
  model = registry.resolve("models", name, num_classes=10)
  output, _ = networks.shapes(model, 8)
  assert output.logits.shape == (2, 10)
  assert output.features["stem"].shape == (2, 8, 8, 16)


@pytest.mark.parametrize(
  "name, num_classes, kwargs, millions",
  [
    # He et al. 2016, table 6.
    ("resnet_cifar.resnet20", 10, {}, 0.27),
    ("resnet_cifar.resnet32", 10, {}, 0.46),
    ("resnet_cifar.resnet44", 10, {}, 0.66),
    ("resnet_cifar.resnet56", 10, {}, 0.85),
    ("resnet_cifar.resnet110", 10, {}, 1.7),
    # Competitive Distillation, table 1.
    ("resnet_cifar.resnet32", 100, {}, 0.47),
    ("resnet_cifar.resnet44", 100, {}, 0.66),
    ("resnet_cifar.resnet56", 100, {}, 0.86),
    # Zagoruyko and Komodakis 2016, table 3.
    ("wide_resnet.wrn", 10, {"depth": 40, "widen": 2}, 2.2),
    ("wide_resnet.wrn", 10, {"depth": 16, "widen": 8}, 11.0),
    ("wide_resnet.wrn", 10, {"depth": 28, "widen": 10}, 36.5),
    ("wide_resnet.wrn", 10, {"depth": 28, "widen": 12}, 52.5),
    ("wide_resnet.wrn", 100, {}, 0.7),
    # Ours: seven blocks in each stage.
    ("wide_resnet.wrn", 10, {"depth": 44, "widen": 8}, 41.9),
  ],
)
def test_sizes_match_the_papers(name, num_classes, kwargs, millions):
  model = registry.resolve("models", name, num_classes=num_classes, **kwargs)
  digits = len(str(millions).split(".")[1])
  # Table 6 of the ResNet paper cuts instead of rounding, hence one unit of its last
  # digit.
  assert abs(networks.size(model, 32) / 1e6 - millions) < 10**-digits


@pytest.mark.parametrize("kwargs", [{"depth": 17}, {"depth": 4}, {"widen": 0}])
def test_impossible_sizes_are_refused(kwargs):
  with pytest.raises(ConfigError, match=f"^{next(iter(kwargs))} must"):
    registry.resolve("models", "wide_resnet.wrn", num_classes=10, **kwargs)


def test_shortcut_agrees_with_pytorch(golden):
  values = golden("16_torch_primitives")
  x = jnp.asarray(np.moveaxis(values["x"], 1, -1))
  expected = np.moveaxis(values["optionA_shortcut_4to8"], 1, -1)
  found = resnet_cifar.padded_shortcut(x, stride=2, features=8)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  "name, kwargs",
  [
    ("resnet_cifar.resnet8", {"width": 4}),
    ("wide_resnet.wrn", {"depth": 10, "widen": 1}),
    ("small.convnet", {"width": 4}),
  ],
)
def test_stacked_members_are_the_members_with_their_own_statistics(rng, name, kwargs):
  model = registry.resolve("models", name, num_classes=5, **kwargs)
  image = networks.images(rng, side=8, batch=4)
  _, structure = networks.shapes(model, 8)

  # Drawn with NumPy: XLA takes longer to compile the initialisation than all the rest.
  def draw_weights(x):
    return jnp.float32(rng.normal(size=(2, *x.shape)))

  def draw_statistics(x):
    return jnp.float32(rng.uniform(1, 2, (2, *x.shape)))

  variables = {
    "params": jax.tree.map(draw_weights, structure["params"]),
    "batch_stats": jax.tree.map(draw_statistics, structure["batch_stats"]),
  }

  @jax.jit
  def train(variables):
    return model.apply(variables, image, train=True, mutable=["batch_stats"])

  stacked = jax.jit(jax.vmap(train))(variables)
  before = jax.tree.leaves(variables["batch_stats"])
  after = jax.tree.leaves(stacked[1]["batch_stats"])
  for old, new in zip(before, after, strict=True):
    assert np.abs(old - new).max() > 0
  for k in range(2):
    alone = train(jax.tree.map(lambda x, k=k: x[k], variables))
    pairs = zip(jax.tree.leaves(stacked), jax.tree.leaves(alone), strict=True)
    for found, expected in pairs:
      limit = 1e-5 * (1 + np.abs(expected).max())
      np.testing.assert_allclose(found[k], expected, atol=limit)


def test_members_start_different_and_evaluate_with_running_statistics(rng):
  model = registry.resolve("models", "small.convnet", num_classes=5, width=4)
  image = networks.images(rng, side=8, batch=4)

  @jax.vmap
  def init(key):
    return model.init(key, image, train=False)

  variables = init(jax.random.split(jax.random.key(0), 2))

  @functools.partial(jax.jit, static_argnums=1)
  def logits(image, train):
    def of_member(member):
      output, _ = model.apply(member, image, train=train, mutable=["batch_stats"])
      return output.logits

    return jax.vmap(of_member)(variables)

  first = logits(image[:1], False)
  all_four = logits(image, False)
  np.testing.assert_allclose(first, all_four[:, :1], atol=1e-5)
  assert np.abs(all_four[0] - all_four[1]).max() > 1e-2
  # In training the other images of the batch matter.
  alone = logits(image[:1], True)
  together = logits(image, True)[:, :1]
  assert np.abs(alone - together).max() > 1e-2
