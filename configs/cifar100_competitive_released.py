r"""The rule of the released Competitive-Distillation code (4aaf9b9) on CIFAR-100.

    python -m jaxdistill.main --config=configs/cifar100_competitive_released.py \
      --config.data.dir=DIR

Three ResNet-32. A member learns from all that did better, in every tenth step (the
paper's text says in every one) one member sees an image perturbed by one of the code's
six operations after normalisation, and there is no feature loss. Optimiser, length and
image size are the paper's, so that only the rule differs from
`cifar100_competitive.py:3_resnet32`; the released code itself runs AdamW (1e-3, decay
1e-8, constant), batch 84, 400 epochs, images resized to 224.

Not yet run in full.
"""

from jaxdistill.inputs import perturb
from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation


def get_config():
  config = recipes.cifar("cifar100", "competitive", teachers="all_better", beta=0.0)
  config.perturb = perturbation(
    ops=perturb.RELEASED_POOL,
    every=10,
    space="normalized",
    **perturb.RELEASED_STRENGTHS,
  )
  config.cohort.resnet32 = group("resnet_cifar.resnet32", members=3)
  return config
