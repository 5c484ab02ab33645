"""FFSD, two common students and a leader on CIFAR-100.

Li et al., TNNLS 2022, Tables I and II.

    FILE=configs/cifar100_ffsd.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar100_ffsd.py $DATA
    python -m jaxdistill.main --config=$FILE:resnet20 $DATA
    python -m jaxdistill.main --config=$FILE:resnet56 $DATA
    python -m jaxdistill.main --config=$FILE:wrn_16_2 $DATA
    python -m jaxdistill.main --config=$FILE:wrn_40_2 $DATA
    python -m jaxdistill.main --config=$FILE:googlenet $DATA
    python -m jaxdistill.main --config=$FILE:densenet40 $DATA

The paper's top-1 in per cent, mean of three runs:

| argument               | alone | common students | fusion | leader |
|------------------------|-------|-----------------|--------|--------|
| resnet32 (the default) | 69.96 | 74.30, 74.34    | 76.04  | 74.85  |
| wrn_16_2               | 71.97 | 75.51, 75.44    | 76.69  | 75.81  |

Not yet run in full.

Its column "Ens" counts an image as right if either student is, which is not what
`ensemble` means here. The other arguments are further rows of Table I: resnet20,
resnet56, wrn_40_2, googlenet, and densenet40, whose first convolution has 24 channels.

More students (Fig. 6): `--config.cohort.student.members=4` is three and the leader.
Table IV without diversity: `--config.method.diversity_weight=0`; Table VI without
self-distillation: `--config.method.stages=stage3`. `--config.method.variant=paper` is
the paper's text where the released code differs from it.

Recipe: 300 epochs, batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1, a
tenth at 150 and 225, weight decay 1e-4 (fusion 1e-5; self-distillation modules Adam
1e-3).
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group

# Of Table I: keys of the group.
NETWORKS = {
  "resnet32": {"model": "resnet_cifar.resnet32"},
  "resnet20": {"model": "resnet_cifar.resnet20"},
  "resnet56": {"model": "resnet_cifar.resnet56"},
  "wrn_16_2": {"model": "wide_resnet.wrn", "depth": 16, "widen": 2},
  "wrn_40_2": {"model": "wide_resnet.wrn", "depth": 40, "widen": 2},
  "googlenet": {"model": "googlenet"},
  "densenet40": {"model": "densenet.densenet40", "initial": 24},
}
ROWS = tuple(NETWORKS)


def get_config(network="resnet32"):
  recipes.require_row(network, ROWS)
  config = recipes.cifar("cifar100", "ffsd")
  recipes.step_decay(config, epochs=300.0, weight_decay=1e-4)
  # The last one leads.
  config.cohort.student = group(members=3, **NETWORKS[network])
  return config
