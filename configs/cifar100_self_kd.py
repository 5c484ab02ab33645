"""Progressive self-distillation with mutual features: ResNet-18 on CIFAR-100, Table 1.

Any of its parts: PS-KD, BYOT and DMFL, in any order, with commas between them.

    FILE=configs/cifar100_self_kd.py
    DATA=--config.data.dir=DIR
    python -m jaxdistill.main --config=configs/cifar100_self_kd.py $DATA
    python -m jaxdistill.main --config=$FILE:none $DATA
    python -m jaxdistill.main --config=$FILE:byot $DATA
    python -m jaxdistill.main --config=$FILE:dmfl $DATA
    python -m jaxdistill.main --config=$FILE:pskd $DATA
    python -m jaxdistill.main --config=$FILE:pskd,byot $DATA
    python -m jaxdistill.main --config=$FILE:pskd,dmfl $DATA
    python -m jaxdistill.main --config=$FILE:byot,dmfl $DATA

The paper's top-1 and top-5 error in per cent, negative log-likelihood, expected
calibration error in per cent, and area under the risk-coverage curve times 1000:

| row | argument                     | top-1 | top-5 | NLL  | ECE   | AURC  |
|-----|------------------------------|-------|-------|------|-------|-------|
| 1   | none                         | 21.41 | 5.57  | 0.87 | 5.14  | 56.92 |
| 2   | byot                         | 21.89 | 5.64  | 1.00 | 11.24 | 53.79 |
| 3   | dmfl                         | 21.61 | 5.45  | 0.87 | 5.31  | 57.13 |
| 4   | pskd                         | 19.94 | 4.79  | 0.79 | 4.21  | 50.44 |
| 5   | pskd,byot                    | 20.67 | 4.66  | 0.78 | 7.42  | 50.91 |
| 6   | pskd,dmfl                    | 20.02 | 4.73  | 0.80 | 4.52  | 50.55 |
| 7   | byot,dmfl                    | 21.18 | 5.47  | 1.02 | 11.74 | 54.89 |
| 8   | pskd,byot,dmfl (the default) | 20.03 | 4.16  | 0.72 | 4.15  | 49.86 |

Not yet run in full.

Rows 9 to 24 are the same with `--config.cohort.resnet18.model=resnet.resnet50` or
`resnet.resnext50`, and `--config.cohort.resnet18.stem=cifar`.

Recipe: batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1, weight decay 5e-4;
epochs and decay points are not stated: 300, 150 and 225, those of PS-KD, here.
"""

from jaxdistill.errors import require_choice
from jaxdistill.run import recipes
from jaxdistill.run.config import group

PARTS = ("pskd", "byot", "dmfl")
ROWS = (
  "pskd,byot,dmfl",
  "none",
  "byot",
  "dmfl",
  "pskd",
  "pskd,byot",
  "pskd,dmfl",
  "byot,dmfl",
)


def get_config(parts="pskd,byot,dmfl"):
  chosen = parts.split(",")
  if parts != "none":
    for part in chosen:
      require_choice(part=(part, (*PARTS, "none")))
  config = recipes.cifar(
    "cifar100",
    "progressive_self_kd",
    ps_kd="pskd" in chosen,
    byot="byot" in chosen,
    dmfl="dmfl" in chosen,
  )
  config.cohort.resnet18 = group("resnet.resnet18", stem="cifar")
  return recipes.step_decay(config, epochs=300.0, weight_decay=5e-4)
