"""Deep Mutual Learning, a pair of ResNet-32 on CIFAR-100: the recipe of cifar100_competitive.py.

    python -m jaxdistill.main --config=configs/cifar100_dml.py --config.data.dir=DIR

`--config.update_order=sequential` is algorithm 1 of Zhang et al. (CVPR 2018). Shi et al., Table 2, give 70.87 and
70.83 % top-1. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group


def get_config():
  config = recipes.cifar("cifar100", "dml")
  config.cohort.resnet32 = group("resnet_cifar.resnet32", members=2)
  return config
