r"""Competitive Distillation between networks of four kinds on CIFAR-100.

    python -m jaxdistill.main --config=configs/cifar100_competitive_mixed.py \
      --config.data.dir=DIR

Not an experiment of the paper, but its claim at its widest: a ResNet, a MobileNet, a
transformer and a state space model, which differ in everything but the task. The
transformer and the Mamba are small ones for 32-pixel images, with patches of 4, and
have an optimiser of their own. Learning rate 0.05 with warm-up for the others: at the
paper's 0.1 without, this MobileNet learned nothing in 310 steps of 64 images. One
member is perturbed in every tenth step, as in the authors' released code.

Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, optimizer, perturbation

TOKENS = {
  "name": "adamw",
  "learning_rate": 1e-3,
  "weight_decay": 0.05,
  "clip_norm": 1.0,
}


def get_config():
  config = recipes.cifar("cifar100", "competitive")
  config.optimizer = optimizer(
    "sgd",
    "cosine",
    learning_rate=0.05,
    weight_decay=5e-4,
    warmup="5 epochs",
  )
  config.perturb = perturbation()
  config.cohort.mobilenet = group("mobilenet.v2", width=0.5, stem="cifar")
  config.cohort.resnet = group("resnet_cifar.resnet32")
  config.cohort.vim = group("vim", optimizer=TOKENS, dim=128, depth=8, patch=4)
  config.cohort.vit = group("vit", optimizer=TOKENS, dim=128, depth=8, heads=4, patch=4)
  return config
