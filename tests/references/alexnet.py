"""AlexNet of torchvision and that of github.com/bearpaw/pytorch-classification.

The first with narrow linear layers.
"""

from jaxdistill.models import alexnet
from tests.references.case import Case

CLASSES = 5
HIDDEN = 12


def _imagenet():
  from torch import nn
  from torchvision.models import AlexNet

  model = AlexNet(num_classes=CLASSES)
  model.classifier[1] = nn.Linear(36 * 256, HIDDEN)
  model.classifier[4] = nn.Linear(HIDDEN, HIDDEN)
  model.classifier[6] = nn.Linear(HIDDEN, CLASSES)
  return model


def _cifar():
  from torch import nn

  class Small(nn.Module):
    def __init__(self):
      super().__init__()
      self.features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=5),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=2),
      )
      self.classifier = nn.Linear(256, CLASSES)

    def forward(self, x):
      return self.classifier(self.features(x).flatten(1))

  return Small()


def _imagenet_of_ours():
  return alexnet.alexnet(num_classes=CLASSES).clone(hidden=HIDDEN)


def _cifar_of_ours():
  return alexnet.alexnet(num_classes=CLASSES, stem="cifar")


CASES = {
  "imagenet": Case(ours=_imagenet_of_ours, reference=_imagenet, side=131),
  "cifar": Case(ours=_cifar_of_ours, reference=_cifar, side=32),
}
