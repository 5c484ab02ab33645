"""Interval distillation, a pair of ResNet-110 on CIFAR-100 (Gao et al., Entropy 2019: "MD", Tables 1 and 3).

    python -m jaxdistill.main --config=configs/cifar100_interval.py --config.data.dir=DIR

Cycles of 10 independent and 30 distillation epochs, T = 3, gradual weights. Table 5 varies
`--config.method.distillation_epochs` (with epochs a multiple of the cycle), Table 4 `--config.method.temperature`,
Table 6 compares `--config.method.weights=fixed`. Table 1's pairs of one kind:
`--config.cohort.resnet110.model=vgg.vgg19 --config.cohort.resnet110.stem=cifar`, or `densenet.densenet_bc100` alone; pairs
of two kinds: `cifar100_interval_alexnet_vgg.py`.

Recipe: learning rate 0.1, a tenth at half and at three quarters of the run; the epochs, the batch and the weight
decay are not stated: 320 (eight cycles), 128 and 5e-4 here.

Paper, top-1: 77.81 and 77.47 % (alone 74.02 %); DML 76.92, EC-DNN 77.38 %. (AlexNet and VGG-19: fixed 49.96 and
75.32, gradual 50.13 and 75.45 %.) Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group


def get_config():
  config = recipes.step_decay(recipes.cifar("cifar100", "interval"), epochs=320.0, weight_decay=5e-4)
  config.cohort.resnet110 = group("resnet_cifar.resnet110", members=2)
  return config
