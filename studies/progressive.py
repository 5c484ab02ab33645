r"""Progressive self-distillation on CIFAR-100: Table 1.

Chottananurak et al.: Progressive Self-Knowledge Distillation with Mutual Learning.

    python -m jaxdistill study --config=progressive --out=runs/progressive \
      --config.data.dir=DIR
    python -m jaxdistill report runs/progressive

Three networks under all subsets of PS-KD, BYOT and DMFL: 24 rows of 300 epochs, three
seeds, 72 runs; `--only='resnet18-*'` is a third of it. Wants a GPU; CIFAR-100 and the
past predictions, 20 MB, lie in its memory. Not run.

The recipe, and what the paper leaves open of it, is in configs/cifar100_self_kd.py. It
does not say how many runs a figure is of; three seeds are ours. Its errors are given
here as accuracies, its ECE as a fraction, its AURC not times 1000; its times depended
on what else ran on its GPUs and are left out.

There is one network in a run, which is its own teacher. Nothing is perturbed.
"""

from jaxdistill.run.config import ConfigDict, group, load_config
from jaxdistill.run.study import Row, Study

# Row -> argument of the config file, in the paper's order.
PARTS = {
  "independent": "none",
  "byot": "byot",
  "dmfl": "dmfl",
  "ps_kd": "pskd",
  "ps_kd+byot": "pskd,byot",
  "ps_kd+dmfl": "pskd,dmfl",
  "byot+dmfl": "byot,dmfl",
  "ps_kd+byot+dmfl": "pskd,byot,dmfl",
}

# Network -> top-1 and top-5 error in per cent, NLL, ECE in per cent, AURC times 1000,
# in the order of the parts.
TABLE1 = {
  "resnet18": (
    (21.41, 5.57, 0.87, 5.14, 56.92),
    (21.89, 5.64, 1.00, 11.24, 53.79),
    (21.61, 5.45, 0.87, 5.31, 57.13),
    (19.94, 4.79, 0.79, 4.21, 50.44),
    (20.67, 4.66, 0.78, 7.42, 50.91),
    (20.02, 4.73, 0.80, 4.52, 50.55),
    (21.18, 5.47, 1.02, 11.74, 54.89),
    (20.03, 4.16, 0.72, 4.15, 49.86),
  ),
  "resnet50": (
    (21.96, 5.21, 0.89, 8.75, 57.24),
    (19.03, 4.38, 0.94, 11.51, 48.32),
    (20.13, 4.96, 0.85, 8.63, 51.20),
    (20.19, 4.50, 0.77, 4.03, 50.76),
    (17.92, 3.94, 0.75, 8.96, 46.76),
    (19.12, 4.43, 0.73, 3.51, 47.57),
    (19.70, 4.77, 0.87, 9.79, 48.58),
    (17.52, 3.75, 0.71, 10.00, 46.25),
  ),
  "resnext50": (
    (19.25, 4.48, 0.81, 7.49, 48.13),
    (19.09, 4.54, 0.84, 9.62, 46.66),
    (19.41, 4.43, 0.82, 7.45, 47.72),
    (18.79, 4.20, 0.74, 4.85, 48.52),
    (18.36, 4.34, 0.80, 9.99, 46.50),
    (19.25, 4.14, 0.75, 5.18, 47.46),
    (19.30, 4.23, 0.88, 9.86, 47.98),
    (18.27, 4.11, 0.72, 10.32, 45.71),
  ),
}


def get_study():
  rows = []
  for network, lines in TABLE1.items():
    for (name, parts), line in zip(PARTS.items(), lines, strict=True):
      config = _config(network, parts)
      rows.append(Row(f"{network}-{name}", config, _published(network, line)))
  return Study(
    title="Progressive self-distillation, table 1: CIFAR-100",
    rows=tuple(rows),
    seeds=(0, 1, 2),
    about=__doc__,
  )


def _config(network, parts):
  """A network with some of the parts."""
  changes = []
  if parts == "none":
    # The same as a method without any part, and known to be a control.
    changes.append("method.name=independent")
  config = load_config(f"cifar100_self_kd:{parts}", changes)
  config.cohort = ConfigDict()
  config.cohort[network] = group(f"resnet.{network}", stem="cifar")
  return config


def _published(network, line):
  """A line of the table in the units of our metrics."""
  top1_error, top5_error, nll, ece, aurc = line
  return {
    network: round(1 - top1_error / 100, 6),
    f"top5/{network}": round(1 - top5_error / 100, 6),
    f"nll/{network}": nll,
    f"ece/{network}": round(ece / 100, 6),
    f"aurc/{network}": round(aurc / 1000, 6),
  }
