r"""Competitive Distillation between transformers, or state space models, on ImageNet.

Shi et al., Table 2.

    FILE=configs/imagenet_competitive_transformers.py
    DATA=--config.data.path=ARRAYS.npz
    python -m jaxdistill.main --config=configs/imagenet_competitive_transformers.py \
      $DATA
    python -m jaxdistill.main --config=$FILE:vim $DATA

The paper's top-1 in per cent:

| argument                          | alone        | DML          | competitive  |
|-----------------------------------|--------------|--------------|--------------|
| vit_ceit (default): CeiT-B, ViT-B | 85.47, 84.25 | 85.79, 85.34 | 86.08, 86.27 |
| vim: two Vim-S                    | 80.46        | 81.23, 81.37 | 81.83, 82.04 |

Not yet run in full.

Reads arrays of 224-pixel images, which have to fit into memory: there is no loader yet
that streams ImageNet, nor its random resized crops.

Recipe: the paper states SGD with Nesterov momentum 0.9, learning rate 0.1 and batch 128
for these networks too; its released code has AdamW, and so has this: DeiT's optimiser,
schedule, 300 epochs, smoothed labels and stochastic depth 0.1, with batch 128. Of
DeiT's table 9 it has not: RandAugment, mixup, cutmix and random erasing for all
members, repeated augmentation, batch 1024. Perturbations, for one member in every step
as the paper's text says, do not stand in for them.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group

ROWS = ("vit_ceit", "vim")
NO_DECAY = {
  "vit_ceit": ("pos_layer_embed",),
  "vim": ("A_log", "A_b_log", "D", "D_b"),
}


def get_config(networks="vit_ceit"):
  recipes.require_row(networks, ROWS)
  config = recipes.imagenet("competitive")
  recipes.transformer(config, no_decay=NO_DECAY[networks])
  config.perturb = recipes.perturbed_as_in_the_text()
  if networks == "vim":
    config.cohort.vim = group("vim.vim_s", members=2, drop_path=0.1)
  else:
    config.cohort.ceit = group("ceit.ceit_b", drop_path=0.1)
    config.cohort.vit = group("vit.vit_b", drop_path=0.1)
  return config
