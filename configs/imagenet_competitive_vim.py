"""Competitive Distillation between two Vim-S on ImageNet (Shi et al., Table 2).

    python -m jaxdistill.main --config=configs/imagenet_competitive_vim.py --config.data.path=FILE.npz

Data and recipe: see `imagenet_competitive_vit_ceit.py`.

Paper, top-1: alone 80.46, DML 81.23 and 81.37, competitive 81.83 and 82.04 %. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.imagenet("competitive")
  recipes.transformer(config, no_decay=("A_log", "A_b_log", "D", "D_b"))
  config.perturb = perturbation()
  config.cohort.vim = group("vim.vim_s", members=2, drop_path=0.1)
  return config
