"""VGG of torchvision with few channels.

With its head or the small one of github.com/bearpaw/pytorch-classification.
"""

from jaxdistill.models import vgg
from tests.references.case import Case

CLASSES = 5
WIDTH = 8
HIDDEN = 12
VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)


def _features(convs):
  from torchvision.models import vgg as published

  settings = []
  for stage, count in enumerate(convs):
    channels = WIDTH * min(2**stage, 8)
    settings += [channels] * count + ["M"]
  return published.make_layers(settings, batch_norm=True)


def _imagenet(convs):
  from torch import nn
  from torchvision.models import vgg as published

  features = _features(convs)
  model = published.VGG(features, num_classes=CLASSES, init_weights=False)
  model.classifier[0] = nn.Linear(49 * WIDTH * 8, HIDDEN)
  model.classifier[3] = nn.Linear(HIDDEN, HIDDEN)
  model.classifier[6] = nn.Linear(HIDDEN, CLASSES)
  return model


def _cifar(convs):
  from torch import nn

  class Small(nn.Module):
    def __init__(self):
      super().__init__()
      self.features = _features(convs)
      self.classifier = nn.Linear(WIDTH * 8, CLASSES)

    def forward(self, x):
      return self.classifier(self.features(x).flatten(1))

  return Small()


def _imagenet_case(factory, convs, side):
  def ours():
    return factory(num_classes=CLASSES).clone(width=WIDTH, hidden=HIDDEN)

  def reference():
    return _imagenet(convs)

  return Case(ours=ours, reference=reference, side=side)


def _cifar_case(factory, convs, side):
  def ours():
    return factory(num_classes=CLASSES, stem="cifar").clone(width=WIDTH)

  def reference():
    return _cifar(convs)

  return Case(ours=ours, reference=reference, side=side)


CASES = {
  "vgg16": _imagenet_case(vgg.vgg16, VGG16, side=101),
  "vgg16 cifar": _cifar_case(vgg.vgg16, VGG16, side=32),
  "vgg19": _imagenet_case(vgg.vgg19, VGG19, side=32),
  "vgg19 cifar": _cifar_case(vgg.vgg19, VGG19, side=32),
}
