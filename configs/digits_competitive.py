"""Competitive Distillation on scikit-learn's bundled digits, offline.

Three members of two architectures; about half a minute on two CPU cores.

    python -m jaxdistill.main --config=configs/digits_competitive.py

Its baselines: digits_baselines.py.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.digits("competitive")
  config.perturb = perturbation(ops=recipes.DIGITS_POOL)
  config.cohort.convnet = group("small.convnet", members=2)
  config.cohort.resnet8 = group("resnet_cifar.resnet8", members=1)
  return config
