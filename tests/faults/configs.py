"""Configs of every kind of nonsense: refused in one line, or built and traced."""

from pathlib import Path
import signal
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxdistill.core.durations import MOST_STEPS
from jaxdistill.engine.dispatch import make_dispatch
from jaxdistill.engine.resident import Resident
from jaxdistill.errors import cut, foreign
from jaxdistill.run import recipes, sections
from jaxdistill.run.build import build
from jaxdistill.run.config import (
  ConfigDict,
  apply_overrides,
  check_config,
  flatten,
  load_config,
)
from tests.faults.mutations import Verdict, mutate

# Longer than any of these may take; what hangs is found, and told.
SECONDS = 60
IMAGES = "images.npz"

# Tracing the step takes longer than all the rest.
TRACE_EVERY = 12

# A module of a user who makes mistakes. Each stands where any component may.
LAB = """
import jax.numpy as jnp
from jaxdistill.core import registry

number = 3

def raises(*args, alpha: float = 1.0, **kwargs):
  raise RuntimeError("broken\\nin two lines")

def leaves(*, num_classes=0, dtype=None):
  raise SystemExit(3)

def nothing(*args, **kwargs):
  return None

def text(*, name: str = "x", num_classes=0, dtype=None):
  return name

def itself(*args, **kwargs):
  return itself

def odd_defaults(*args, a=object(), b=jnp.zeros, c={1, 2}, **kwargs):
  return None

def named_like_a_key(*args, name: str = "a", ops: tuple = (), members: int = 1):
  return None

def required(*args, first, second: int, **kwargs):
  return None

class Thing:
  def __init__(self, *args, **kwargs):
    self.min_members = "two"

class Slots:
  __slots__ = ("a",)
"""

BROKEN_LABS = {
  "syntax": "def f(:\n",
  "raising": "1 / 0\n",
  "leaving": "import sys\nsys.exit(3)\n",
  "importing": "import no_such_module_at_all\n",
  "empty": "",
}

TEXTS = (
  *("", " ", "0", "1", "-1", "2", "3", "0.5", "-0.5", "1e-320", "1e400", "-0.0"),
  *("nan", "inf", "-inf", "NaN", "None", "True", "false", "TRUE", "1_0", "0x10", "1j"),
  *(str(2**31), str(2**63), str(-(10**30)), str(10**400), "9" * 5000),
  *("()", "[]", "{}", "(1,", "(1,2)", "[1,'a',None]", "{'a': 1}", "{[]: 1}", "1+2"),
  *("a\0b", "\n", "a\nb", "ü", "日本", "\ud800", "\x1b[31m", "x" * 5000, "a b"),
  *("1,2", "1,,2", "a,b", ",", "50%", "-5 steps", "1e9 epochs", f"{'9' * 400} steps"),
  *("0 steps", "1 steps", "0%", "101%", "5 epoch", "½ epochs", "٣ steps"),
  *("[" * 3000, "(" * 300, "-" * 3000 + "1", "noise(", "noise(a=", "noise(1)", ")("),
  *("noise(stddev=nan)", "noise,noise", "mixup(alpha=1)", "noise(**{'a': 1})"),
  *(":", "a:", ":b", "::", "math:pi", "math:sin", ".:x", "..a:b", "builtins:dict"),
  *("builtins:type", "json:loads", "no.such:thing", "a b:c", "os.path:join", "x\0:y"),
  *("/", "..", "/dev/null", "~", "__import__('os')", "lambda: 0"),
)


def _values() -> list:
  """Python values that a config file may set."""
  within = []
  within.append(within)
  return [
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**63, 10**400, 10**5000, -(10**30)),
    *(0.0, -0.0, 0.5, 1e-320, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", " ", "x" * 5000, "ü\0\n", "\ud800", "nan", ":", "faulty_lab:raises"),
    *([], (), [1, "a"], ["a"] * 500, [None], [[1], [2]], (float("nan"),), within),
    *({}, {"a": 1}, {1: 2}, {"name": "x"}, b"x", {1, 2}, object(), len, 1j),
    *(np.float32(1), np.arange(2), jnp.zeros(()), range(3), Path("x")),
    ml_collections.config_dict.placeholder(int),
    ml_collections.config_dict.required_placeholder(int),
  ]


# Values of the right type, most of them far from what anybody means.
TYPED = {
  bool: (True, False),
  int: (0, 1, -1, 2, 3, 5, 7, 8, 64, 1000, 10**9, 2**31 - 1, 2**31, 2**62, -(2**62)),
  float: (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 0.1, 2.0, 1e-320, 1e-30, 1e30, 1e300, 0.999999999),
    *(float("nan"), float("inf"), -float("inf"), 3.0, 1e9, -1e-9),
  ),
  str: (
    *("", " ", "auto", "none", "x", "stage1", "pooled", "stage2,pooled", "uniform"),
    *("1 steps", "0 steps", "3 epochs", "0.01%", "100%", "1e9 epochs", "99999999999%"),
    *("mean", "sum", "shared", "per_member", "sequential", "unroll", "plain"),
    *("bfloat16",),
    *("ü", "a\0b", "x" * 5000, "normalized", "round_robin", "reflect", "released"),
    *("stage1,stage2,pooled", "all", "cifar", "paper", "weights", "kl", "ce", "mix"),
  ),
  tuple: (
    *((), (0,), (1,), (1, 2), (0.0, 0.0), (2.0, 1.0), (1.0, 2.0), (-1.0, 1.0), (0.5,)),
    *((float("nan"), 1.0), (0.0, float("inf")), (1, 2, 3), ("bias",), ("scale", "")),
    *(("50%", "10%"), ("1 steps",), ("0%", "0%", "0%"), ((1.0, 2.0), (1.0, 2.0))),
  ),
}

NAMES = (
  *("math:pi", ":", "builtins:dict", "", "no_such", "x:y:z", "faulty_lab", "None"),
  *(f"faulty_{name}:f" for name in BROKEN_LABS),
  *("faulty_lab:number", "faulty_lab:raises", "faulty_lab:leaves", "faulty_lab:text"),
  *("faulty_lab:nothing", "faulty_lab:itself", "faulty_lab:odd_defaults"),
  *("faulty_lab:named_like_a_key", "faulty_lab:required", "faulty_lab:Thing"),
  *("faulty_lab:Slots", "faulty_lab:missing", "tests.helpers.my_lab:needs_more"),
  *("tests.helpers.my_lab:returns_pi", "tests.helpers.my_lab:consensus"),
)

BODIES = (
  "",
  "import no_such_module_at_all\n",
  "def get_config(:\n  pass\n",
  "get_config = 3\n",
  "get_config = print\n",
  "class get_config: pass\n",
  "1 / 0\n",
  "raise SystemExit\n",
  "raise ValueError('two\\nlines' * 200)\n",
  "def get_config():\n  return None\n",
  "def get_config():\n  return {'seed': 0}\n",
  "def get_config():\n  return get_config()\n",
  "def get_config():\n  1 / 0\n",
  "def get_config():\n  import no_such_module_at_all\n",
  "def get_config():\n  raise SystemExit(0)\n",
  "def get_config(a, b):\n  return None\n",
  "def get_config(*, a):\n  return None\n",
  "def get_config(*a, **b):\n  return a\n",
  "def get_config():\n  yield 1\n",
  "from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict()\n",
  "from ml_collections import ConfigDict\n"
  "def get_config():\n  return ConfigDict({'cohort': {'a': 1}, 1: 2, 'b': {1: 2}})\n",
  "from jaxdistill.run.config import default\n"
  "def get_config():\n  return default('digits', 'no_such')\n",
  "from jaxdistill.run.config import default, group\n"
  "def get_config():\n  c = default('digits', 'dml')\n  c.cohort.a = 5\n  return c\n",
)


class Draws:
  """Draws the parts of an example, and tells which they were."""

  def __init__(self, what: str, rng: np.random.Generator):
    self._what = what
    self._rng = rng
    self._drawn: list[str] = []

  def pick(self, values):
    """Draws one of several values."""
    value = values[self.below(len(values))]
    self._drawn.append(_short(value))
    return value

  def damage(self, text: str) -> str:
    """Damages a text."""
    changed = mutate(text.encode(), self._rng).decode(errors="replace")
    self._drawn.append(_short(changed))
    return changed

  def below(self, number: int) -> int:
    """Draws an integer from 0 on."""
    return int(self._rng.integers(number))

  def __str__(self) -> str:
    return f"{self._what} ({', '.join(self._drawn)})"


def _short(value) -> str:
  try:
    return cut(repr(value), 40)
  except ValueError:
    return "an integer of many digits"


class TookTooLong(Exception):
  """An example did not end."""


def _write_modules(directory: Path) -> None:
  """Writes the user's modules where they can be imported."""
  (directory / "faulty_lab.py").write_text(LAB)
  for name, source in BROKEN_LABS.items():
    (directory / f"faulty_{name}.py").write_text(source)


def _write_images(path: Path) -> Path:
  """Writes a data set of a few images."""
  rng = np.random.default_rng(0)
  arrays = {}
  for split, size in (("train", 40), ("test", 8)):
    arrays[f"images_{split}"] = rng.integers(0, 256, (size, 8, 8, 3), np.uint8)
    arrays[f"labels_{split}"] = np.arange(size) % 4
  np.savez(path, **arrays)
  return path


def _base(draws: Draws, directory: Path) -> ConfigDict:
  """A small valid config."""
  config = recipes.digits(draws.pick(METHODS))
  images = directory / IMAGES
  config.data = sections.component("data", "npz", path=str(images))
  config.batch_size = 8
  config.steps = 8
  config.mesh.devices = 1
  config.holdout = 8
  config.perturb = sections.perturbation(ops=("mixup", "noise"), every=2)
  config.cohort.convnet = sections.group("small.convnet", members=2, width=4)
  config.cohort.other = sections.group(
    "resnet_cifar.resnet8", width=4, optimizer={"learning_rate": 0.01}
  )
  return config


def _override(draws: Draws, directory: Path) -> ConfigDict:
  """Sets keys as the command line does; returns what was set."""
  config = _base(draws, directory)
  known = [*flatten(config), "perturb.ops", "cohort.other.optimizer.name"]
  named = ("data.name", "method.name", "cohort.convnet.model", "optimizer.name")
  assignments = []
  for _ in range(1 + draws.below(3)):
    key = draws.pick(known)
    text = draws.pick(TEXTS)
    kind = draws.below(8)
    if kind == 0:
      key = draws.pick((*named, "optimizer.schedule", "perturb.ops"))
      text = draws.pick(NAMES)
    elif kind == 1:
      key = draws.pick(TEXTS)
    elif kind == 2:
      key = draws.damage(key)
    assignments.append(f"{key}={text}")
  if draws.below(20) == 0:
    assignments.append(draws.pick(TEXTS))
  apply_overrides(config, assignments)
  return config


def _assign(draws: Draws, directory: Path) -> ConfigDict:
  """Sets, replaces or deletes keys and sections as a config file may."""
  config = _base(draws, directory)
  keys = list(flatten(config))
  for _ in range(1 + draws.below(2)):
    path = draws.pick(keys).split(".")
    # A section as often as a key of it.
    path = path[: 1 + draws.below(len(path))]
    # What a config file raises is told as that file's error.
    with foreign("config file"):
      _assign_at(draws, config, path)
  return config


def _assign_at(draws: Draws, config: ConfigDict, path: list[str]) -> None:
  section = config
  for part in path[:-1]:
    section = section[part]
  with section.unlocked(), section.ignore_type():
    if draws.below(5) == 0:
      del section[path[-1]]
    elif draws.below(5) == 0:
      section[draws.pick(("lr", "extra", "name", "optimizer", ""))] = 1
    else:
      section[path[-1]] = draws.pick(_values())


def _set_typed(draws: Draws, directory: Path) -> ConfigDict:
  """Sets keys to values of their types."""
  config = _base(draws, directory)
  flat = flatten(config)
  for _ in range(1 + draws.below(2)):
    key = draws.pick(list(flat))
    kind = type(flat[key])
    value = draws.pick(TYPED[tuple if kind is list else kind])
    *path, leaf = key.split(".")
    section = config
    for part in path:
      section = section[part]
    with section.ignore_type():
      section[leaf] = value
  return config


def _name(draws: Draws, directory: Path) -> ConfigDict:
  """Names components of a user, whose keys then may be missing."""
  config = _base(draws, directory)
  slots = (
    *(("data", "name"), ("method", "name"), ("optimizer", "name")),
    *(("optimizer", "schedule"), ("cohort.convnet", "model"), ("perturb", "ops")),
  )
  path, key = draws.pick(slots)
  section = config
  for part in path.split("."):
    section = section[part]
  name = draws.pick(NAMES)
  if draws.below(2):
    apply_overrides(config, [f"{path}.{key}={name}"])
    return config
  section[key] = (name,) if key == "ops" else name
  return config


def _read_file(draws: Draws, directory: Path) -> ConfigDict:
  """Reads a config file that is wrong."""
  path = directory / "faulty.py"
  body = draws.pick(BODIES)
  if draws.below(3) == 0:
    body = draws.damage(body)
  path.write_text(body)
  argument = draws.pick(("", "", "", ":", ":a", ":\0", ":a:b"))
  return load_config(f"{path}{argument}")


def _step_shapes(experiment) -> None:
  """Traces the first step; compiles nothing."""
  train = experiment.dataset.train
  dispatch = make_dispatch(
    experiment.train_step,
    experiment.mesh,
    batch_size=8,
    steps_per_epoch=experiment.clock.steps_per_epoch,
    steps_per_dispatch=1,
  )
  order = jax.ShapeDtypeStruct((len(train.label),), jnp.int32)
  dispatch.eval_shape(experiment.state, Resident.flatten(*train), order)


def _problem(config, experiment) -> str:
  """Returns what is wrong with having accepted a config; "" if nothing is."""
  for key, value in flatten(config).items():
    # Epochs do not count beside steps.
    if key == "epochs" and config.steps:
      continue
    if isinstance(value, float) and not np.isfinite(value):
      return f"{key} is {value}"
  periods = experiment.periods
  if min(periods.log, periods.evaluate, periods.checkpoint) < 1:
    return "a period of no steps"
  if not 1 <= experiment.clock.total_steps <= MOST_STEPS:
    return f"{experiment.clock.total_steps} steps"
  for leaf in jax.tree.leaves(experiment.state):
    if leaf.size > 2**40:
      return f"an array of {leaf.size} numbers"
  return ""


KINDS = {
  "typed": _set_typed,
  "typed too": _set_typed,
  "override": _override,
  "value": _assign,
  "name": _name,
  "file": _read_file,
}

METHODS = ("competitive", "dml", "kdcl.min_logit", "ps_kd", "byot", "independent")


def fuzz(count: int, seed: int, directory: Path) -> Verdict:
  """Makes configs, builds those that are accepted, and traces the steps of some.

  Args:
    count: how many.
    seed: of what is drawn.
    directory: an empty one.
  """
  rng = np.random.default_rng(seed)
  _write_images(directory / IMAGES)
  _write_modules(directory)
  sys.path.insert(0, str(directory))
  before = signal.signal(signal.SIGALRM, _too_long)
  verdict = Verdict()
  try:
    for number in range(count):
      kind = list(KINDS)[number % len(KINDS)]
      draws = Draws(f"{kind} {number}", rng)

      def read(number=number, kind=kind, draws=draws):
        signal.alarm(SECONDS)
        try:
          config = KINDS[kind](draws, directory)
          check_config(config)
          experiment = build(config)
          if number % TRACE_EVERY == 0:
            # As the trainer does.
            with foreign("the train step"):
              _step_shapes(experiment)
          return config, experiment
        finally:
          signal.alarm(0)

      verdict.read(draws, read, lambda found: _problem(*found))
  finally:
    signal.signal(signal.SIGALRM, before)
    sys.path.remove(str(directory))
  return verdict


def _too_long(number, frame):
  del number, frame
  raise TookTooLong(f"{SECONDS} s")
