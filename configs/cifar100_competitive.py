"""Competitive Distillation, a pair of ResNet-32 on CIFAR-100 (Shi et al., Table 2, first row).

    python -m jaxdistill.main --config=configs/cifar100_competitive.py --config.data.dir=DIR

The paper's text perturbs in every iteration, its released code in every tenth, which is the default here;
`--config.perturb.every=1` is the text.

Paper (eight A100): 71.45 and 71.36 % top-1; independent 68.73 %, DML 70.87 and 70.83 %. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.cifar("cifar100", "competitive", alpha=1.0, beta=1.0)
  config.perturb = perturbation()
  config.cohort.resnet32 = group("resnet_cifar.resnet32", members=2)
  return config
