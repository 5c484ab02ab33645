r"""KDCL and its baselines, ResNet-32 and WRN-16-2 on CIFAR-100: Table 7.

Guo et al.: Online Knowledge Distillation via Collaborative Learning. CVPR 2020.

    python -m jaxdistill study --config=kdcl --out=runs/kdcl --config.data.dir=DIR
    python -m jaxdistill report runs/kdcl

Ten rows of 200 epochs, five seeds: 50 runs. Wants a GPU; CIFAR-100 lies in its memory.
Not run.

The recipe, and what the paper leaves open of it, is in configs/cifar100_kdcl.py. A
figure of the paper is the median of five runs, a report has the mean of five. DML has
T = 2 here, the paper's for its own methods; it does not say which it took.

With "_icl" each member sees an augmentation of its own. Nothing is perturbed. "general"
holds 5,000 images out, in the paper as here, which its control trains on.

Left out: "2 distill 1" and "1 distill 2" (a trained network teaches another one), ONE
and CLNN.
"""

from jaxdistill.run.config import load_config
from jaxdistill.run.study import Row, Study, from_per_cent, rows_of

# Row -> row of the config file, and per cent of ResNet-32 and of WRN-16-2.
ROWS = {
  "independent": ("independent", 69.9, 72.2),
  "dml": ("dml", 73.3, 74.8),
  "kdcl-naive": ("naive", 73.7, 74.8),
  "kdcl-naive_icl": ("naive_icl", 73.8, 74.9),
  "kdcl-linear": ("linear", 73.4, 74.6),
  "kdcl-linear_icl": ("linear_icl", 73.6, 74.9),
  "kdcl-min_logit": ("min_logit", 73.0, 74.1),
  "kdcl-min_logit_icl": ("min_logit_icl", 73.5, 74.6),
  "kdcl-general": ("general", 74.0, 75.2),
  "kdcl-general_icl": ("general_icl", 74.3, 75.5),
}


def get_study():
  rows = []
  for name, (argument, resnet32, wrn) in ROWS.items():
    config = load_config(f"cifar100_kdcl:{argument}")
    published = from_per_cent({"resnet32": resnet32, "wrn": wrn})
    rows.append(Row(name, config, published))
  return Study(
    title="KDCL, table 7: CIFAR-100",
    rows=tuple(rows),
    seeds=(0, 1, 2, 3, 4),
    about=__doc__,
    references=rows_of("dml", rows),
  )
