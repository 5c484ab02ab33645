"""DenseNet for small images, as its paper describes it.

From the transitions and bottleneck layers of torchvision.
"""

from jaxdistill.models import densenet
from tests.references.case import Case

CLASSES = 5
COUNT = 2
GROWTH = 4


def _reference(initial, bottleneck, compression):
  from collections import OrderedDict

  import torch
  from torch import nn
  from torchvision.models import densenet as published

  class Plain(nn.Module):
    def __init__(self, inputs):
      super().__init__()
      self.norm1 = nn.BatchNorm2d(inputs)
      self.conv1 = nn.Conv2d(inputs, GROWTH, 3, padding=1, bias=False)

    def forward(self, x):
      return self.conv1(torch.relu(self.norm1(x)))

  class Block(nn.Module):
    def __init__(self, inputs):
      super().__init__()
      for i in range(COUNT):
        count = inputs + i * GROWTH
        if bottleneck:
          layer = published._DenseLayer(count, GROWTH, 4, 0)
        else:
          layer = Plain(count)
        self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x):
      for layer in self.children():
        x = torch.cat([x, layer(x)], 1)
      return x

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      count = initial
      first = nn.Conv2d(3, count, 3, padding=1, bias=False)
      self.features = nn.Sequential(OrderedDict(conv0=first))
      for i in (1, 2, 3):
        self.features.add_module(f"denseblock{i}", Block(count))
        count += COUNT * GROWTH
        if i < 3:
          kept = int(count * compression)
          transition = published._Transition(count, kept)
          self.features.add_module(f"transition{i}", transition)
          count = kept
      self.features.add_module("norm5", nn.BatchNorm2d(count))
      self.classifier = nn.Linear(count, CLASSES)

    def forward(self, x):
      return self.classifier(torch.relu(self.features(x)).mean((2, 3)))

  return Net()


def _case(initial, bottleneck, compression, side):
  def ours():
    return densenet.DenseNet(
      count=COUNT,
      growth=GROWTH,
      initial=initial,
      num_classes=CLASSES,
      bottleneck=bottleneck,
      compression=compression,
    )

  def reference():
    return _reference(initial, bottleneck, compression)

  return Case(ours=ours, reference=reference, side=side)


CASES = {
  "plain": _case(initial=6, bottleneck=False, compression=1.0, side=18),
  "bottleneck": _case(initial=9, bottleneck=True, compression=0.5, side=16),
}
