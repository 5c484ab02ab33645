"""Competitive Distillation and its baselines on CIFAR-100 (Shi et al., Table 2).

    FILE=configs/cifar100_competitive.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar100_competitive.py $DATA
    python -m jaxdistill.main --config=$FILE:resnet32,dml $DATA
    python -m jaxdistill.main --config=$FILE:resnet32,independent $DATA
    python -m jaxdistill.main --config=$FILE:3_resnet32 $DATA
    python -m jaxdistill.main --config=$FILE:3_resnet32,dml $DATA
    python -m jaxdistill.main --config=$FILE:3_resnet32,independent $DATA
    python -m jaxdistill.main --config=$FILE:resnet56_mobilenet $DATA
    python -m jaxdistill.main --config=$FILE:resnet56_mobilenet,dml $DATA
    python -m jaxdistill.main --config=$FILE:resnet56_mobilenet,independent $DATA

The paper's top-1 in per cent, on eight A100:

| argument               | paper               |
|------------------------|---------------------|
| resnet32 (the default) | 71.45, 71.36        |
| resnet32,dml           | 70.87, 70.83        |
| resnet32,independent   | 68.73               |
| 3_resnet32             | 70.44, 71.21, 71.49 |
| 3_resnet32,dml         | 70.26, 69.95, 70.84 |
| 3_resnet32,independent | 68.73               |

Not yet run in full.

All rows have one recipe; only Competitive Distillation perturbs: one member in every
step, as the paper's text says. The authors' released code perturbs in every tenth
(`--config.perturb.every=10`; all of its rule is in cifar100_competitive_released.py).
For DML, `--config.update_order=sequential` is algorithm 1 of Zhang et al. (CVPR 2018).

The nearest pair in the paper to ResNet-56 and MobileNetV2 is ResNet-44 + MobileNet
(75.21 and 76.61 %, independent 72.26 and 73.59 %). Its MobileNet has 3.5 M parameters,
the count of MobileNetV2 with 1000 classes. A learned projection compares the pooled
features, of size 64 and 1280.
"""

from jaxdistill.run import recipes

METHODS = ("competitive", "dml", "independent")
ROWS = recipes.compared_rows(METHODS)


def get_config(row="resnet32"):
  return recipes.compared("cifar100", row, METHODS)
