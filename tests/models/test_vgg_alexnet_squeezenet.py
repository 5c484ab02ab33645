"""VGG, AlexNet and SqueezeNet: sizes, shapes, dropout, refusals, members stacked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import alexnet, squeezenet, vgg
from tests.helpers import networks

NARROW = {
    "vgg": lambda **kwargs: vgg.VGG((1, 2), 5, width=4, hidden=6, **kwargs),
    "alexnet": lambda **kwargs: alexnet.AlexNet(5, channels=(4, 6, 8, 6, 4), hidden=6, **kwargs),
    "squeezenet": lambda **kwargs: squeezenet.SqueezeNet(
        5, width=4, stages=(((2, 3),), ((3, 4),), ((4, 5), (4, 5))), **kwargs)}
SIDES = {"vgg": 8, "alexnet": 63, "squeezenet": 17}


@pytest.mark.parametrize("name, side, kwargs, count", [
    ("vgg.vgg16", 224, {"num_classes": 1000}, 138_365_992), ("vgg.vgg19", 224, {"num_classes": 1000}, 143_678_248),
    ("alexnet", 224, {"num_classes": 1000}, 61_100_840),
    ("squeezenet.squeezenet1_1", 224, {"num_classes": 1000}, 1_235_496),
    # The heads for small images: one linear layer instead of torchvision's three.
    ("vgg.vgg16", 32, {"num_classes": 10, "stem": "cifar"}, 14_728_266),
    ("vgg.vgg19", 32, {"num_classes": 10, "stem": "cifar"}, 20_040_522),
    ("alexnet", 32, {"num_classes": 10, "stem": "cifar"}, 2_472_266)])
def test_sizes_are_the_published_ones(name, side, kwargs, count):
  assert networks.size(registry.resolve("models", name, **kwargs), side) == count


VGG = (64, 64, 128, 256, 512, 512)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name, kwargs, side, sides, channels, pooled", [
    ("vgg.vgg16", {}, 224, (224, 224, 112, 56, 28, 14), VGG, 4096),
    ("vgg.vgg16", {"stem": "cifar"}, 32, (32, 32, 16, 8, 4, 2), VGG, 512),
    ("vgg.vgg19", {"stem": "cifar"}, 32, (32, 32, 16, 8, 4, 2), VGG, 512),
    ("alexnet", {}, 224, (55, 27, 13), (64, 192, 256), 4096),
    ("alexnet", {"stem": "cifar"}, 32, (8, 4, 2), (64, 192, 256), 256),
    ("squeezenet.squeezenet1_1", {}, 224, (111, 55, 27, 13), (64, 128, 256, 512), 512),
    ("squeezenet.squeezenet1_1", {}, 32, (15, 7, 3, 1), (64, 128, 256, 512), 512)])
def test_shapes_and_types(name, kwargs, side, sides, channels, pooled, dtype):
  model = registry.resolve("models", name, num_classes=7, dtype=dtype, **kwargs)
  networks.check_shapes(model, side, networks.named_maps(sides, channels), pooled, dtype)


@pytest.mark.parametrize("name, kwargs", [
    ("vgg.vgg16", {"stem": "tiny"}), ("vgg.vgg19", {"dropout": 1.0}), ("vgg.vgg16", {"dropout": float("nan")}),
    ("alexnet", {"stem": "tiny"}), ("alexnet", {"dropout": -0.1}),
    ("squeezenet.squeezenet1_1", {"dropout": 1.0})])
def test_unknown_stems_and_impossible_dropout_are_refused(name, kwargs):
  with pytest.raises(ConfigError, match=f"^{next(iter(kwargs))} "):
    registry.resolve("models", name, num_classes=10, **kwargs)


@pytest.mark.parametrize("name, kwargs, smallest", [
    ("vgg.vgg16", {}, 32), ("alexnet", {}, 63), ("alexnet", {"stem": "cifar"}, 29),
    ("squeezenet.squeezenet1_1", {}, 17)])
def test_images_that_leave_an_empty_map_are_refused(name, kwargs, smallest):
  model = registry.resolve("models", name, num_classes=10, **kwargs)
  assert networks.shapes(model, smallest)[0].logits.shape == (2, 10)
  with pytest.raises(ConfigError, match="^the images have "):
    networks.shapes(model, smallest - 1)


@pytest.mark.parametrize("name", NARROW)
def test_dropout_is_in_training_only(rng, name):
  model, side = NARROW[name](), SIDES[name]
  x = jnp.float32(rng.normal(size=(2, side, side, 3)))
  variables = jax.tree.map(lambda leaf: jnp.float32(0.3 + 0.1 * rng.normal(size=leaf.shape)), networks.shapes(model, side)[1])

  @functools.partial(jax.jit, static_argnums=0)
  def run(train, key):
    rngs = {"dropout": jax.random.key(key)}
    return model.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats"])[0].logits

  assert np.abs(run(True, 0) - run(True, 1)).max() > 1e-3
  np.testing.assert_array_equal(run(False, 0), run(False, 1))


@pytest.mark.parametrize("name", NARROW)
def test_stacked_members_are_the_members(rng, name):
  networks.check_stacked(rng, NARROW[name](dropout=0.2), SIDES[name])
