"""ResNet and ResNeXt: sizes, shapes, members stacked."""

import jax.numpy as jnp
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import resnet
from tests.helpers import networks


# As torchvision publishes them.
@pytest.mark.parametrize(
  "name, count",
  [
    ("resnet18", 11_689_512),
    ("resnet34", 21_797_672),
    ("resnet50", 25_557_032),
    ("resnet101", 44_549_160),
    ("resnet152", 60_192_808),
    ("resnext50", 25_028_904),
  ],
)
def test_sizes_are_torchvisions(name, count):
  model = registry.resolve("models", f"resnet.{name}", num_classes=1000)
  assert networks.size(model, 224) == count


# As github.com/kuangliu/pytorch-cifar has them.
@pytest.mark.parametrize(
  "name, count", [("resnet18", 11_173_962), ("resnet50", 23_520_842)]
)
def test_sizes_with_the_stem_for_small_images(name, count):
  model = registry.resolve("models", f"resnet.{name}", num_classes=10, stem="cifar")
  assert networks.size(model, 32) == count


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "stem, image, sides",
  [
    ("imagenet", 224, (56, 56, 28, 14, 7)),
    ("imagenet", 32, (8, 8, 4, 2, 1)),
    ("cifar", 32, (32, 32, 16, 8, 4)),
  ],
)
@pytest.mark.parametrize(
  "name, expansion", [("resnet18", 1), ("resnet50", 4), ("resnext50", 4)]
)
def test_shapes_and_types(name, expansion, stem, image, sides, dtype):
  model = registry.resolve(
    "models", f"resnet.{name}", num_classes=7, stem=stem, dtype=dtype
  )
  channels = [64, *(expansion * 64 * 2**k for k in range(4))]
  maps = networks.named_maps(sides, channels)
  networks.check_shapes(model, image, maps, channels[-1], dtype)


@pytest.mark.parametrize(
  "name, kwargs",
  [
    ("resnet18", {"stem": "tiny"}),
    ("resnext50", {"stem": "tiny"}),
    ("resnet50", {"width": 0}),
    ("resnext50", {"width": 0}),
    ("resnext50", {"width": 8}),
  ],
)
def test_unknown_stems_and_impossible_widths_are_refused(name, kwargs):
  with pytest.raises(ConfigError, match=next(iter(kwargs))):
    registry.resolve("models", f"resnet.{name}", num_classes=10, **kwargs)


def test_stacked_members_with_groups_are_the_members(rng):
  model = resnet.ResNet(
    blocks=(1, 1),
    bottleneck=True,
    num_classes=5,
    stem="cifar",
    width=8,
    groups=4,
    hidden=2,
  )
  networks.check_stacked(rng, model, 8)
