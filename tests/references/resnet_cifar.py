"""The CIFAR ResNet with shortcuts without parameters, as its paper describes it."""

from jaxdistill.models import resnet_cifar
from tests.references.case import Case

CLASSES = 5
WIDTH = 8
BLOCKS = 2


def _reference():
  import torch
  from torch import nn

  class Block(nn.Module):
    def __init__(self, inputs, outputs):
      super().__init__()
      self.stride = outputs // inputs
      self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
      self.bn1 = nn.BatchNorm2d(outputs)
      self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
      self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
      y = torch.relu(self.bn1(self.conv1(x)))
      y = self.bn2(self.conv2(y))
      new = (y.shape[1] - x.shape[1]) // 2
      kept = x[:, :, :: self.stride, :: self.stride]
      shortcut = nn.functional.pad(kept, (0, 0, 0, 0, new, new))
      return torch.relu(y + shortcut)

  def stage(inputs, outputs):
    others = [Block(outputs, outputs) for _ in range(BLOCKS - 1)]
    return nn.Sequential(Block(inputs, outputs), *others)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
      self.bn1 = nn.BatchNorm2d(WIDTH)
      self.layer1 = stage(WIDTH, WIDTH)
      self.layer2 = stage(WIDTH, 2 * WIDTH)
      self.layer3 = stage(2 * WIDTH, 4 * WIDTH)
      self.linear = nn.Linear(4 * WIDTH, CLASSES)

    def forward(self, x):
      x = torch.relu(self.bn1(self.conv1(x)))
      x = self.layer3(self.layer2(self.layer1(x)))
      return self.linear(x.mean((2, 3)))

  return Net()


def _ours():
  return resnet_cifar.ResNet(depth=6 * BLOCKS + 2, num_classes=CLASSES, width=WIDTH)


CASES = {"resnet14": Case(ours=_ours, reference=_reference, side=17)}
