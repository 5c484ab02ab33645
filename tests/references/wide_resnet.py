"""The wide residual network, as its paper describes it."""

from jaxdistill.models import wide_resnet

WIDEN, BLOCKS = 1, 2


def _reference():
  import torch
  from torch import nn

  class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
      super().__init__()
      self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
      self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
      self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x):
      before = torch.relu(self.bn1(x))
      y = self.conv2(torch.relu(self.bn2(self.conv1(before))))
      return y + (self.convShortcut(before) if self.convShortcut else x)

  class Stage(nn.Module):
    def __init__(self, inputs, outputs, stride):
      super().__init__()
      self.layer = nn.Sequential(Block(inputs, outputs, stride),
                                 *(Block(outputs, outputs, 1) for _ in range(BLOCKS - 1)))

    def forward(self, x):
      return self.layer(x)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      widths = [16, *(16 * WIDEN * 2**stage for stage in range(3))]
      self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
      self.block1, self.block2, self.block3 = (Stage(*widths[i:i + 2], stride=min(i + 1, 2)) for i in range(3))
      self.bn1, self.fc = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], 5)

    def forward(self, x):
      x = self.block3(self.block2(self.block1(self.conv1(x))))
      return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))

  return Net()


CASES = {"wrn-16-1": (lambda: wide_resnet.WideResNet(6 * BLOCKS + 4, WIDEN, 5), _reference, 17)}
