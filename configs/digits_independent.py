"""Independent training on scikit-learn's bundled digits: the cohort and recipe of digits_competitive.py.

    python -m jaxdistill.main --config=configs/digits_independent.py
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group


def get_config():
  config = recipes.digits("independent")
  config.cohort.convnet = group("small.convnet", members=2)
  config.cohort.resnet8 = group("resnet_cifar.resnet8", members=1)
  return config
