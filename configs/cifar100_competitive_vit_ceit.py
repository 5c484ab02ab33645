"""Competitive Distillation between ViT-B and CeiT-B on CIFAR-100, images resized to 224 (Shi et al., Table 2).

    python -m jaxdistill.main --config=configs/cifar100_competitive_vit_ceit.py --config.data.dir=DIR

So accurate on CIFAR-100 these networks are only if they start from weights trained on ImageNet, which the paper does not
say: `--config.cohort.vit.init=FILE.safetensors` (timm's vit_base_patch16_224) and `--config.cohort.ceit.init=...`.
Its other pair is two CeiT-B: `--config.cohort.vit.model=ceit.ceit_b`.

Recipe: the paper states SGD with learning rate 0.1 for all networks; its released code has AdamW, and so has this: the
recipe of DeiT with 100 epochs, stochastic depth 0.1 and batch 128.

Paper, CeiT-B / ViT-B, top-1: alone 86.28 / 85.73, DML 87.77 / 86.48, competitive 87.79 / 86.98 %. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.transformer(recipes.cifar("cifar100", "competitive"), no_decay=("pos_layer_embed",))
  config.epochs = 100.0
  config.perturb = perturbation()
  config.cohort.ceit = group("ceit.ceit_b", resize=224, drop_path=0.1)
  config.cohort.vit = group("vit.vit_b", resize=224, drop_path=0.1)
  return config
