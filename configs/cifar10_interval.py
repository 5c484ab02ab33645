"""Interval distillation of pairs of networks on CIFAR-10.

Gao et al.: "MD", Entropy 2019, Tables 1 and 3.

    FILE=configs/cifar10_interval.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar10_interval.py $DATA
    python -m jaxdistill.main --config=$FILE:vgg19 $DATA
    python -m jaxdistill.main --config=$FILE:densenet100 $DATA
    python -m jaxdistill.main --config=$FILE:alexnet_vgg19 $DATA
    python -m jaxdistill.main --config=$FILE:vgg19_resnet110 $DATA
    python -m jaxdistill.main --config=$FILE:densenet100_resnet110 $DATA

The paper's top-1 in per cent, of both networks:

| argument                | together     | alone                           |
|-------------------------|--------------|---------------------------------|
| resnet110 (the default) | 95.72, 95.75 | 93.84 (DML 94.81, EC-DNN 94.97) |
| vgg19                   |              |                                 |
| densenet100             |              |                                 |
| alexnet_vgg19           | 80.23, 93.81 | 77.58, 93.36                    |
| vgg19_resnet110         | 94.27, 95.60 |                                 |
| densenet100_resnet110   | 95.72, 95.48 |                                 |

Not yet run in full.

Cycles of 10 independent and 30 distillation epochs, T = 3, gradual weights. Table 5
varies `--config.method.distillation_epochs` (with epochs a multiple of the cycle),
Table 4 `--config.method.temperature`, Table 6 compares `--config.method.weights=fixed`:
AlexNet and VGG-19 reach with fixed weights 79.49 and 93.93, with gradual ones 79.87 and
94.33 %.

The paper names its DenseNet only "DenseNet100"; its accuracy alone is that of
DenseNet-BC-100-12.

Recipe: learning rate 0.1, a tenth at half and at three quarters of the run; the epochs,
the batch and the weight decay are not stated: 320 (eight cycles), 128 and 5e-4 here.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group

ALEXNET = {"model": "alexnet", "stem": "cifar"}
DENSENET = {"model": "densenet.densenet_bc100"}
RESNET = {"model": "resnet_cifar.resnet110"}
VGG = {"model": "vgg.vgg19", "stem": "cifar"}

# Group -> its keys.
PAIRS = {
  "resnet110": {"resnet110": {"members": 2, **RESNET}},
  "vgg19": {"vgg19": {"members": 2, **VGG}},
  "densenet100": {"densenet100": {"members": 2, **DENSENET}},
  "alexnet_vgg19": {"first": ALEXNET, "second": VGG},
  "vgg19_resnet110": {"first": VGG, "second": RESNET},
  "densenet100_resnet110": {"first": DENSENET, "second": RESNET},
}
ROWS = tuple(PAIRS)


def get_config(pair="resnet110"):
  recipes.require_row(pair, ROWS)
  config = recipes.cifar("cifar10", "interval")
  recipes.step_decay(config, epochs=320.0, weight_decay=5e-4)
  for name, keys in PAIRS[pair].items():
    config.cohort[name] = group(**keys)
  return config
