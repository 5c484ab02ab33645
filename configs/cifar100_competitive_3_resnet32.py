"""Competitive Distillation among three ResNet-32 on CIFAR-100 (Shi et al., Table 2).

    python -m jaxdistill.main --config=configs/cifar100_competitive_3_resnet32.py --config.data.dir=DIR

Paper: 70.44, 71.21 and 71.49 % top-1; independent 68.73 %, DML 70.26, 69.95 and 70.84 %. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.cifar("cifar100", "competitive")
  config.perturb = perturbation()
  config.cohort.resnet32 = group("resnet_cifar.resnet32", members=3)
  return config
