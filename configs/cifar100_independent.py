"""Two independent ResNet-32 on CIFAR-100: the baseline of cifar100_competitive.py, with its recipe.

    python -m jaxdistill.main --config=configs/cifar100_independent.py --config.data.dir=DIR

Shi et al., Table 2, give 68.73 % top-1. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group


def get_config():
  config = recipes.cifar("cifar100", "independent")
  config.cohort.resnet32 = group("resnet_cifar.resnet32", members=2)
  return config
