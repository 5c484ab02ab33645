r"""FFSD on CIFAR-100: Tables I and II.

Li et al.: Distilling a Powerful Student Model via Online Knowledge Distillation. IEEE
TNNLS 2022.

    python -m jaxdistill study --config=ffsd --out=runs/ffsd1 --config.data.dir=DIR
    python -m jaxdistill study --config=ffsd:table2 --out=runs/ffsd2 \
      --config.data.dir=DIR
    python -m jaxdistill report runs/ffsd1

300 epochs, three seeds, as in the paper, which gives means. Table I: seven networks
under two methods, 42 runs of three networks each; `--only='resnet32-*'` is one line of
it. Table II: eight rows, 24 runs. Wants a GPU; CIFAR-100 lies in its memory. Not run.

The recipe is in configs/cifar100_ffsd.py. `student.0` and `student.1` are the paper's
common students, `student.2` is its leader. The paper's column "Ens" counts an image as
right if either student is; nothing here does, so it has no published value.

Table II. DML has two students and T = 2, as FFSD's common students have; the paper does
not say which T it took. The figures of KDCL, 74.30 and 75.50, are those of KDCL's own
paper, of a pair of both networks under a recipe of its own (kdcl.py); here that pair
has the recipe of the others, and a control with the same networks.

Nothing is perturbed.

Left out of Table II: KD and AT (a trained network teaches another one), AFD, AMLN, ONE,
FFL and OKDDip.
"""

from jaxdistill.errors import require_choice
from jaxdistill.run.config import ConfigDict, group, load_config
from jaxdistill.run.study import Row, Study, from_per_cent, rows_of

ARGUMENTS = ("table1", "table2")

# Table I: per cent alone, of the two common students, the fusion and the leader.
TABLE1 = {
  "resnet20": (68.58, 72.07, 71.95, 73.43, 72.70),
  "resnet32": (69.96, 74.30, 74.34, 76.04, 74.85),
  "resnet56": (71.55, 75.64, 75.78, 77.28, 75.80),
  "wrn_16_2": (71.97, 75.51, 75.44, 76.69, 75.81),
  "wrn_40_2": (75.58, 78.85, 78.83, 80.24, 79.14),
  "googlenet": (78.28, 81.51, 81.58, 82.42, 81.60),
  "densenet40": (73.70, 76.87, 77.01, 78.34, 77.39),
}

# Table II: per cent of DML.
DML = {"resnet32": 73.64, "wrn_16_2": 74.63}


def get_study(table="table1"):
  require_choice(table=(table, ARGUMENTS))
  if table == "table1":
    rows = _table1(TABLE1)
    title = "FFSD, table I: CIFAR-100"
  else:
    rows = _table2()
    title = "FFSD, table II: CIFAR-100"
  return Study(
    title=title,
    rows=tuple(rows),
    seeds=(0, 1, 2),
    about=__doc__,
    references=rows_of("dml", rows),
  )


def _table1(networks):
  """Each network under both methods."""
  rows = []
  for network in networks:
    alone, first, second, fusion, leader = TABLE1[network]
    config = load_config(f"cifar100_ffsd:{network}", ["method.name=independent"])
    published = from_per_cent({"student": alone})
    rows.append(Row(f"{network}-independent", config, published))

    config = load_config(f"cifar100_ffsd:{network}")
    published = from_per_cent(
      {
        "student.0": first,
        "student.1": second,
        "student.2": leader,
        "fusion": fusion,
      }
    )
    rows.append(Row(f"{network}-ffsd", config, published))
  return rows


def _table2():
  """The same of two networks, with the methods that are compared."""
  rows = _table1(DML)

  # Two students: their control has a third one, which is as alone as they are.
  two = ["method.name=dml", "method.temperature=2", "cohort.student.members=2"]
  for network, accuracy in DML.items():
    config = load_config(f"cifar100_ffsd:{network}", two)
    published = from_per_cent({"student": accuracy})
    control = f"{network}-independent"
    rows.append(Row(f"{network}-dml", config, published, control))

  config = _pair("independent")
  published = from_per_cent({"resnet32": 69.96, "wrn_16_2": 71.97})
  rows.append(Row("resnet32_wrn_16_2-independent", config, published))
  config = _pair("kdcl.general")
  config.views = "per_member"
  config.holdout = 5000
  published = from_per_cent({"resnet32": 74.30, "wrn_16_2": 75.50})
  rows.append(Row("resnet32_wrn_16_2-kdcl-general_icl", config, published))
  return rows


def _pair(method):
  """ResNet-32 and WRN-16-2 under the recipe of the others."""
  config = load_config("cifar100_ffsd", [f"method.name={method}"])
  config.cohort = ConfigDict()
  config.cohort.resnet32 = group("resnet_cifar.resnet32")
  config.cohort.wrn_16_2 = group("wide_resnet.wrn", depth=16, widen=2)
  return config
