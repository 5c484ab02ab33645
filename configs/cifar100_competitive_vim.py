"""Competitive Distillation between two Vim-S on CIFAR-100, images resized to 224 (Shi et al., Table 2).

    python -m jaxdistill.main --config=configs/cifar100_competitive_vim.py --config.data.dir=DIR

Weights trained on ImageNet, which the accuracies of the paper need: `--config.cohort.vim.init=FILE.safetensors`, with the
names of the released code. Recipe: as `cifar100_competitive_vit_ceit.py`.

Paper, top-1: alone 84.52, DML 85.61 and 85.86, competitive 86.24 and 86.43 %. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.transformer(recipes.cifar("cifar100", "competitive"), no_decay=("A_log", "A_b_log", "D", "D_b"))
  config.epochs = 100.0
  config.perturb = perturbation()
  config.cohort.vim = group("vim.vim_s", members=2, resize=224, drop_path=0.1)
  return config
