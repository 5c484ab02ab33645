"""Competitive Distillation between ViT-B and CeiT-B on ImageNet (Shi et al., Table 2).

    python -m jaxdistill.main --config=configs/imagenet_competitive_vit_ceit.py --config.data.path=FILE.npz

Reads arrays of 224-pixel images, which have to fit into memory: there is no loader yet that streams ImageNet, nor its
random resized crops. Recipe: DeiT's with stochastic depth 0.1 and batch 128; 300 epochs.

Paper, CeiT-B / ViT-B, top-1: alone 85.47 / 84.25, DML 85.79 / 85.34, competitive 86.08 / 86.27 %. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.imagenet("competitive")
  recipes.transformer(config, no_decay=("pos_layer_embed",))
  config.perturb = perturbation()
  config.cohort.ceit = group("ceit.ceit_b", drop_path=0.1)
  config.cohort.vit = group("vit.vit_b", drop_path=0.1)
  return config
