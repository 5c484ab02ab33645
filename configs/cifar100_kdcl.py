"""KDCL-General with ICL, ResNet-32 and WRN-16-2 on CIFAR-100 (Guo et al., CVPR 2020, Table 7).

    python -m jaxdistill.main --config=configs/cifar100_kdcl.py --config.data.dir=DIR

The other rows: `--config.method.name=kdcl.naive` (or `kdcl.linear`, `kdcl.min_logit`) with `--config.holdout=0`, and
`--config.views=shared` for those without ICL; `dml` and `independent` (with `holdout=0 --config.views=shared`) for
the baselines. Table 9 varies `--config.method.weight`, Table 10 adds `--config.augment.cutout=8` (the size is not
stated; 8 is that of the authors of Cutout for CIFAR-100).

Recipe of the paper: 200 epochs, batch 128, learning rate 0.1, a tenth at 100 and 150, momentum 0.9, weight decay
5e-4, T = 2, lambda = 1, 5,000 examples held out; the median of five runs.

Paper, ResNet-32 / WRN-16-2, top-1: alone 69.9 / 72.2, DML 73.3 / 74.8, naive 73.7 / 74.8 (with ICL 73.8 / 74.9),
linear 73.4 / 74.6 (73.6 / 74.9), min-logit 73.0 / 74.1 (73.5 / 74.6), general 74.0 / 75.2 (74.3 / 75.5) %. Not yet
run in full.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group


def get_config():
  config = recipes.cifar("cifar100", "kdcl.general")
  recipes.step_decay(config, epochs=200.0, weight_decay=5e-4, nesterov=False)
  config.holdout = 5000
  config.views = "per_member"
  config.cohort.resnet32 = group("resnet_cifar.resnet32")
  config.cohort.wrn = group("wide_resnet.wrn", depth=16, widen=2)
  return config
