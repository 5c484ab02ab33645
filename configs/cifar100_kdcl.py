"""KDCL and its baselines, ResNet-32 and WRN-16-2 on CIFAR-100.

Guo et al.: Online Knowledge Distillation via Collaborative Learning. CVPR 2020, Table
7.

    FILE=configs/cifar100_kdcl.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar100_kdcl.py $DATA
    python -m jaxdistill.main --config=$FILE:general $DATA
    python -m jaxdistill.main --config=$FILE:naive $DATA
    python -m jaxdistill.main --config=$FILE:naive_icl $DATA
    python -m jaxdistill.main --config=$FILE:linear $DATA
    python -m jaxdistill.main --config=$FILE:linear_icl $DATA
    python -m jaxdistill.main --config=$FILE:min_logit $DATA
    python -m jaxdistill.main --config=$FILE:min_logit_icl $DATA
    python -m jaxdistill.main --config=$FILE:dml $DATA
    python -m jaxdistill.main --config=$FILE:independent $DATA

The paper's top-1 in per cent, ResNet-32 and WRN-16-2, the median of five runs:

| argument                  | paper      |
|---------------------------|------------|
| general_icl (the default) | 74.3, 75.5 |
| general                   | 74.0, 75.2 |
| naive                     | 73.7, 74.8 |
| naive_icl                 | 73.8, 74.9 |
| linear                    | 73.4, 74.6 |
| linear_icl                | 73.6, 74.9 |
| min_logit                 | 73.0, 74.1 |
| min_logit_icl             | 73.5, 74.6 |
| dml                       | 73.3, 74.8 |
| independent               | 69.9, 72.2 |

Not yet run in full.

With ICL each member sees an augmentation of its own. Only "general" holds examples out.
Table 9 varies `--config.method.weight`, Table 10 adds cutout:
`--config.augment.ops=pad_crop,hflip,cutout --config.augment.cutout.side=8` (the size is
not stated; 8 is that of the authors of Cutout for CIFAR-100).

Recipe of the paper: 200 epochs, batch 128, learning rate 0.1, a tenth at 100 and 150,
momentum 0.9, weight decay 5e-4, T = 2 (for DML here as well), lambda = 1, 5,000
examples held out.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group

ROWS = (
  "general_icl",
  "general",
  "naive",
  "naive_icl",
  "linear",
  "linear_icl",
  "min_logit",
  "min_logit_icl",
  "dml",
  "independent",
)


def get_config(row="general_icl"):
  recipes.require_row(row, ROWS)
  if row == "independent":
    config = recipes.cifar("cifar100", "independent")
  elif row == "dml":
    config = recipes.cifar("cifar100", "dml", temperature=2.0)
  else:
    target = row.removesuffix("_icl")
    config = recipes.cifar("cifar100", f"kdcl.{target}")
    if target == "general":
      config.holdout = 5000
  if row.endswith("_icl"):
    config.views = "per_member"
  recipes.step_decay(config, epochs=200.0, weight_decay=5e-4, nesterov=False)
  config.cohort.resnet32 = group("resnet_cifar.resnet32")
  config.cohort.wrn = group("wide_resnet.wrn", depth=16, widen=2)
  return config
