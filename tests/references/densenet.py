"""DenseNet for small images, as its paper describes it, from the transitions and bottleneck layers of torchvision."""

from jaxdistill.models import densenet

COUNT, GROWTH = 2, 4


def _reference(initial, bottleneck, compression):
  def build():
    from collections import OrderedDict

    import torch
    from torch import nn
    from torchvision.models import densenet as published

    class Plain(nn.Module):
      def __init__(self, inputs):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, GROWTH, 3, padding=1, bias=False)

      def forward(self, x):
        return self.conv1(torch.relu(self.norm1(x)))

    class Block(nn.Module):
      def __init__(self, inputs):
        super().__init__()
        for i in range(COUNT):
          count = inputs + i * GROWTH
          self.add_module(f"denselayer{i + 1}",
                          published._DenseLayer(count, GROWTH, 4, 0) if bottleneck else Plain(count))

      def forward(self, x):
        for layer in self.children():
          x = torch.cat([x, layer(x)], 1)
        return x

    class Net(nn.Module):
      def __init__(self):
        super().__init__()
        count = initial
        self.features = nn.Sequential(OrderedDict(conv0=nn.Conv2d(3, count, 3, padding=1, bias=False)))
        for i in (1, 2, 3):
          self.features.add_module(f"denseblock{i}", Block(count))
          count += COUNT * GROWTH
          if i < 3:
            kept = int(count * compression)
            self.features.add_module(f"transition{i}", published._Transition(count, kept))
            count = kept
        self.features.add_module("norm5", nn.BatchNorm2d(count))
        self.classifier = nn.Linear(count, 5)

      def forward(self, x):
        return self.classifier(torch.relu(self.features(x)).mean((2, 3)))

    return Net()
  return build


CASES = {
    "plain": (lambda: densenet.DenseNet(COUNT, GROWTH, 6, 5), _reference(6, False, 1.0), 18),
    "bottleneck": (lambda: densenet.DenseNet(COUNT, GROWTH, 9, 5, True, 0.5), _reference(9, True, 0.5), 16),
}
