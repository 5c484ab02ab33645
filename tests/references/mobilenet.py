"""MobileNetV1 of timm and MobileNetV2 of torchvision, narrow, with their strides and with those for small images."""

from jaxdistill.models import mobilenet

WIDTH = 0.3


def _v1(stem):
  def build():
    from timm.models import efficientnet as published
    model = published._gen_mobilenet_v1("mobilenetv1_100", WIDTH, num_classes=5)
    if stem == "cifar":
      model.conv_stem.stride = model.blocks[1][0].conv_dw.stride = (1, 1)
    return model
  return build


def _v2(stem):
  def build():
    from torchvision.models import mobilenetv2 as published
    strides = (1, 1 if stem == "cifar" else 2, 2, 2, 1, 2, 1)
    stages = [[*stage[:3], stride] for stage, stride in zip(mobilenet.V2_STAGES, strides, strict=True)]
    model = published.MobileNetV2(5, WIDTH, stages)
    if stem == "cifar":
      model.features[0][0].stride = (1, 1)
    return model
  return build


CASES = {
    "v1": (lambda: mobilenet.MobileNetV1(5, WIDTH), _v1("imagenet"), 67),
    "v1 cifar": (lambda: mobilenet.MobileNetV1(5, WIDTH, "cifar"), _v1("cifar"), 16),
    "v2": (lambda: mobilenet.MobileNetV2(5, WIDTH), _v2("imagenet"), 67),
    "v2 cifar": (lambda: mobilenet.MobileNetV2(5, WIDTH, "cifar"), _v2("cifar"), 16),
}
