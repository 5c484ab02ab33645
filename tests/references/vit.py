"""Vision Transformer of timm, narrow."""

from jaxdistill.models import vit


def _vit(patch, side):
  from timm.models.vision_transformer import VisionTransformer
  return VisionTransformer(img_size=side, patch_size=patch, embed_dim=24, depth=4, num_heads=3, num_classes=5,
                           global_pool="token")


CASES = {
    "patch4": (lambda: vit.vit(num_classes=5, dim=24, depth=4, heads=3, patch=4), lambda: _vit(4, 32), 32),
    "patch5": (lambda: vit.vit(num_classes=5, dim=24, depth=4, heads=3, patch=5), lambda: _vit(5, 35), 35),
}
