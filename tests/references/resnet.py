"""ResNet and ResNeXt of torchvision with few blocks.

With its stem or the one for small images.
"""

from jaxdistill.models import resnet
from tests.references.case import Case

CLASSES = 5
GROUPS = 32


def _reference(blocks, bottleneck, stem, is_resnext):
  import torch
  from torchvision.models import resnet as published

  block = published.Bottleneck if bottleneck else published.BasicBlock
  groups = {}
  if is_resnext:
    groups = {"groups": GROUPS, "width_per_group": 4}
  model = published.ResNet(block, blocks, num_classes=CLASSES, **groups)
  if stem == "cifar":
    model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = torch.nn.Identity()
  return model


def _case(blocks, *, bottleneck, side, stem="imagenet", is_resnext=False):
  def ours():
    model = resnet.ResNet(
      blocks=blocks, bottleneck=bottleneck, num_classes=CLASSES, stem=stem
    )
    if is_resnext:
      return model.clone(groups=GROUPS, hidden=2)
    return model

  def reference():
    return _reference(blocks, bottleneck, stem, is_resnext)

  return Case(ours=ours, reference=reference, side=side)


CASES = {
  "basic": _case((1, 2, 1, 1), bottleneck=False, side=35),
  "basic cifar": _case((1, 1, 1, 2), bottleneck=False, stem="cifar", side=16),
  "bottleneck": _case((2, 1, 1, 1), bottleneck=True, side=32),
  "resnext": _case((1, 2, 1, 1), bottleneck=True, is_resnext=True, side=32),
}
