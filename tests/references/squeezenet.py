"""SqueezeNet 1.1 of torchvision."""

from jaxdistill.models import squeezenet


def _reference():
  from torchvision.models import SqueezeNet
  return SqueezeNet("1_1", num_classes=5)


# With 41 pixels every pooling reaches over the edge somewhere: from 20 to 10, 5 and 2 positions.
CASES = {"1_1": (lambda: squeezenet.squeezenet1_1(num_classes=5), _reference, 41)}
