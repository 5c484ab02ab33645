"""Interval distillation of pairs of networks on CIFAR-100.

Gao et al.: "MD", Entropy 2019, Tables 1 and 3.

    FILE=configs/cifar100_interval.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar100_interval.py $DATA
    python -m jaxdistill.main --config=$FILE:alexnet $DATA
    python -m jaxdistill.main --config=$FILE:vgg19 $DATA
    python -m jaxdistill.main --config=$FILE:densenet100 $DATA
    python -m jaxdistill.main --config=$FILE:alexnet_vgg19 $DATA
    python -m jaxdistill.main --config=$FILE:vgg19_resnet110 $DATA
    python -m jaxdistill.main --config=$FILE:densenet100_resnet110 $DATA

The paper's top-1 in per cent, of both networks:

| argument                | together     | alone                           |
|-------------------------|--------------|---------------------------------|
| resnet110 (the default) | 77.81, 77.47 | 74.02 (DML 76.92, EC-DNN 77.38) |
| alexnet                 | 50.13        | 43.85 (DML 47.32, EC-DNN 46.08) |
| vgg19                   | 75.43, 75.45 | 72.57                           |
| densenet100             | 78.55, 78.85 | 77.57                           |
| alexnet_vgg19           | 49.79, 74.08 | 43.85, 72.57                    |
| vgg19_resnet110         | 74.85, 77.75 | 72.57, 74.02                    |
| densenet100_resnet110   | 78.57, 79.09 | 77.57, 74.02                    |

Not yet run in full.

Cycles of 10 independent and 30 distillation epochs, T = 3, gradual weights. Table 5
varies `--config.method.distillation_epochs` (with epochs a multiple of the cycle),
Table 4 `--config.method.temperature`, Table 6 compares `--config.method.weights=fixed`:
AlexNet and VGG-19 reach with fixed weights 49.96 and 75.32, with gradual ones 50.13 and
75.45 %.

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
  return recipes.network_pair("cifar100", "interval", pair)
