"""MobileNetV1 of timm and MobileNetV2 of torchvision, narrow.

With their strides and with those for small images.
"""

import functools

from jaxdistill.models import mobilenet
from tests.references.case import Case

CLASSES = 5
WIDTH = 0.3


def _v1(stem):
  from timm.models import efficientnet as published

  model = published._gen_mobilenet_v1("mobilenetv1_100", WIDTH, num_classes=CLASSES)
  if stem == "cifar":
    model.conv_stem.stride = (1, 1)
    model.blocks[1][0].conv_dw.stride = (1, 1)
  return model


def _v2(stem):
  from torchvision.models import mobilenetv2 as published

  strides = [1, 2, 2, 2, 1, 2, 1]
  if stem == "cifar":
    strides[1] = 1
  settings = []
  for stage, stride in zip(mobilenet.V2_STAGES, strides, strict=True):
    settings.append([stage.expansion, stage.channels, stage.blocks, stride])
  model = published.MobileNetV2(CLASSES, WIDTH, settings)
  if stem == "cifar":
    model.features[0][0].stride = (1, 1)
  return model


def _case(network, reference, stem, side):
  return Case(
    ours=functools.partial(network, num_classes=CLASSES, width=WIDTH, stem=stem),
    reference=functools.partial(reference, stem),
    side=side,
  )


CASES = {
  "v1": _case(mobilenet.MobileNetV1, _v1, stem="imagenet", side=67),
  "v1 cifar": _case(mobilenet.MobileNetV1, _v1, stem="cifar", side=16),
  "v2": _case(mobilenet.MobileNetV2, _v2, stem="imagenet", side=67),
  "v2 cifar": _case(mobilenet.MobileNetV2, _v2, stem="cifar", side=16),
}
