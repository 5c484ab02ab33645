"""Interval distillation of pairs of networks on ImageNet.

Gao et al.: "MD", Entropy 2019, Table 2.

    FILE=configs/imagenet_interval.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/imagenet_interval.py $DATA
    python -m jaxdistill.main --config=$FILE:resnet18_resnet50 $DATA
    python -m jaxdistill.main --config=$FILE:resnet18_squeezenet $DATA

The paper's top-1 in per cent, of both networks:

| argument               | together     | alone        |
|------------------------|--------------|--------------|
| resnet18 (the default) | 70.53, 70.44 | 69.76        |
| resnet18_resnet50      | 70.65, 76.38 | 69.76, 76.15 |
| resnet18_squeezenet    | 70.11, 58.98 | 69.76, 58.1  |

Not yet run in full.

Cycles of 5 independent and 10 distillation epochs, T = 3, gradual weights. The kept
weights predict for the crops of each batch (`method.teacher=snapshot`, one more forward
pass a step), since crops of 8 % of an image's area show something else than the image.

Recipe: learning rate 0.1, a tenth at half and at three quarters of the run; the epochs,
the batch and the weight decay are not stated: 90 (six cycles), 256 and 1e-4 here.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group

ROWS = ("resnet18", "resnet18_resnet50", "resnet18_squeezenet")


def get_config(pair="resnet18"):
  recipes.require_row(pair, ROWS)
  config = recipes.imagenet(
    "interval",
    independent_epochs=5,
    distillation_epochs=10,
    teacher="snapshot",
  )
  recipes.step_decay(config, epochs=90.0, weight_decay=1e-4)
  members = 2 if pair == "resnet18" else 1
  config.cohort.resnet18 = group("resnet.resnet18", members=members)
  if pair == "resnet18_resnet50":
    config.cohort.resnet50 = group("resnet.resnet50")
  if pair == "resnet18_squeezenet":
    config.cohort.squeezenet = group("squeezenet.squeezenet1_1")
  return config
