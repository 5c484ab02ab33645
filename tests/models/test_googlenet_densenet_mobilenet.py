"""GoogLeNet, DenseNet and MobileNet: sizes, shapes, refusals, dropout, members stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import densenet, googlenet, mobilenet
from tests.helpers import networks


@pytest.mark.parametrize("name, num_classes, kwargs, count", [
    ("googlenet", 10, {}, 6_166_250),  # as github.com/kuangliu/pytorch-cifar has it
    ("densenet.densenet40", 10, {}, 1_019_722),  # 1.0 M in Huang et al., table 2
    ("densenet.densenet40", 100, {"initial": 24}, 1_100_428),  # as FFSD's code has it
    ("densenet.densenet100", 10, {}, 6_979_642),  # 7.0 M
    ("densenet.densenet_bc100", 10, {}, 769_162),  # 0.8 M
    ("mobilenet.v1", 1000, {}, 4_231_976),  # as timm has them
    ("mobilenet.v1", 100, {}, 3_309_476),
    ("mobilenet.v1", 1000, {"width": 0.25}, 470_072),
    ("mobilenet.v2", 1000, {}, 3_504_872),  # as torchvision has them
    ("mobilenet.v2", 100, {"width": 0.5}, 815_780),
    ("mobilenet.v2", 100, {"width": 1.2}, 3_342_692),
])
def test_sizes_are_the_published(name, num_classes, kwargs, count):
  model = registry.resolve("models", name, num_classes=num_classes, **kwargs)
  assert networks.size(model, 32) == count


STAGES_V2 = (16, 24, 32, 64, 96, 160, 320)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name, kwargs, image, sides, channels, pooled", [
    ("googlenet", {}, 32, (32, 32, 16, 8), (192, 480, 832, 1024), 1024),
    ("densenet.densenet40", {}, 32, (32, 32, 16, 8), (16, 160, 304, 448), 448),
    ("densenet.densenet40", {"initial": 24}, 32, (32, 32, 16, 8), (24, 168, 312, 456), 456),
    ("densenet", {"depth": 16, "bottleneck": True, "compression": 0.5}, 32, (32, 32, 16, 8), (24, 48, 48, 48), 48),
    ("mobilenet.v1", {}, 224, (112, 112, 56, 28, 14, 7), (32, 64, 128, 256, 512, 1024), 1024),
    ("mobilenet.v1", {"stem": "cifar", "width": 0.5}, 32, (32, 32, 32, 16, 8, 4), (16, 32, 64, 128, 256, 512), 512),
    ("mobilenet.v2", {"dropout": 0.2}, 224, (112, 112, 56, 28, 14, 14, 7, 7), (32, *STAGES_V2), 1280),
    ("mobilenet.v2", {"stem": "cifar"}, 32, (32, 32, 32, 16, 8, 8, 4, 4), (32, *STAGES_V2), 1280),
])
def test_shapes_and_types(name, kwargs, image, sides, channels, pooled, dtype):
  model = registry.resolve("models", name, num_classes=7, dtype=dtype, **kwargs)
  networks.check_shapes(model, image, networks.named_maps(sides, channels), pooled, dtype)


@pytest.mark.parametrize("name, kwargs", [
    ("densenet", {"depth": 41}), ("densenet", {"depth": 4}), ("densenet", {"depth": 37, "bottleneck": True}),
    ("densenet", {"growth": 0}), ("densenet", {"compression": 0.0}), ("densenet", {"compression": 1.5}),
    ("densenet.densenet40", {"initial": -1}), ("mobilenet.v1", {"width": 0.0}), ("mobilenet.v2", {"width": 0.0}),
    ("mobilenet.v1", {"stem": "tiny"}), ("mobilenet.v2", {"stem": "tiny"}), ("mobilenet.v1", {"dropout": 1.0}),
    ("mobilenet.v2", {"dropout": -0.1})])
def test_impossible_keywords_are_refused(name, kwargs):
  with pytest.raises(ConfigError, match=f"^{next(iter(kwargs))} must"):
    registry.resolve("models", name, num_classes=10, **kwargs)


V1 = mobilenet.MobileNetV1(5, 0.25, stages=((32, 1, 1), (64, 1, 2)))
V2 = mobilenet.MobileNetV2(5, 0.25, stages=((2, 32, 2, 1),))


@pytest.mark.parametrize("model", [
    googlenet.GoogLeNet(5, 4, (((4, 2, 3, 2, 3, 2),),)),
    densenet.DenseNet(1, 4, 6, 5, True, 0.5), V1, V2], ids=["googlenet", "densenet", "v1", "v2"])
def test_stacked_members_are_the_members(rng, model):
  networks.check_stacked(rng, model, 8)


@pytest.mark.parametrize("model", [V1, V2], ids=["v1", "v2"])
def test_dropout_is_for_training_and_scaled(rng, model):
  variables = networks.draw(rng, networks.shapes(model, 8)[1])
  x = jnp.float32(rng.normal(size=(4, 8, 8, 3)))

  def pooled(rate, train):
    apply = lambda v: model.clone(dropout=rate).apply(
        v, x, train=train, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"])
    return jax.jit(apply)(variables)[0].features["pooled"]

  whole, dropped = pooled(0.0, True), pooled(0.25, True)
  kept, alive = np.asarray(dropped != 0), np.asarray(whole != 0)
  assert 0.6 < kept[alive].mean() < 0.9
  np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-4)
  np.testing.assert_array_equal(pooled(0.25, False), pooled(0.0, False))
