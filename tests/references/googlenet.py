"""GoogLeNet for small images, as github.com/kuangliu/pytorch-cifar has it, narrow."""

import itertools

from jaxdistill.models import googlenet
from tests.references.case import Case

CLASSES = 5
STEM = 24


def _narrow(channels):
  return googlenet.Channels(*(count // 8 for count in channels))


STAGES = tuple(
  tuple(_narrow(channels) for channels in stage) for stage in googlenet.STAGES
)
NAMES = ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5", "b5")


def _reference():
  import torch
  from torch import nn

  def units(*channels):
    """Convolutions from each number of channels to the next, the first 1x1."""
    modules = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
      if i == 0:
        modules.append(nn.Conv2d(inputs, outputs, 1))
      else:
        modules.append(nn.Conv2d(inputs, outputs, 3, padding=1))
      modules += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return modules

  class Inception(nn.Module):
    def __init__(self, inputs, c1, r3, c3, r5, c5, pooled):
      super().__init__()
      pool = nn.MaxPool2d(3, stride=1, padding=1)
      self.b1 = nn.Sequential(*units(inputs, c1))
      self.b2 = nn.Sequential(*units(inputs, r3, c3))
      self.b3 = nn.Sequential(*units(inputs, r5, c5, c5))
      self.b4 = nn.Sequential(pool, *units(inputs, pooled))

    def forward(self, x):
      return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.pre_layers = nn.Sequential(
        nn.Conv2d(3, STEM, 3, padding=1), nn.BatchNorm2d(STEM), nn.ReLU()
      )
      inputs = STEM
      for name, channels in zip(NAMES, itertools.chain(*STAGES), strict=True):
        self.add_module(name, Inception(inputs, *channels))
        inputs = channels.single + channels.out3 + channels.out5 + channels.pooled
      self.linear = nn.Linear(inputs, CLASSES)

    def forward(self, x):
      pool = nn.MaxPool2d(3, stride=2, padding=1)
      x = pool(self.b3(self.a3(self.pre_layers(x))))
      x = pool(self.e4(self.d4(self.c4(self.b4(self.a4(x))))))
      return self.linear(self.b5(self.a5(x)).mean((2, 3)))

  return Net()


def _ours():
  return googlenet.GoogLeNet(num_classes=CLASSES, stem=STEM, stages=STAGES)


CASES = {"googlenet": Case(ours=_ours, reference=_reference, side=19)}
