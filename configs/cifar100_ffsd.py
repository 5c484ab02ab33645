"""FFSD, two common ResNet-32 and a leader on CIFAR-100 (Li et al., TNNLS 2022, Tables I and II).

    python -m jaxdistill.main --config=configs/cifar100_ffsd.py --config.data.dir=DIR

Other rows of Table I: `--config.cohort.student.model=resnet_cifar.resnet20` (or resnet56), or `wide_resnet.wrn` with
`--config.cohort.student.depth=40 --config.cohort.student.widen=2`, `googlenet`, or `densenet.densenet40` with
`--config.cohort.student.initial=24`. More students (Fig. 6): `--config.cohort.student.members=4` is three and the
leader. Table IV without diversity: `--config.method.diversity_weight=0`; Table VI without self-distillation:
`--config.method.stages=stage3`.
`--config.method.variant=paper` is the paper's text where the released code differs from it.

Recipe: 300 epochs, batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1, a tenth at 150 and 225, weight decay
1e-4 (fusion 1e-5; self-distillation modules Adam 1e-3).

Paper, top-1, mean of three runs: alone 69.96, common students 74.30 and 74.34, fusion 76.04, leader 74.85 %;
WRN-16-2: 71.97, 75.51 and 75.44, 76.69, 75.81 %. Its column "Ens" counts an image as right if either student is,
which is not what `ensemble` means here. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group


def get_config():
  config = recipes.step_decay(recipes.cifar("cifar100", "ffsd"), epochs=300.0, weight_decay=1e-4)
  config.cohort.student = group("resnet_cifar.resnet32", members=3)  # the last one leads
  return config
