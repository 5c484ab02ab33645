"""Interval distillation of pairs of networks on CIFAR-10.

Gao et al.: "MD", Entropy 2019, Tables 1 and 3.

    FILE=configs/cifar10_interval.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar10_interval.py $DATA
    python -m jaxdistill.main --config=$FILE:alexnet $DATA
    python -m jaxdistill.main --config=$FILE:vgg19 $DATA
    python -m jaxdistill.main --config=$FILE:densenet100 $DATA
    python -m jaxdistill.main --config=$FILE:alexnet_vgg19 $DATA
    python -m jaxdistill.main --config=$FILE:vgg19_resnet110 $DATA
    python -m jaxdistill.main --config=$FILE:densenet100_resnet110 $DATA

The paper's top-1 in per cent, of both networks:

| argument                | together     | alone                           |
|-------------------------|--------------|---------------------------------|
| resnet110 (the default) | 95.72, 95.75 | 93.84 (DML 94.81, EC-DNN 94.97) |
| alexnet                 | 79.87        | 77.58 (DML 78.60, EC-DNN 78.67) |
| vgg19                   | 94.10, 94.33 | 93.36                           |
| densenet100             | 95.62, 95.76 | 95.35                           |
| alexnet_vgg19           | 80.23, 93.81 | 77.58, 93.36                    |
| vgg19_resnet110         | 94.27, 95.60 | 93.36, 93.84                    |
| densenet100_resnet110   | 95.72, 95.48 | 95.35, 93.84                    |

Not yet run in full.

Cycles of 10 independent and 30 distillation epochs, T = 3, gradual weights. Table 5
varies `--config.method.distillation_epochs` (with epochs a multiple of the cycle),
Table 4 `--config.method.temperature`, Table 6 compares `--config.method.weights=fixed`:
AlexNet and VGG-19 reach with fixed weights 79.49 and 93.93, with gradual ones 79.87 and
94.33 %.

Which network AlexNet is trained with in Table 3 the paper does not say; here it is
another one, as ResNet-110 is.

The paper names its DenseNet only "DenseNet100"; its accuracy alone is that of
DenseNet-BC-100-12.

Recipe: learning rate 0.1, a tenth at half and at three quarters of the run; the epochs,
the batch and the weight decay are not stated: 320 (eight cycles), 128 and 5e-4 here.
"""

from jaxdistill.run import recipes

ROWS = tuple(recipes.CIFAR_PAIRS)


def get_config(pair="resnet110"):
  return recipes.network_pair("cifar10", "interval", pair)
