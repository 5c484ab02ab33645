r"""When is a method worth using? Digits with 18 training images a class.

    python -m jaxdistill study --config=digits --out=runs/study-digits --jobs=2
    python -m jaxdistill report runs/study-digits

Networks overfit so few images, which is where soft labels and perturbations are said to
help. Three members of two architectures, batch 60, 600 steps, 20 seeds; every seed has
a split of its own, the same in every row.

A perturbed row is compared with independent members under the same perturbations: these
alone help.
"""

from jaxdistill.run import recipes
from jaxdistill.run.config import group, perturbation
from jaxdistill.run.study import Row, Study, rows_of

# Row -> method, steps from one perturbed step to the next (0: never).
ROWS = {
  "independent": ("independent", 0),
  "independent+perturbed": ("independent", 1),
  "dml": ("dml", 0),
  "dml+perturbed": ("dml", 1),
  "competitive": ("competitive", 1),
}


def get_study(seeds="20"):
  rows = []
  for name, (method, every) in ROWS.items():
    rows.append(Row(name, _config(method, every)))
  return Study(
    title="Digits, 18 training images a class",
    rows=tuple(rows),
    seeds=tuple(range(int(seeds))),
    about=__doc__,
    references=rows_of("dml", rows),
  )


def _config(method, every):
  """The recipe with a method, perturbed in every `every`-th step."""
  config = recipes.digits(method)
  config.data.test_fraction = 0.9
  config.batch_size = 60
  config.steps = 600
  config.eval_every = "100%"
  config.checkpoint_every = "50%"
  config.log_every = "10%"
  if every:
    config.perturb = perturbation(ops=recipes.DIGITS_POOL, every=every)
  config.cohort.convnet = group("small.convnet", members=2)
  config.cohort.resnet8 = group("resnet_cifar.resnet8", members=1)
  return config
