"""Competitive Distillation and its baselines on ImageNet (Shi et al., Table 2).

    FILE=configs/imagenet_competitive.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/imagenet_competitive.py $DATA
    python -m jaxdistill.main --config=$FILE:resnet34,dml $DATA
    python -m jaxdistill.main --config=$FILE:resnet34,independent $DATA
    python -m jaxdistill.main --config=$FILE:resnet18 $DATA
    python -m jaxdistill.main --config=$FILE:mobilenet $DATA
    python -m jaxdistill.main --config=$FILE:resnet18_resnet50 $DATA
    python -m jaxdistill.main --config=$FILE:mobilenet_resnet50 $DATA
    python -m jaxdistill.main --config=$FILE:resnet50_resnet152 $DATA

Every cohort has the rows `,dml` and `,independent`. The paper's top-1 in per cent, of
the rows that come nearest to these:

| argument                                | alone        | DML          | competitive  |
|-----------------------------------------|--------------|--------------|--------------|
| resnet34 (the default): its "ResNet-32" | 72.86        | 73.65, 74.07 | 74.35, 74.27 |
| mobilenet: two MobileNets               | 74.34        | 74.96, 75.28 | 75.51, 75.55 |
| mobilenet_resnet50: with "ResNet-44"    | 74.34, 75.96 | 75.66, 77.98 | 75.59, 78.08 |
| resnet50_resnet152: with "ResNet-56"    | 77.05, 77.23 | 78.48, 79.31 | 78.97, 79.85 |

Not yet run in full.

What networks its ResNet-32, -44 and -56 are on ImageNet the paper does not say: those
of CIFAR with 0.5 to 0.9 M parameters cannot reach such accuracies. Here are ResNet-34
and ResNet-50, whose accuracies alone are about the same. MobileNet is MobileNetV2.

Recipe: learning rate 0.1, Nesterov momentum 0.9 and batch 128 are the paper's; 100
epochs, a tenth every 30 and weight decay 1e-4 are common ones, as it states none.
Random resized crops of 224 pixels and flips; in testing the middle of 256 pixels. Only
Competitive Distillation perturbs: one member in every step, as the paper's text says.
"""

from jaxdistill.run import recipes

METHODS = ("competitive", "dml", "independent")
ROWS = recipes.compared_rows(METHODS, recipes.IMAGENET_COHORTS)


def get_config(row="resnet34"):
  return recipes.compared_on_imagenet(row, METHODS)
