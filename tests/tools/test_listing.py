"""The list of networks: what every one of them must have, and what the command prints."""

import inspect
import sys

import pytest

from jaxdistill.core import registry
from jaxdistill.models import __main__ as listing
from tests.references import modules

NAMES = registry.list_available("models")


@pytest.mark.parametrize("name", NAMES)
def test_factories_tell_their_image_and_take_classes_and_type(name):
  factory = registry.find("models", name)
  parameters = inspect.signature(factory).parameters
  assert sys.modules[factory.__module__].IMAGE_SIZE in (32, 224)
  assert parameters["num_classes"].default is inspect.Parameter.empty and "dtype" in parameters
  assert all(p.default is not None for p in parameters.values())  # None has no type that an override could take
  assert "Builds" in factory.__doc__


def test_every_published_network_has_a_reference():
  assert {name.split(".")[0] for name in NAMES} - {"small"} == set(modules.MODULES)


def test_the_command_prints_a_row_for_each_chosen_network(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["models", "small", "resnet_cifar.resnet8"])
  listing._main()
  header, *rows = capsys.readouterr().out.splitlines()
  assert [row.split()[0] for row in rows] == ["resnet_cifar.resnet8", "small.convnet"]
  name, image, classes, parameters, flops, *features = rows[0].split()
  assert (image, classes, parameters) == ("32", "100", "81,140")
  # 3x3 convolutions of He et al.'s network: 27 * 16 * 1024 for the stem, then 2, 1 + 2 and 1 + 2 of 9 * 16 * 16 * 1024.
  dense = 2 * (27 * 16 * 1024 + 9 * 256 * 1024 * (2 + 0.5 + 1 + 0.5 + 1) + 6400)
  assert 0.9 * dense < 1e9 * float(flops) < 1.1 * dense  # the padding is left out, the rest of the network counted
  assert " ".join(features) == "stem 32x32x16, stage1 32x32x16, stage2 16x16x32, stage3 8x8x64, pooled 64"


def test_the_work_is_that_of_the_network_and_not_of_how_a_cpu_does_it():
  side, classes, parameters, flops, _ = listing.describe("resnet.resnext50")
  assert (side, classes, parameters) == (224, 1000, 25_028_904)
  assert 2 * 4.0e9 < flops < 2 * 4.3e9  # 4.2 billion multiply-adds in Xie et al., table 1


def test_an_unknown_network_is_refused_by_name(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["models", "resnett"])
  with pytest.raises(listing.registry.ConfigError, match="there is no network 'resnett'; did you mean 'resnet'?"):
    listing._main()
  assert capsys.readouterr().out == ""
