"""Competitive Distillation, a pair of ResNet-32 on CIFAR-10 (Shi et al., Table 2, first row).

    python -m jaxdistill.main --config=configs/cifar10_competitive.py --config.data.dir=DIR

Paper: 92.95 and 93.05 % top-1; independent 91.98 %, DML 92.36 and 92.67 %. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.cifar("cifar10", "competitive")
  config.perturb = perturbation()
  config.cohort.resnet32 = group("resnet_cifar.resnet32", members=2)
  return config
