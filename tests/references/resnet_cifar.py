"""The CIFAR ResNet with shortcuts without parameters, as its paper describes it."""

from jaxdistill.models import resnet_cifar

WIDTH, BLOCKS = 8, 2


def _reference():
  import torch
  from torch import nn

  class Block(nn.Module):
    def __init__(self, inputs, outputs):
      super().__init__()
      self.stride = outputs // inputs
      self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False), nn.BatchNorm2d(outputs)
      self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x):
      y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
      new = (y.shape[1] - x.shape[1]) // 2
      shortcut = nn.functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, new, new))
      return torch.relu(y + shortcut)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1, self.bn1 = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH)
      stage = lambda inputs, outputs: nn.Sequential(Block(inputs, outputs),
                                                    *(Block(outputs, outputs) for _ in range(BLOCKS - 1)))
      self.layer1, self.layer2 = stage(WIDTH, WIDTH), stage(WIDTH, 2 * WIDTH)
      self.layer3, self.linear = stage(2 * WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, 5)

    def forward(self, x):
      x = torch.relu(self.bn1(self.conv1(x)))
      return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

  return Net()


CASES = {"resnet14": (lambda: resnet_cifar.ResNet(6 * BLOCKS + 2, 5, WIDTH), _reference, 17)}
