"""Networks of PyTorch that take the exported weights of ours."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Twin(NamedTuple):
  """A network of PyTorch with the same parameters under the same names.

  Attributes:
    module: what has to be imported.
    lines: Python that leaves the network in `model`.
  """

  module: str
  lines: tuple[str, ...]


Keys = Mapping[str, Any]

# Ours -> torchvision's, where width and stem are those of ImageNet.
_TORCHVISION = {
  "resnet.resnet18": "resnet18",
  "resnet.resnet34": "resnet34",
  "resnet.resnet50": "resnet50",
  "resnet.resnet101": "resnet101",
  "resnet.resnet152": "resnet152",
  "resnet.resnext50": "resnext50_32x4d",
  "vgg.vgg16": "vgg16_bn",
  "vgg.vgg19": "vgg19_bn",
  "alexnet": "alexnet",
  "squeezenet.squeezenet1_1": "squeezenet1_1",
}
_STANDARD_WIDTH = 64

# Ours -> the dim, depth and heads of its factory.
_VIT = {
  "vit.vit": {"dim": 192, "depth": 12, "heads": 3},
  "vit.vit_ti": {"dim": 192, "depth": 12, "heads": 3},
  "vit.vit_s": {"dim": 384, "depth": 12, "heads": 6},
  "vit.vit_b": {"dim": 768, "depth": 12, "heads": 12},
}


def find(keys: Keys, num_classes: int, side: int) -> Twin | None:
  """Returns the network of torchvision or timm that takes a member's weights.

  Args:
    keys: config keys of the member's network, "model" among them.
    num_classes: C.
    side: of the images in pixels.

  Returns:
    None if neither library has it in this form.
  """
  name = keys["model"]
  # A network that is alone in its file may be named without it, or twice.
  head, _, tail = name.partition(".")
  if head == tail:
    name = head
  if name in _TORCHVISION:
    return _torchvision(_TORCHVISION[name], keys, num_classes)
  if name == "vit":
    name = "vit.vit"
  if name in _VIT:
    return _vit({**_VIT[name], **keys}, num_classes, side)
  special: dict[str, Callable[[Keys, int], Twin | None]] = {
    "mobilenet.v1": _mobilenet_v1,
    "mobilenet.v2": _mobilenet_v2,
  }
  if name in special:
    return special[name](keys, num_classes)
  return None


def _torchvision(name: str, keys: Keys, num_classes: int) -> Twin | None:
  """Returns a network of torchvision; with another stem if it can have it."""
  if keys.get("width", _STANDARD_WIDTH) != _STANDARD_WIDTH:
    return None
  lines = [f"model = torchvision.models.{name}(num_classes={num_classes})"]
  if keys.get("stem", "imagenet") == "cifar":
    if "resne" not in name:
      return None
    stem = "torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)"
    lines.append(f"model.conv1 = {stem}")
    lines.append("model.maxpool = torch.nn.Identity()")
  return Twin("torchvision", tuple(lines))


def _mobilenet_v1(keys: Keys, num_classes: int) -> Twin | None:
  if keys.get("width", 1.0) != 1 or keys.get("stem", "imagenet") != "imagenet":
    return None
  name = "mobilenetv1_100"
  return Twin(
    "timm", (f"model = timm.create_model({name!r}, num_classes={num_classes})",)
  )


def _mobilenet_v2(keys: Keys, num_classes: int) -> Twin | None:
  if keys.get("stem", "imagenet") != "imagenet":
    return None
  arguments = f"num_classes={num_classes}"
  width = keys.get("width", 1.0)
  if width != 1:
    arguments += f", width_mult={width}"
  return Twin("torchvision", (f"model = torchvision.models.mobilenet_v2({arguments})",))


def _vit(keys: Keys, num_classes: int, side: int) -> Twin:
  # Where images are resized in the network, the twin expects them so.
  side = keys.get("resize", 0) or side
  arguments = ", ".join(
    [
      f"img_size={side}",
      f"patch_size={keys.get('patch', 16)}",
      f"embed_dim={keys['dim']}",
      f"depth={keys['depth']}",
      f"num_heads={keys['heads']}",
      f"num_classes={num_classes}",
    ]
  )
  return Twin("timm", (f"model = timm.models.VisionTransformer({arguments})",))
