"""The wide residual network, as its paper describes it."""

from jaxdistill.models import wide_resnet
from tests.references.case import Case

CLASSES = 5
WIDEN = 1
BLOCKS = 2
WIDTHS = (16, 16 * WIDEN, 32 * WIDEN, 64 * WIDEN)


def _reference():
  import torch
  from torch import nn

  class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
      super().__init__()
      self.bn1 = nn.BatchNorm2d(inputs)
      self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
      self.bn2 = nn.BatchNorm2d(outputs)
      self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
      self.convShortcut = None
      if inputs != outputs:
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
      before = torch.relu(self.bn1(x))
      y = self.conv2(torch.relu(self.bn2(self.conv1(before))))
      if self.convShortcut is None:
        return y + x
      return y + self.convShortcut(before)

  class Stage(nn.Module):
    def __init__(self, inputs, outputs, stride):
      super().__init__()
      others = [Block(outputs, outputs, 1) for _ in range(BLOCKS - 1)]
      self.layer = nn.Sequential(Block(inputs, outputs, stride), *others)

    def forward(self, x):
      return self.layer(x)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
      self.block1 = Stage(WIDTHS[0], WIDTHS[1], stride=1)
      self.block2 = Stage(WIDTHS[1], WIDTHS[2], stride=2)
      self.block3 = Stage(WIDTHS[2], WIDTHS[3], stride=2)
      self.bn1 = nn.BatchNorm2d(WIDTHS[3])
      self.fc = nn.Linear(WIDTHS[3], CLASSES)

    def forward(self, x):
      x = self.block3(self.block2(self.block1(self.conv1(x))))
      return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))

  return Net()


def _ours():
  return wide_resnet.WideResNet(depth=6 * BLOCKS + 4, widen=WIDEN, num_classes=CLASSES)


CASES = {"wrn-16-1": Case(ours=_ours, reference=_reference, side=17)}
