r"""Competitive Distillation between transformers, or state space models, on ImageNet.

Shi et al., Table 2.

    FILE=configs/imagenet_competitive_transformers.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/imagenet_competitive_transformers.py \
      $DATA
    python -m jaxdistill.main --config=$FILE:ceit $DATA
    python -m jaxdistill.main --config=$FILE:vim $DATA

The paper's top-1 in per cent:

| argument                          | alone        | DML          | competitive  |
|-----------------------------------|--------------|--------------|--------------|
| vit_ceit (default): CeiT-B, ViT-B | 85.47, 84.25 | 85.79, 85.34 | 86.08, 86.27 |
| ceit: two CeiT-B                  | 85.47        | 86.11, 86.17 | 86.56, 86.33 |
| vim: two Vim-S                    | 80.46        | 81.23, 81.37 | 81.83, 82.04 |

Not yet run in full.

Recipe: the paper states SGD with Nesterov momentum 0.9, learning rate 0.1 and batch 128
for these networks too; its released code has AdamW, and so has this: table 9 of DeiT
(Touvron et al., ICML 2021) with its optimiser, schedule, 300 epochs, smoothed labels,
stochastic depth 0.1, RandAugment, mixup, CutMix and random erasing for all members.
Batch 128 is the paper's, with the learning rate in proportion (table 9 has 1024), and
gradients are clipped. Perturbations come besides, for one member in every step as the
paper's text says; `--config.perturb.ops=` leaves them out.
"""

from jaxdistill.run import recipes

ROWS = tuple(recipes.TOKEN_COHORTS)


def get_config(networks="vit_ceit"):
  config = recipes.compared_on_tokens("imagenet", networks, "competitive")
  config.perturb = recipes.perturbed_as_in_the_text()
  return config
