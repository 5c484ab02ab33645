"""SqueezeNet 1.1 of torchvision."""

from jaxdistill.models import squeezenet
from tests.references.case import Case

CLASSES = 5


def _reference():
  from torchvision.models import SqueezeNet

  return SqueezeNet("1_1", num_classes=CLASSES)


def _ours():
  return squeezenet.squeezenet1_1(num_classes=CLASSES)


# With 41 pixels every pooling reaches over the edge somewhere: from 20 to 10, 5 and 2
# positions.
CASES = {"1_1": Case(ours=_ours, reference=_reference, side=41)}
