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
`3_resnet32` and `resnet56_mobilenet`, alone or with `,dml` or `,independent`. One
member is perturbed in every step, as the paper's text says.
"""

from jaxdistill.run import recipes

METHODS = ("competitive", "dml", "independent")
ROWS = recipes.compared_rows(METHODS)


def get_config(row="resnet32"):
  return recipes.compared("cifar10", row, METHODS)
