r"""Competitive Distillation between transformers, or state space models, on CIFAR-100.

Images are resized to 224 pixels (Shi et al., Table 2).

    FILE=configs/cifar100_competitive_transformers.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar100_competitive_transformers.py \
      $DATA
    python -m jaxdistill.main --config=$FILE:ceit $DATA
    python -m jaxdistill.main --config=$FILE:vim $DATA

The paper's top-1 in per cent:

| argument                          | alone        | DML          | competitive  |
|-----------------------------------|--------------|--------------|--------------|
| vit_ceit (default): CeiT-B, ViT-B | 86.28, 85.73 | 87.77, 86.48 | 87.79, 86.98 |
| ceit: two CeiT-B                  | 86.28        | 87.58, 87.76 | 88.30, 88.05 |
| vim: two Vim-S                    | 84.52        | 85.61, 85.86 | 86.24, 86.43 |

Not yet run in full.

These networks are so accurate on CIFAR-100 only if they start from weights trained on
ImageNet, which the paper does not say: `--config.cohort.vit.init=FILE.safetensors`
(timm's vit_base_patch16_224), `--config.cohort.ceit.init=...`, and
`--config.cohort.vim.init=FILE.safetensors` with the names of the released code. Such
weights want the mean and deviation that they were trained with, for timm's ViT
`--config.cohort.vit.mean=0.5,0.5,0.5 --config.cohort.vit.std=0.5,0.5,0.5`.

Recipe: the paper states SGD with Nesterov momentum 0.9 and learning rate 0.1 for all
networks; its released code has AdamW, and so has this: table 9 of DeiT (Touvron et al.,
ICML 2021) with its optimiser, schedule, smoothed labels, stochastic depth 0.1,
RandAugment, mixup, CutMix and random erasing for all members, which are made of the 32
pixels. There are 100 epochs instead of 300, batch 128 instead of 1024, and gradients
are clipped. Perturbations come besides, for one member in every step as the paper's
text says; `--config.perturb.ops=` leaves them out.
"""

from jaxdistill.run import recipes

ROWS = tuple(recipes.TOKEN_COHORTS)


def get_config(networks="vit_ceit"):
  config = recipes.compared_on_tokens("cifar100", networks, "competitive")
  config.perturb = recipes.perturbed_as_in_the_text()
  return config
