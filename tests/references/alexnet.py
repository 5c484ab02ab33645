"""AlexNet of torchvision with narrow linear layers, and that of github.com/bearpaw/pytorch-classification."""

from jaxdistill.models import alexnet

CLASSES, HIDDEN = 5, 12


def _imagenet():
  from torch import nn
  from torchvision.models import AlexNet
  model = AlexNet(num_classes=CLASSES)
  model.classifier[1], model.classifier[4] = nn.Linear(36 * 256, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
  model.classifier[6] = nn.Linear(HIDDEN, CLASSES)
  return model


def _cifar():
  from torch import nn

  class Small(nn.Module):
    def __init__(self):
      super().__init__()
      self.features = nn.Sequential(
          nn.Conv2d(3, 64, 11, stride=4, padding=5), nn.ReLU(), nn.MaxPool2d(2, stride=2),
          nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2, stride=2),
          nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
          nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
          nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, stride=2))
      self.classifier = nn.Linear(256, CLASSES)

    def forward(self, x):
      return self.classifier(self.features(x).flatten(1))

  return Small()


CASES = {
    "imagenet": (lambda: alexnet.alexnet(num_classes=CLASSES).clone(hidden=HIDDEN), _imagenet, 131),
    "cifar": (lambda: alexnet.alexnet(num_classes=CLASSES, stem="cifar"), _cifar, 32),
}
