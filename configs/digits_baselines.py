r"""The baselines of digits_competitive.py, with its cohort and recipe: offline.

Independent training, and Deep Mutual Learning:

    python -m jaxdistill.main --config=configs/digits_baselines.py:independent
    python -m jaxdistill.main --config=configs/digits_baselines.py:dml
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group

ROWS = ("independent", "dml")


def get_config(method="independent"):
  recipes.require_row(method, ROWS)
  config = recipes.digits(method)
  config.cohort.convnet = group("small.convnet", members=2)
  config.cohort.resnet8 = group("resnet_cifar.resnet8", members=1)
  return config
