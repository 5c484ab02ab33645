"""Interval distillation of AlexNet and VGG-19 on CIFAR-10 (Gao et al., Entropy 2019: "MD", Table 1).

    python -m jaxdistill.main --config=configs/cifar10_interval_alexnet_vgg.py --config.data.dir=DIR

The table's other pairs by `--config.cohort.first.model=resnet_cifar.resnet110` or `densenet.densenet_bc100`, and
`--config.cohort.second.model=...` likewise. The paper names its DenseNet only "DenseNet100"; its accuracy alone is that
of DenseNet-BC-100-12. Recipe: see `cifar10_interval.py`.

Paper, top-1, AlexNet / VGG-19: alone 77.58 / 93.36, together 80.23 / 93.81 %. The other pairs of Table 1, each with
what both reach: VGG-19 and ResNet-110 94.27 / 95.60, DenseNet-100 and ResNet-110 95.72 / 95.48 %.
Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group


def get_config():
  config = recipes.step_decay(recipes.cifar("cifar10", "interval"), epochs=320.0, weight_decay=5e-4)
  config.cohort.first = group("alexnet", stem="cifar")
  config.cohort.second = group("vgg.vgg19", stem="cifar")
  return config
