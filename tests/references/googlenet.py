"""GoogLeNet for small images, as github.com/kuangliu/pytorch-cifar arranges it, narrow."""

from jaxdistill.models import googlenet

STEM = 24
STAGES = tuple(tuple(tuple(count // 8 for count in module) for module in stage) for stage in googlenet.STAGES)


def _reference():
  import torch
  from torch import nn

  def units(*channels):
    """Convolutions from each number of channels to the next, 1x1 the first and 3x3 the others."""
    modules = []
    for i, (inputs, outputs) in enumerate(zip(channels, channels[1:])):
      modules += [nn.Conv2d(inputs, outputs, 3 if i else 1, padding=min(i, 1)), nn.BatchNorm2d(outputs), nn.ReLU()]
    return modules

  class Inception(nn.Module):
    def __init__(self, inputs, c1, r3, c3, r5, c5, pooled):
      super().__init__()
      self.b1 = nn.Sequential(*units(inputs, c1))
      self.b2 = nn.Sequential(*units(inputs, r3, c3))
      self.b3 = nn.Sequential(*units(inputs, r5, c5, c5))
      self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *units(inputs, pooled))

    def forward(self, x):
      return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.pre_layers = nn.Sequential(nn.Conv2d(3, STEM, 3, padding=1), nn.BatchNorm2d(STEM), nn.ReLU())
      inputs = STEM
      for name, channels in zip(("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5", "b5"), sum(STAGES, ())):
        self.add_module(name, Inception(inputs, *channels))
        inputs = channels[0] + channels[2] + channels[4] + channels[5]
      self.linear = nn.Linear(inputs, 5)

    def forward(self, x):
      pool = nn.MaxPool2d(3, stride=2, padding=1)
      x = pool(self.b3(self.a3(self.pre_layers(x))))
      x = pool(self.e4(self.d4(self.c4(self.b4(self.a4(x))))))
      return self.linear(self.b5(self.a5(x)).mean((2, 3)))

  return Net()


CASES = {"googlenet": (lambda: googlenet.GoogLeNet(5, STEM, STAGES), _reference, 19)}
