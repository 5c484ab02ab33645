"""Vision Transformer of timm, narrow."""

from jaxdistill.models import vit
from tests.references.case import Case

CLASSES = 5


def _reference(patch, side):
  from timm.models.vision_transformer import VisionTransformer

  return VisionTransformer(
    img_size=side,
    patch_size=patch,
    embed_dim=24,
    depth=4,
    num_heads=3,
    num_classes=CLASSES,
    global_pool="token",
  )


def _case(patch, side):
  def ours():
    return vit.vit(num_classes=CLASSES, dim=24, depth=4, heads=3, patch=patch)

  def reference():
    return _reference(patch, side)

  return Case(ours=ours, reference=reference, side=side)


CASES = {"patch4": _case(patch=4, side=32), "patch5": _case(patch=5, side=35)}
