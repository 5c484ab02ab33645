"""VGG of torchvision with few channels, and with the small head of github.com/bearpaw/pytorch-classification."""

from jaxdistill.models import vgg

WIDTH, HIDDEN, CLASSES = 8, 12, 5


def _features(convs):
  from torchvision.models import vgg as published
  config = []
  for stage, count in enumerate(convs):
    config += [WIDTH * min(2**stage, 8)] * count + ["M"]
  return published.make_layers(config, batch_norm=True)


def _imagenet(convs):
  def build():
    from torch import nn
    from torchvision.models import vgg as published
    model = published.VGG(_features(convs), num_classes=CLASSES, init_weights=False)
    cells = 49 * WIDTH * 8
    model.classifier[0], model.classifier[3] = nn.Linear(cells, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
    model.classifier[6] = nn.Linear(HIDDEN, CLASSES)
    return model
  return build


def _cifar(convs):
  def build():
    from torch import nn

    class Small(nn.Module):
      def __init__(self):
        super().__init__()
        self.features = _features(convs)
        self.classifier = nn.Linear(WIDTH * 8, CLASSES)

      def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

    return Small()
  return build


def _imagenet_of_ours(factory):
  return lambda: factory(num_classes=CLASSES).clone(width=WIDTH, hidden=HIDDEN)


def _cifar_of_ours(factory):
  return lambda: factory(num_classes=CLASSES, stem="cifar").clone(width=WIDTH)


CASES = {
    "vgg16": (_imagenet_of_ours(vgg.vgg16), _imagenet((2, 2, 3, 3, 3)), 101),
    "vgg16 cifar": (_cifar_of_ours(vgg.vgg16), _cifar((2, 2, 3, 3, 3)), 32),
    "vgg19": (_imagenet_of_ours(vgg.vgg19), _imagenet((2, 2, 4, 4, 4)), 32),
    "vgg19 cifar": (_cifar_of_ours(vgg.vgg19), _cifar((2, 2, 4, 4, 4)), 32),
}
