"""GoogLeNet, DenseNet and MobileNet: sizes, shapes, refusals, dropout, members."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import densenet, googlenet, mobilenet
from tests.helpers import networks


@pytest.mark.parametrize(
  "name, num_classes, kwargs, count",
  [
    # As github.com/kuangliu/pytorch-cifar has it.
    ("googlenet", 10, {}, 6_166_250),
    # 1.0 M in Huang et al., table 2; then as FFSD's code has it; 7.0 M; 0.8 M.
    ("densenet.densenet40", 10, {}, 1_019_722),
    ("densenet.densenet40", 100, {"initial": 24}, 1_100_428),
    ("densenet.densenet100", 10, {}, 6_979_642),
    ("densenet.densenet_bc100", 10, {}, 769_162),
    # As timm has them.
    ("mobilenet.v1", 1000, {}, 4_231_976),
    ("mobilenet.v1", 100, {}, 3_309_476),
    ("mobilenet.v1", 1000, {"width": 0.25}, 470_072),
    # As torchvision has them.
    ("mobilenet.v2", 1000, {}, 3_504_872),
    ("mobilenet.v2", 100, {"width": 0.5}, 815_780),
    ("mobilenet.v2", 100, {"width": 1.2}, 3_342_692),
  ],
)
def test_sizes_are_the_published(name, num_classes, kwargs, count):
  model = registry.resolve("models", name, num_classes=num_classes, **kwargs)
  assert networks.size(model, 32) == count


def test_channels_are_rounded_by_less_than_a_tenth():
  model = registry.resolve("models", "mobilenet.v2", num_classes=1000, width=0.35)
  # Rounded by more, it would have 1.67 M.
  assert abs(networks.size(model, 32) / 1e6 - 1.68) < 0.005


V1_SIDES = (112, 112, 56, 28, 14, 7)
V1_CHANNELS = (32, 64, 128, 256, 512, 1024)
V2_SIDES = (112, 112, 56, 28, 14, 14, 7, 7)
V2_CHANNELS = (32, 16, 24, 32, 64, 96, 160, 320)
SMALL_SIDES = (32, 32, 16, 8)
V1_SMALL_SIDES = (32, 32, 32, 16, 8, 4)
V1_HALF_CHANNELS = (16, 32, 64, 128, 256, 512)
V2_SMALL_SIDES = (32, 32, 32, 16, 8, 8, 4, 4)
BOTTLENECK = {"depth": 16, "bottleneck": True, "compression": 0.5}
V1_SMALL = {"stem": "cifar", "width": 0.5}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "name, kwargs, image, sides, channels, pooled",
  [
    ("googlenet", {}, 32, SMALL_SIDES, (192, 480, 832, 1024), 1024),
    ("densenet.densenet40", {}, 32, SMALL_SIDES, (16, 160, 304, 448), 448),
    ("densenet.densenet40", {"initial": 24}, 32, SMALL_SIDES, (24, 168, 312, 456), 456),
    ("densenet", BOTTLENECK, 32, SMALL_SIDES, (24, 48, 48, 48), 48),
    ("mobilenet.v1", {}, 224, V1_SIDES, V1_CHANNELS, 1024),
    ("mobilenet.v1", V1_SMALL, 32, V1_SMALL_SIDES, V1_HALF_CHANNELS, 512),
    ("mobilenet.v2", {"dropout": 0.2}, 224, V2_SIDES, V2_CHANNELS, 1280),
    ("mobilenet.v2", {"stem": "cifar"}, 32, V2_SMALL_SIDES, V2_CHANNELS, 1280),
  ],
)
def test_shapes_and_types(name, kwargs, image, sides, channels, pooled, dtype):
  model = registry.resolve("models", name, num_classes=7, dtype=dtype, **kwargs)
  maps = networks.named_maps(sides, channels)
  networks.check_shapes(model, image, maps, pooled, dtype)


@pytest.mark.parametrize(
  "name, kwargs",
  [
    ("densenet", {"depth": 41}),
    ("densenet", {"depth": 4}),
    ("densenet", {"depth": 37, "bottleneck": True}),
    ("densenet", {"growth": 0}),
    ("densenet", {"compression": 0.0}),
    ("densenet", {"compression": 1.5}),
    ("densenet.densenet40", {"initial": -1}),
    ("mobilenet.v1", {"width": 0.0}),
    ("mobilenet.v2", {"width": 0.0}),
    ("mobilenet.v1", {"stem": "tiny"}),
    ("mobilenet.v2", {"stem": "tiny"}),
    ("mobilenet.v1", {"dropout": 1.0}),
    ("mobilenet.v2", {"dropout": -0.1}),
  ],
)
def test_impossible_keywords_are_refused(name, kwargs):
  with pytest.raises(ConfigError, match=f"^{next(iter(kwargs))} must"):
    registry.resolve("models", name, num_classes=10, **kwargs)


V1 = mobilenet.MobileNetV1(
  num_classes=5,
  width=0.25,
  stages=(
    mobilenet.V1Stage(channels=32, blocks=1, stride=1),
    mobilenet.V1Stage(channels=64, blocks=1, stride=2),
  ),
)
V2 = mobilenet.MobileNetV2(
  num_classes=5,
  width=0.25,
  stages=(mobilenet.V2Stage(expansion=2, channels=32, blocks=2, stride=1),),
)
GOOGLENET = googlenet.GoogLeNet(
  num_classes=5, stem=4, stages=((googlenet.Channels(4, 2, 3, 2, 3, 2),),)
)
DENSENET = densenet.DenseNet(
  count=1, growth=4, initial=6, num_classes=5, bottleneck=True, compression=0.5
)


@pytest.mark.slow
@pytest.mark.parametrize(
  "model", [GOOGLENET, DENSENET, V1, V2], ids=["googlenet", "densenet", "v1", "v2"]
)
def test_stacked_members_are_the_members(rng, model):
  networks.check_stacked(rng, model, 8)


@pytest.mark.parametrize("model", [V1, V2], ids=["v1", "v2"])
def test_dropout_is_for_training_and_scaled(rng, model):
  _, structure = networks.shapes(model, 8)
  variables = networks.draw(rng, structure)
  image = networks.images(rng, side=8, batch=4)

  def pooled(rate, train):
    @jax.jit
    def run(variables):
      output, _ = model.clone(dropout=rate).apply(
        variables,
        image,
        train=train,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats"],
      )
      return output.features["pooled"]

    return run(variables)

  whole = pooled(0.0, train=True)
  dropped = pooled(0.25, train=True)
  is_kept = np.asarray(dropped != 0)
  is_active = np.asarray(whole != 0)
  assert 0.6 < is_kept[is_active].mean() < 0.9
  np.testing.assert_allclose(dropped[is_kept], whole[is_kept] / 0.75, rtol=1e-4)
  evaluated = pooled(0.25, train=False)
  np.testing.assert_array_equal(evaluated, pooled(0.0, train=False))
