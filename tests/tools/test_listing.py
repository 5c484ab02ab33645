"""The list of networks: what each of them must have, and what the command prints."""

import inspect
import sys

import pytest

from jaxdistill.core import registry
from jaxdistill.tools import models

NAMES = registry.list_available("models")


@pytest.mark.parametrize("name", NAMES)
def test_factories_tell_their_image_and_take_classes_and_type(name):
  factory = registry.find("models", name)
  parameters = inspect.signature(factory).parameters
  assert sys.modules[factory.__module__].IMAGE_SIZE > 0
  assert parameters["num_classes"].default is inspect.Parameter.empty
  assert "dtype" in parameters
  # None has no type that an override could take.
  assert all(p.default is not None for p in parameters.values())
  assert factory.__doc__.startswith("Returns")


def test_the_command_prints_a_row_for_each_chosen_network(capsys):
  assert models.main(["small", "resnet_cifar.resnet8"]) == 0
  _, resnet, convnet = capsys.readouterr().out.splitlines()
  assert convnet.split()[0] == "small.convnet"
  name, image, classes, parameters, gflops, *features = resnet.split()
  assert name == "resnet_cifar.resnet8"
  assert (image, classes, parameters) == ("32", "100", "81,140")

  # 3x3 convolutions of He et al.'s network: 27 * 16 * 1024 for the stem, then 2, 1 + 2
  # and 1 + 2 of 9 * 16 * 16 * 1024; the padding is left out, the rest of the network
  # counted.
  convolutions = 2 + 0.5 + 1 + 0.5 + 1
  expected = 2 * (27 * 16 * 1024 + 9 * 256 * 1024 * convolutions + 6400)
  assert 0.9 * expected < 1e9 * float(gflops) < 1.1 * expected
  assert " ".join(features) == (
    "stem 32x32x16, stage1 32x32x16, stage2 16x16x32, stage3 8x8x64, pooled 64"
  )


def test_the_work_is_that_of_the_network_and_not_of_how_a_cpu_does_it():
  found = models.describe("resnet.resnext50")
  assert (found.side, found.classes) == (224, 1000)
  assert found.parameters == 25_028_904
  # 4.2 billion multiply-adds in Xie et al., table 1.
  assert 2 * 4.0e9 < found.flops < 2 * 4.3e9


def test_an_unknown_network_is_refused_by_name(capsys):
  assert models.main(["resnett"]) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  message = "there is no network 'resnett'; did you mean 'resnet'?"
  assert captured.err == f"jaxdistill: error: {message}\n"
