"""Competitive Distillation between two architectures on CIFAR-100: ResNet-56 and MobileNetV2.

    python -m jaxdistill.main --config=configs/cifar100_competitive_resnet56_mobilenet.py --config.data.dir=DIR

The nearest pair in Shi et al. is ResNet-44 + MobileNet (Table 2: 75.21 and 76.61 % top-1; independent 72.26
and 73.59 %); its MobileNet has 3.5 M parameters, the count of MobileNetV2 with 1000 classes. A learned
projection compares the pooled features, of size 64 and 1280. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.cifar("cifar100", "competitive")
  config.perturb = perturbation()
  config.cohort.mobilenet = group("mobilenet.v2", members=1, stem="cifar")
  config.cohort.resnet56 = group("resnet_cifar.resnet56", members=1)
  return config
