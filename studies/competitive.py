r"""Competitive Distillation: Tables 2, 3 and 4.

Shi et al.: Competitive Distillation: A Simple Learning Strategy for Improving Visual
Classification.

    NAME=competitive:table2,cifar100
    python -m jaxdistill study --config=$NAME --out=runs/table2 --config.data.dir=DIR
    python -m jaxdistill report runs/table2

| argument                       | rows | runs | paper                               |
|--------------------------------|------|------|-------------------------------------|
| table2,cifar100 (the default)  |   50 |  150 | ten cohorts                         |
| table2,cifar10                 |   50 |  150 | the same                            |
| table2,imagenet                |   45 |  135 | nine of them                        |
| table3,cifar100                |   36 |  108 | six pairs                           |
| table3,market1501              |   18 |   54 | three pairs, Rank-1                 |
| table4                         |   50 |  150 | ablation of five pairs on CIFAR-100 |

200 epochs on CIFAR and Market-1501, 100 on ImageNet, three seeds. The paper had eight
A100; ResNets of CIFAR want one GPU, transformers, ResNet-152 and ImageNet several.
`--only='2_resnet32-*'` runs one cohort, `--only='*/seed0'` one seed. Not run.

**Who is perturbed.** In the paper only Competitive Distillation is, and DML in Table 4.
Perturbing helps by itself, so every cohort here also has `independent+perturbed` and
`dml+perturbed`, with the same images: compare `competitive` with these two. One member
is perturbed in every step, as the text says; the released code does that in every tenth
(`--config.perturb.every=10`).

**Recipe.** That of configs/cifar100_competitive.py, market1501_competitive.py and
imagenet_competitive.py; of transformers and Vim that of
cifar100_competitive_transformers.py, with weights from random ones unless
`--config.cohort.vit.init` and the like name files. What the paper leaves open is
described there: epochs, decay and weight decay. How many runs a figure is of it does
not say; three seeds are ours.

**Networks** are those of the sizes in the paper's Table 1, where there are such. Its
MobileNet has the 3.5 M parameters of MobileNetV2, its WRN28-12 the 36.5 M of WRN-28-10.
No WRN has the 25.6 M of its WRN44-8, which is here what its name says. On ImageNet,
ResNet-34 stands for its ResNet-32, and ResNet-50 for its ResNet-44 and ResNet-56, whose
accuracies are like these; the cohort with WRN28-12, which is no network for such
images, is left out.

**Table 3** compares with KD, AT and PESF-KD (a trained network teaches another one),
with NKD and L-MCL: these are left out. Its SD is BYOT, which is trained for both
networks here and published for the first. It has SD twice for ResNet-32 alone, 70.65
and 71.59, and for ResNet-56 alone, 75.79 and 76.07: beside which other network these
stand cannot matter, so this is how far two runs of the paper are apart. It reports "the
best-performing results among all trained networks".

**Table 4** has Net1 only; alone it is that of Table 2. `competitive` has everything,
`-unperturbed` and `-no_features` lack what they say; `dml-features` is DML with the
feature loss. Of MobileNet and ResNet-44, DML has 76.09 here and 76.05 in Table 2.
"""

from jaxdistill.errors import require_choice
from jaxdistill.run import recipes
from jaxdistill.run.config import group
from jaxdistill.run.study import Row, Study, from_per_cent, rows_of

_MOBILENET = {"model": "mobilenet.v2"}
_RESNET32 = {"model": "resnet_cifar.resnet32"}
_RESNET44 = {"model": "resnet_cifar.resnet44"}
_RESNET50 = {"model": "resnet.resnet50"}
_RESNET56 = {"model": "resnet_cifar.resnet56"}
_RESNET152 = {"model": "resnet.resnet152"}

_ON_CIFAR = {
  "resnet32": _RESNET32,
  "resnet44": _RESNET44,
  "resnet56": _RESNET56,
  "resnet152": {"stem": "cifar", **_RESNET152},
  "mobilenet": {"stem": "cifar", **_MOBILENET},
  "wrn28": {"model": "wide_resnet.wrn", "depth": 28, "widen": 10},
  "wrn44": {"model": "wide_resnet.wrn", "depth": 44, "widen": 8},
}

# Data set -> the paper's networks, as groups: name -> keys.
NETWORKS = {
  "cifar10": _ON_CIFAR,
  "cifar100": _ON_CIFAR,
  "imagenet": {
    "resnet34": {"model": "resnet.resnet34"},
    "resnet50": _RESNET50,
    "resnet152": _RESNET152,
    "mobilenet": _MOBILENET,
  },
  "market1501": {
    "resnet32": _RESNET32,
    "resnet44": _RESNET44,
    "resnet56": _RESNET56,
    "resnet152": _RESNET152,
    "mobilenet": _MOBILENET,
  },
}

# Those whose cohorts are in the recipes, under another recipe.
TOKENS = {"ceit_vit": "vit_ceit", "2_ceit": "ceit", "2_vim": "vim"}

# Cohort -> its members in the paper's order, Net1 first.
COHORTS = {
  "2_resnet32": ("resnet32.0", "resnet32.1"),
  "2_mobilenet": ("mobilenet.0", "mobilenet.1"),
  "resnet44_mobilenet": ("resnet44.0", "mobilenet.0"),
  "resnet56_resnet152": ("resnet56.0", "resnet152.0"),
  "ceit_vit": ("ceit.0", "vit.0"),
  "2_ceit": ("ceit.0", "ceit.1"),
  "2_vim": ("vim.0", "vim.1"),
  "resnet32_wrn28_mobilenet": ("resnet32.0", "wrn28.0", "mobilenet.0"),
  "3_resnet32": ("resnet32.0", "resnet32.1", "resnet32.2"),
  "resnet32_resnet44_resnet56": ("resnet32.0", "resnet44.0", "resnet56.0"),
  # Of Table 2 on ImageNet.
  "2_resnet34": ("resnet34.0", "resnet34.1"),
  "resnet50_mobilenet": ("resnet50.0", "mobilenet.0"),
  "resnet50_resnet152": ("resnet50.0", "resnet152.0"),
  "3_resnet34": ("resnet34.0", "resnet34.1", "resnet34.2"),
  "resnet34_2_resnet50": ("resnet34.0", "resnet50.0", "resnet50.1"),
  # Of Tables 3 and 4.
  "resnet32_mobilenet": ("resnet32.0", "mobilenet.0"),
  "resnet32_resnet44": ("resnet32.0", "resnet44.0"),
  "resnet32_resnet56": ("resnet32.0", "resnet56.0"),
  "resnet56_wrn28": ("resnet56.0", "wrn28.0"),
  "resnet152_wrn44": ("resnet152.0", "wrn44.0"),
  "wrn28_wrn44": ("wrn28.0", "wrn44.0"),
  "mobilenet_resnet44": ("mobilenet.0", "resnet44.0"),
  "resnet32_resnet152": ("resnet32.0", "resnet152.0"),
}

# Table 2: data set -> cohort -> per cent alone, with DML, and competitive.
TABLE2 = {
  "cifar10": {
    "2_resnet32": ((91.98, 91.98), (92.36, 92.67), (92.95, 93.05)),
    "2_mobilenet": ((93.63, 93.63), (94.15, 94.28), (94.45, 94.52)),
    "resnet44_mobilenet": ((93.30, 93.63), (93.66, 94.32), (94.02, 94.53)),
    "resnet56_resnet152": ((94.02, 94.43), (94.69, 94.81), (94.65, 94.97)),
    "ceit_vit": ((96.60, 96.19), (97.03, 96.80), (97.44, 97.05)),
    "2_ceit": ((96.60, 96.60), (97.22, 96.93), (97.28, 97.40)),
    "2_vim": ((94.68, 94.68), (95.32, 95.58), (95.53, 95.96)),
    "resnet32_wrn28_mobilenet": (
      (91.98, 96.45, 93.63),
      (92.94, 96.88, 94.58),
      (93.18, 97.21, 94.92),
    ),
    "3_resnet32": (
      (91.98, 91.98, 91.98),
      (92.55, 92.70, 92.78),
      (92.94, 93.16, 93.32),
    ),
    "resnet32_resnet44_resnet56": (
      (91.98, 93.30, 94.02),
      (93.08, 93.54, 94.42),
      (93.08, 93.73, 94.87),
    ),
  },
  "cifar100": {
    "2_resnet32": ((68.73, 68.73), (70.87, 70.83), (71.45, 71.36)),
    "2_mobilenet": ((73.59, 73.59), (75.67, 76.13), (76.22, 76.19)),
    "resnet44_mobilenet": ((72.26, 73.59), (74.96, 76.05), (75.21, 76.61)),
    "resnet56_resnet152": ((73.76, 76.66), (75.31, 78.64), (76.76, 79.80)),
    "ceit_vit": ((86.28, 85.73), (87.77, 86.48), (87.79, 86.98)),
    "2_ceit": ((86.28, 86.28), (87.58, 87.76), (88.30, 88.05)),
    "2_vim": ((84.52, 84.52), (85.61, 85.86), (86.24, 86.43)),
    "resnet32_wrn28_mobilenet": (
      (68.73, 77.57, 73.59),
      (71.07, 78.62, 75.82),
      (71.45, 79.33, 76.15),
    ),
    "3_resnet32": (
      (68.73, 68.73, 68.73),
      (70.26, 69.95, 70.84),
      (70.44, 71.21, 71.49),
    ),
    "resnet32_resnet44_resnet56": (
      (68.73, 72.26, 73.76),
      (69.75, 73.99, 75.06),
      (71.56, 75.48, 76.69),
    ),
  },
  "imagenet": {
    "2_resnet34": ((72.86, 72.86), (73.65, 74.07), (74.35, 74.27)),
    "2_mobilenet": ((74.34, 74.34), (74.96, 75.28), (75.51, 75.55)),
    "resnet50_mobilenet": ((75.96, 74.34), (77.98, 75.66), (78.08, 75.59)),
    "resnet50_resnet152": ((77.05, 77.23), (78.48, 79.31), (78.97, 79.85)),
    "ceit_vit": ((85.47, 84.25), (85.79, 85.34), (86.08, 86.27)),
    "2_ceit": ((85.47, 85.47), (86.11, 86.17), (86.56, 86.33)),
    "2_vim": ((80.46, 80.46), (81.23, 81.37), (81.83, 82.04)),
    "3_resnet34": (
      (72.86, 72.86, 72.86),
      (73.21, 72.90, 73.19),
      (74.26, 74.59, 74.08),
    ),
    "resnet34_2_resnet50": (
      (72.86, 75.96, 77.05),
      (74.37, 76.56, 77.47),
      (74.39, 78.10, 78.94),
    ),
  },
}

# Table 3: data set -> cohort -> per cent alone, of SD (Net1), with DML, competitive.
TABLE3 = {
  "cifar100": {
    "resnet32_mobilenet": ((68.73, 73.59), (70.65,), (70.94, 76.09), (71.42, 76.34)),
    "resnet32_resnet56": ((68.73, 73.76), (71.59,), (71.19, 75.88), (71.37, 76.23)),
    "resnet56_resnet152": ((73.76, 76.66), (75.79,), (75.31, 78.64), (76.76, 79.80)),
    "resnet56_wrn28": ((73.76, 77.57), (76.07,), (75.96, 79.12), (76.63, 79.29)),
    "resnet152_wrn44": ((76.66, 80.12), (78.14,), (79.08, 81.25), (79.47, 81.67)),
    "wrn28_wrn44": ((77.57, 80.12), (78.84,), (79.39, 81.41), (79.82, 81.82)),
  },
  "market1501": {
    "resnet32_mobilenet": ((81.07, 85.01), (83.56,), (84.43, 89.34), (84.65, 89.82)),
    "resnet32_resnet44": ((81.07, 85.66), (83.75,), (84.75, 89.97), (84.86, 90.03)),
    "resnet56_resnet152": ((88.57, 94.77), (89.48,), (90.36, 95.64), (91.28, 96.17)),
  },
}

# Table 4: row -> method, whether a member is perturbed, keywords.
ABLATION = {
  "independent": ("independent", False, {}),
  "independent+perturbed": ("independent", True, {}),
  "dml": ("dml", False, {}),
  "dml-features": ("dml", False, {"feature_weight": 1.0}),
  "dml+perturbed": ("dml", True, {}),
  "dml-features+perturbed": ("dml", True, {"feature_weight": 1.0}),
  "competitive-no_features-unperturbed": ("competitive", False, {"beta": 0.0}),
  "competitive-unperturbed": ("competitive", False, {}),
  "competitive-no_features": ("competitive", True, {"beta": 0.0}),
  "competitive": ("competitive", True, {}),
}

# Cohort -> row -> per cent of Net1.
TABLE4 = {
  "2_resnet32": {
    "independent": 68.73,
    "dml": 70.87,
    "dml-features": 71.09,
    "dml+perturbed": 70.92,
    "dml-features+perturbed": 71.09,
    "competitive-no_features-unperturbed": 71.13,
    "competitive-unperturbed": 71.24,
    "competitive-no_features": 71.37,
    "competitive": 71.45,
  },
  "mobilenet_resnet44": {
    "independent": 73.59,
    "dml": 76.09,
    "dml-features": 76.20,
    "dml+perturbed": 75.78,
    "dml-features+perturbed": 75.53,
    "competitive-no_features-unperturbed": 76.24,
    "competitive-unperturbed": 76.32,
    "competitive-no_features": 76.48,
    "competitive": 76.61,
  },
  "resnet32_resnet152": {
    "independent": 68.73,
    "dml": 71.06,
    "dml-features": 71.11,
    "dml+perturbed": 70.86,
    "dml-features+perturbed": 70.73,
    "competitive-no_features-unperturbed": 71.38,
    "competitive-unperturbed": 71.52,
    "competitive-no_features": 71.67,
    "competitive": 71.84,
  },
  "resnet56_resnet152": {
    "independent": 73.76,
    "dml": 75.31,
    "dml-features": 75.72,
    "dml+perturbed": 76.18,
    "dml-features+perturbed": 76.38,
    "competitive-no_features-unperturbed": 76.12,
    "competitive-unperturbed": 76.43,
    "competitive-no_features": 76.65,
    "competitive": 76.76,
  },
  "2_ceit": {
    "independent": 86.28,
    "dml": 87.58,
    "dml-features": 87.84,
    "dml+perturbed": 87.65,
    "dml-features+perturbed": 87.70,
    "competitive-no_features-unperturbed": 88.03,
    "competitive-unperturbed": 88.12,
    "competitive-no_features": 88.28,
    "competitive": 88.30,
  },
}

ARGUMENTS = (
  "table2,cifar100",
  "table2,cifar10",
  "table2,imagenet",
  "table3,cifar100",
  "table3,market1501",
  "table4",
)


def get_study(table="table2,cifar100"):
  require_choice(table=(table, ARGUMENTS))
  number, _, dataset = table.partition(",")
  if number == "table2":
    rows = _table2(dataset)
  elif number == "table3":
    rows = _table3(dataset)
  else:
    dataset = "cifar100"
    rows = _table4(dataset)
  return Study(
    title=f"Competitive Distillation, {number}: {dataset}",
    rows=tuple(rows),
    seeds=(0, 1, 2),
    about=__doc__,
    references=rows_of("dml", rows),
  )


def _table2(dataset):
  rows = []
  for cohort, (alone, dml, competitive) in TABLE2[dataset].items():
    rows += _compared(dataset, cohort, alone, dml, competitive)
  return rows


def _table3(dataset):
  rows = []
  for cohort, (alone, byot, dml, competitive) in TABLE3[dataset].items():
    rows += _compared(dataset, cohort, alone, dml, competitive)
    rows.append(_row(dataset, cohort, "byot", published=byot))
  return rows


def _table4(dataset):
  rows = []
  for cohort, accuracies in TABLE4.items():
    for name, (method, perturbed, keywords) in ABLATION.items():
      published = ()
      if name in accuracies:
        published = (accuracies[name],)
      rows.append(
        _row(
          dataset,
          cohort,
          method,
          name=name,
          perturbed=perturbed,
          published=published,
          **keywords,
        )
      )
  return rows


def _compared(dataset, cohort, alone, dml, competitive):
  """A cohort under the three methods; without a teacher and with DML also perturbed."""
  return [
    _row(dataset, cohort, "independent", published=alone),
    _row(dataset, cohort, "independent", perturbed=True),
    _row(dataset, cohort, "dml", published=dml),
    _row(dataset, cohort, "dml", perturbed=True),
    _row(
      dataset,
      cohort,
      "competitive",
      name="competitive",
      perturbed=True,
      published=competitive,
    ),
  ]


def _row(
  dataset, cohort, method, *, name="", perturbed=False, published=(), **keywords
):
  """A row; `published` is per cent of the first members in the paper's order."""
  if not name:
    name = method
    if perturbed:
      name += "+perturbed"
  config = _config(dataset, cohort, method, **keywords)
  if perturbed:
    config.perturb = recipes.perturbed_as_in_the_text()
  accuracies = dict(zip(COHORTS[cohort], published, strict=False))
  return Row(f"{cohort}-{name}", config, from_per_cent(accuracies))


def _config(dataset, cohort, method, **keywords):
  """The recipe of a data set with a cohort and a method."""
  if cohort in TOKENS:
    return recipes.compared_on_tokens(dataset, TOKENS[cohort], method, **keywords)
  config = recipes.recipe_compared(dataset, method, **keywords)
  networks = NETWORKS[dataset]
  for member in COHORTS[cohort]:
    name = member.partition(".")[0]
    if name in config.cohort:
      config.cohort[name].members += 1
    else:
      config.cohort[name] = group(**networks[name])
  return config
