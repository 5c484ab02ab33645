"""ResNet and ResNeXt of torchvision with few blocks, with its stem or the one for small images."""

from jaxdistill.models import resnet


def _reference(blocks, bottleneck, stem="imagenet", **groups):
  def build():
    import torch
    from torchvision.models import resnet as published
    model = published.ResNet(published.Bottleneck if bottleneck else published.BasicBlock, blocks, num_classes=5, **groups)
    if stem == "cifar":
      model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
      model.maxpool = torch.nn.Identity()
    return model
  return build


CASES = {
    "basic": (lambda: resnet.ResNet((1, 2, 1, 1), False, 5), _reference((1, 2, 1, 1), False), 35),
    "basic cifar": (lambda: resnet.ResNet((1, 1, 1, 2), False, 5, "cifar"), _reference((1, 1, 1, 2), False, "cifar"), 16),
    "bottleneck": (lambda: resnet.ResNet((2, 1, 1, 1), True, 5), _reference((2, 1, 1, 1), True), 32),
    "resnext": (lambda: resnet.ResNet((1, 2, 1, 1), True, 5, groups=32, hidden=2),
                _reference((1, 2, 1, 1), True, groups=32, width_per_group=4), 32),
}
