"""Competitive Distillation and its baselines on CIFAR-10 (Shi et al., Table 2).

    FILE=configs/cifar10_competitive.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar10_competitive.py $DATA
    python -m jaxdistill.main --config=$FILE:resnet32,dml $DATA
    python -m jaxdistill.main --config=$FILE:resnet32,independent $DATA

The paper's top-1 in per cent:

| argument               | paper        |
|------------------------|--------------|
| resnet32 (the default) | 92.95, 93.05 |
| resnet32,dml           | 92.36, 92.67 |
| resnet32,independent   | 91.98        |

Not yet run in full.

The other cohorts are those of cifar100_competitive.py, where the recipe is described:
`3_resnet32` and `resnet56_mobilenet`, alone or with `,dml` or `,independent`.
"""

from jaxdistill.errors import require_choice
from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation

COHORTS = ("resnet32", "3_resnet32", "resnet56_mobilenet")
METHODS = ("competitive", "dml", "independent")
ROWS = tuple(f"{cohort},{method}" for cohort in COHORTS for method in METHODS)


def get_config(row="resnet32"):
  cohort, _, method = row.partition(",")
  method = method or "competitive"
  require_choice(cohort=(cohort, COHORTS), method=(method, METHODS))

  config = recipes.cifar("cifar10", method)
  if method == "competitive":
    config.perturb = perturbation()
  if cohort == "resnet56_mobilenet":
    config.cohort.mobilenet = group("mobilenet.v2", members=1, stem="cifar")
    config.cohort.resnet56 = group("resnet_cifar.resnet56", members=1)
  else:
    members = 3 if cohort == "3_resnet32" else 2
    config.cohort.resnet32 = group("resnet_cifar.resnet32", members=members)
  return config
