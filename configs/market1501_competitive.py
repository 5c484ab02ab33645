"""Competitive Distillation and its baselines on Market-1501 (Shi et al., Table 3).

    FILE=configs/market1501_competitive.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/market1501_competitive.py $DATA
    python -m jaxdistill.main --config=$FILE:resnet32_mobilenet,dml $DATA
    python -m jaxdistill.main --config=$FILE:resnet32_mobilenet,independent $DATA
    python -m jaxdistill.main --config=$FILE:resnet32_resnet44 $DATA
    python -m jaxdistill.main --config=$FILE:resnet56_resnet152 $DATA

The paper's Rank-1 in per cent, the first network's first:

| argument                         | independent  | dml          | competitive  |
|----------------------------------|--------------|--------------|--------------|
| resnet32_mobilenet (the default) | 81.07, 85.01 | 84.43, 89.34 | 84.65, 89.82 |
| resnet32_resnet44                | 81.07, 85.66 | 84.75, 89.97 | 84.86, 90.03 |
| resnet56_resnet152               | 88.57, 94.77 | 90.36, 95.64 | 91.28, 96.17 |

Not yet run in full.

Networks learn to tell the 751 persons of the training set apart, and are measured by
what their pooled features find among others: docs/reid.md.

The paper states SGD with Nesterov momentum 0.9, learning rate 0.1 and batch 128. It
states neither epochs nor decay for this set, for which those of CIFAR stand here; nor
the size of the images, the augmentation, the distance, or whether networks start from
weights of ImageNet, without which such figures are hard to reach: here they start at
random, unless `cohort.<group>.init` names files. 256x128 pixels, a crop after padding
by 10 and random erasing are what re-identification usually has; Deep Mutual Learning's
figures are of features of length 1, which the cosine orders alike.

Its ResNet-32, 44 and 56 are those for CIFAR by their size, so they are here, on larger
images; its MobileNet has the size of MobileNetV2.
"""

from jaxdistill.run import recipes

METHODS = ("competitive", "dml", "independent")
ROWS = recipes.compared_rows(METHODS, recipes.MARKET_COHORTS)


def get_config(row="resnet32_mobilenet"):
  return recipes.market1501(row, METHODS)
