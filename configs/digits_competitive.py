"""Competitive Distillation on scikit-learn's bundled digits: three members of two architectures, offline.

    python -m jaxdistill.main --config=configs/digits_competitive.py
"""

from jaxdistill import presets
from jaxdistill.config import group, perturbation


def get_config():
  config = presets.digits("competitive")
  config.perturb = perturbation(ops=presets.DIGITS_POOL)
  config.cohort.convnet = group("small.convnet", members=2)
  config.cohort.resnet8 = group("resnet_cifar.resnet8", members=1)
  return config
