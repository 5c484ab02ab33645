"""PS-KD and DMFL: ResNet-18 on CIFAR-100, row 6 of Table 1 of progressive self-distillation with mutual features.

    python -m jaxdistill.main --config=configs/cifar100_self_kd_pskd_dmfl.py --config.data.dir=DIR

Rows 9 to 24 are the same with `--config.cohort.resnet18.model=resnet.resnet50` or `resnet.resnext50`, and
`--config.cohort.resnet18.stem=cifar`. Recipe: batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1, weight
decay 5e-4; epochs and decay points are not stated: 300, 150 and 225, those of PS-KD, here.

Paper: top-1 error 20.02 %, top-5 error 4.73 %, NLL 0.80, ECE 4.52 %, AURC 50.55e-3. Not yet run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group


def get_config():
  config = recipes.cifar("cifar100", "progressive_self_kd", ps_kd=True, byot=False, dmfl=True)
  config.cohort.resnet18 = group("resnet.resnet18", stem="cifar")
  return recipes.step_decay(config, epochs=300.0, weight_decay=5e-4)
