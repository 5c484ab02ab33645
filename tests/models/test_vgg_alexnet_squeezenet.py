"""VGG, AlexNet and SqueezeNet: sizes, shapes, dropout, refusals, members stacked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import alexnet, squeezenet, vgg
from jaxdistill.models.squeezenet import FireChannels
from tests.helpers import networks

# Name -> a narrow network, and the side of its images.
NARROW = {
  "vgg": (vgg.VGG(convs=(1, 2), num_classes=5, width=4, hidden=6), 8),
  "alexnet": (
    alexnet.AlexNet(num_classes=5, channels=(4, 6, 8, 6, 4), hidden=6),
    63,
  ),
  "squeezenet": (
    squeezenet.SqueezeNet(
      num_classes=5,
      width=4,
      stages=(
        (FireChannels(2, 3),),
        (FireChannels(3, 4),),
        (FireChannels(4, 5), FireChannels(4, 5)),
      ),
    ),
    17,
  ),
}


@pytest.mark.parametrize(
  "name, count",
  [
    ("vgg.vgg16", 138_365_992),
    ("vgg.vgg19", 143_678_248),
    ("alexnet", 61_100_840),
    ("squeezenet.squeezenet1_1", 1_235_496),
  ],
)
def test_sizes_are_the_published_ones(name, count):
  model = registry.resolve("models", name, num_classes=1000)
  assert networks.size(model, 224) == count


@pytest.mark.parametrize(
  "name, count",
  [
    ("vgg.vgg16", 14_728_266),
    ("vgg.vgg19", 20_040_522),
    ("alexnet", 2_472_266),
  ],
)
def test_sizes_with_one_linear_layer_instead_of_three(name, count):
  model = registry.resolve("models", name, num_classes=10, stem="cifar")
  assert networks.size(model, 32) == count


SMALL = {"stem": "cifar"}
VGG_SIDES = (224, 224, 112, 56, 28, 14)
VGG_SMALL_SIDES = (32, 32, 16, 8, 4, 2)
VGG_CHANNELS = (64, 64, 128, 256, 512, 512)
ALEXNET_CHANNELS = (64, 192, 256)
SQUEEZENET = "squeezenet.squeezenet1_1"
SQUEEZENET_CHANNELS = (64, 128, 256, 512)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "name, kwargs, image, sides, channels, pooled",
  [
    ("vgg.vgg16", {}, 224, VGG_SIDES, VGG_CHANNELS, 4096),
    ("vgg.vgg16", SMALL, 32, VGG_SMALL_SIDES, VGG_CHANNELS, 512),
    ("vgg.vgg19", SMALL, 32, VGG_SMALL_SIDES, VGG_CHANNELS, 512),
    ("alexnet", {}, 224, (55, 27, 13), ALEXNET_CHANNELS, 4096),
    ("alexnet", SMALL, 32, (8, 4, 2), ALEXNET_CHANNELS, 256),
    (SQUEEZENET, {}, 224, (111, 55, 27, 13), SQUEEZENET_CHANNELS, 512),
    (SQUEEZENET, {}, 32, (15, 7, 3, 1), SQUEEZENET_CHANNELS, 512),
  ],
)
def test_shapes_and_types(name, kwargs, image, sides, channels, pooled, dtype):
  model = registry.resolve("models", name, num_classes=7, dtype=dtype, **kwargs)
  maps = networks.named_maps(sides, channels)
  networks.check_shapes(model, image, maps, pooled, dtype)


@pytest.mark.parametrize(
  "name, kwargs",
  [
    ("vgg.vgg16", {"stem": "tiny"}),
    ("vgg.vgg19", {"dropout": 1.0}),
    ("vgg.vgg16", {"dropout": float("nan")}),
    ("alexnet", {"stem": "tiny"}),
    ("alexnet", {"dropout": -0.1}),
    ("squeezenet.squeezenet1_1", {"dropout": 1.0}),
  ],
)
def test_unknown_stems_and_impossible_dropout_are_refused(name, kwargs):
  with pytest.raises(ConfigError, match=f"^{next(iter(kwargs))} "):
    registry.resolve("models", name, num_classes=10, **kwargs)


@pytest.mark.parametrize(
  "name, kwargs, smallest",
  [
    ("vgg.vgg16", {}, 32),
    ("alexnet", {}, 63),
    ("alexnet", {"stem": "cifar"}, 29),
    ("squeezenet.squeezenet1_1", {}, 17),
  ],
)
def test_images_that_leave_an_empty_map_are_refused(name, kwargs, smallest):
  model = registry.resolve("models", name, num_classes=10, **kwargs)
  output, _ = networks.shapes(model, smallest)
  assert output.logits.shape == (2, 10)
  with pytest.raises(ConfigError, match="^the images have "):
    networks.shapes(model, smallest - 1)


@pytest.mark.parametrize("name", NARROW)
def test_dropout_is_in_training_only(rng, name):
  model, side = NARROW[name]
  image = networks.images(rng, side, batch=2)
  _, structure = networks.shapes(model, side)

  def draw(leaf):
    return jnp.float32(0.3 + 0.1 * rng.normal(size=leaf.shape))

  variables = jax.tree.map(draw, structure)

  @functools.partial(jax.jit, static_argnums=0)
  def run(train, seed):
    output, _ = model.apply(
      variables,
      image,
      train=train,
      rngs={"dropout": jax.random.key(seed)},
      mutable=["batch_stats"],
    )
    return output.logits

  assert np.abs(run(True, 0) - run(True, 1)).max() > 1e-3
  np.testing.assert_array_equal(run(False, 0), run(False, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", NARROW)
def test_stacked_members_are_the_members(rng, name):
  model, side = NARROW[name]
  networks.check_stacked(rng, model.clone(dropout=0.2), side)
