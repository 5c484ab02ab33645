"""Configurations: the table of keys, config files, checks, differences, digests.

A config file is Python with a `get_config()`, or a `get_config(argument)`, that starts
from `default()` and sets what differs.
"""

from collections.abc import Iterable, Mapping
import hashlib
import inspect
import json
from typing import Any, NamedTuple

from jaxdistill.core import registry
from jaxdistill.engine.sampling import SAMPLERS
from jaxdistill.errors import ConfigError, foreign, naming, require
from jaxdistill.run.config_files import ConfigFile, find_config
from jaxdistill.run.jax_settings import PRECISIONS
from jaxdistill.run.keys import (
  REQUIRED,
  Key,
  anything,
  at_least,
  between,
  choice,
  count_or_fraction,
  fraction,
  positive,
  with_type,
)
from jaxdistill.run.overrides import apply_overrides, flatten, unknown
from jaxdistill.run.renamed import renamed_sections
from jaxdistill.run.sections import (
  POOLS,
  ConfigDict,
  augmentation,
  component,
  group,
  network_keys,
  optimizer,
  perturbation,
  section_keys,
)

__all__ = [
  "HARMLESS",
  "KEYS",
  "ConfigDict",
  "apply_overrides",
  "augmentation",
  "check_config",
  "completed",
  "component",
  "config_differences",
  "config_digest",
  "default",
  "flatten",
  "group",
  "load_config",
  "network_keys",
  "optimizer",
  "perturbation",
]

KEYS = (
  Key("seed", 0, "of everything random", between(0, 2**31 - 1, "0..2^31-1")),
  Key("batch_size", 128, "examples of a step, over all devices", at_least(1)),
  Key(
    "eval_batch_size",
    500,
    "examples of an evaluation step; does not change the results",
    at_least(1),
  ),
  Key(
    "epochs",
    200.0,
    "length of the run; an epoch is whole batches, the remainder is left out",
    positive(),
  ),
  Key("steps", 0, "length of the run in steps; 0: `epochs` counts", at_least(0)),
  # Durations are read where the length of the run is known.
  Key(
    "log_every",
    "0.1 epochs",
    'from one training line to the next: "500 steps", "2 epochs" or "30%" of the run',
    anything(),
  ),
  Key("eval_every", "1 epoch", "from one evaluation to the next", anything()),
  Key("checkpoint_every", "1 epoch", "from one checkpoint to the next", anything()),
  Key("keep_checkpoints", 2, "how many of the newest are kept", at_least(1)),
  Key(
    "select_on",
    "auto",
    "split on which best weights are chosen; auto: the held-out one if there is one",
    choice("auto", "test", "holdout"),
  ),
  Key(
    "patience",
    "1 epoch",
    "how long a member may go without a finite update, and how often that is looked "
    "at; 0 steps: for ever",
    anything(),
  ),
  Key(
    "on_divergence",
    "quarantine",
    "what then becomes of it: it is held while it is not finite, takes no part any "
    "more, or is restarted from its last intact state",
    choice("hold", "quarantine", "restart"),
  ),
  Key(
    "dtype",
    "float32",
    "computation dtype of the networks; parameters are float32",
    choice("float32", "bfloat16"),
  ),
  Key(
    "matmul_precision",
    "default",
    "of products of float32: by default, accelerators round their factors to 8 bits "
    "(TPU) or 11 (GPU); tensorfloat32: to 11 or more, float32: not at all",
    choice(*PRECISIONS),
  ),
  Key(
    "batch_norm_groups",
    1,
    "groups of examples in a row that batch norms normalise by statistics of their own",
    at_least(1),
  ),
  Key(
    "label_smoothing",
    0.0,
    "probability of every label that is spread evenly over the classes",
    fraction(),
  ),
  Key(
    "ema_decay",
    0.0,
    "of the moving average of the weights, which is then evaluated and kept; 0: none",
    fraction(),
  ),
  Key(
    "update_order",
    "simultaneous",
    "whether members are updated together, or each before the next one learns from it",
    choice("simultaneous", "sequential"),
  ),
  Key(
    "mapping",
    "auto",
    "how the members of a group run; auto is chosen for the backend",
    choice("auto", "vmap", "unroll", "plain"),
  ),
  Key(
    "steps_per_dispatch",
    0,
    "most steps that one call of the device runs; 0 is chosen for the backend",
    at_least(0),
  ),
  Key("mesh.devices", 0, "how many devices are used; 0 is all", anything()),
  Key(
    "mesh.member",
    1,
    "parts that the members of every group are split into, each on devices of its own",
    at_least(1),
  ),
  Key(
    "compilation_cache",
    True,
    "whether compiled programs are kept for the next start, in ~/.cache/jaxdistill "
    "unless JAX_COMPILATION_CACHE_DIR names another directory",
    anything(),
  ),
  Key(
    "profile_steps",
    0,
    "steps of which a profile is written into the working directory, from the third "
    "dispatch on; 0: none",
    at_least(0),
  ),
  Key(
    "examples_per_class",
    0,
    "training examples of each class that are kept, drawn by `seed`, before any are "
    "held out; 0 keeps all",
    at_least(0),
  ),
  Key(
    "holdout",
    0.0,
    "examples taken out of the training set, as many of each class; below 1: the "
    "fraction that is taken of each class; 0 takes none",
    count_or_fraction(),
  ),
  Key(
    "resident_bytes",
    -1,
    "of a device's memory, for splits that are read from files and fit: they are read "
    "once; larger ones are streamed; 0: all of them; -1: half of the memory",
    at_least(-1),
  ),
  Key(
    "sampler",
    "shuffle",
    "order of the training examples: each once in an epoch; every class equally often; "
    "or batches of some classes with `sampler_images` of each",
    choice(*SAMPLERS),
  ),
  Key(
    "sampler_images",
    4,
    "images of each identity in a batch, for sampler=identities",
    at_least(1),
  ),
  Key(
    "repeats",
    1,
    "how often an image stands in a batch, augmented anew each time; epochs keep their "
    "steps and visit fewer images",
    at_least(1),
  ),
  Key(
    "views",
    "shared",
    "whether all members see one augmentation of a batch, or each its own",
    choice("shared", "per_member"),
  ),
)
"""The keys that every config has, beside its sections of components."""

# Integers of a device have 32 bits.
_LARGEST_COUNT = 2**31 - 1

HARMLESS = (
  "log_every",
  "checkpoint_every",
  "keep_checkpoints",
  "eval_batch_size",
  "steps_per_dispatch",
  "mesh.devices",
  "mesh.member",
  "compilation_cache",
  "profile_steps",
  "resident_bytes",
  "data.dir",
)
"""Keys that may change between two runs in one workdir.

They alter neither the parameters nor what is evaluated.
"""


def default(data: str, method: str, **method_kwargs: Any) -> ConfigDict:
  """Returns what every config file starts from: a cohort has still to be added.

  Args:
    data: registry name of the data set.
    method: registry name of the method.
    **method_kwargs: keywords that differ from the method's defaults.
  """
  config = ConfigDict()
  for key in KEYS:
    section, _, leaf = key.name.rpartition(".")
    if section and section not in config:
      config[section] = ConfigDict()
    (config[section] if section else config)[leaf] = key.default
  config.data = component("data", data)
  config.cohort = ConfigDict()  # group name -> group(...)
  config.method = component("methods", method, **method_kwargs)
  config.perturb = perturbation(ops=())  # perturbation() is the paper's pool
  config.augment = augmentation("cifar")
  config.optimizer = optimizer()
  return config


# Config files.


def load_config(path: str, assignments: Iterable[str] = ()) -> ConfigDict:
  """Reads a config file, applies overrides and checks the result.

  Args:
    path: of the file, or the name of one that comes with the package; "file:argument"
      passes `get_config` an argument.
    assignments: `key.of.a.section=value`.

  Raises:
    ConfigError: for a file, an argument, a key or a value that is not there or not
      allowed.
  """
  where, config = call_in_file(find_config(path), "get_config")
  require(
    isinstance(config, ConfigDict),
    f"{where}: get_config returned {type(config).__name__}, not a config",
  )
  with foreign(f"{where}: what get_config returned cannot be read"):
    flatten(config)
  apply_overrides(config, assignments)
  check_config(config)
  return config


def call_in_file(named: ConfigFile, name: str) -> tuple[str, Any]:
  """Calls a function of a config file or study with the argument that it is told.

  Args:
    named: the file and the argument.
    name: of the function.

  Returns:
    (the file, as errors name it; what the function returns).

  Raises:
    ConfigError: if the file has no such function, or that takes no argument or needs
      one, or raises an error.
  """
  file, argument = named
  module = registry.load_file(file)
  where = f"config file {file!r}"
  require(hasattr(module, name), f"{where} has no {name}()")
  function = getattr(module, name)
  require(inspect.isfunction(function), f"{where}: {name} is not a function")
  parameters = inspect.signature(function).parameters
  given = []
  if argument is not None:
    require(bool(parameters), f"{where} takes no argument, got {argument!r}")
    given = [argument]
  try:
    inspect.signature(function).bind(*given)
  except TypeError as error:
    raise ConfigError(f"{where}: {error}: write {file}:ARGUMENT") from error
  with foreign(where, file), naming(where):
    return where, function(*given)


def completed(recorded: Mapping[str, Any]) -> ConfigDict:
  """Returns a recorded configuration, with defaults for keys that it does not have.

  Args:
    recorded: as it is in `config.json`, perhaps of a version with fewer keys.

  Raises:
    ConfigError: if it names a component that is not to be found.
  """
  config = ConfigDict(_as_tuples(recorded))
  values = flatten(config)
  for name, key in _known(config).items():
    if name in values or key.optional or key.default is REQUIRED:
      continue
    *path, leaf = name.split(".")
    section = config
    for part in path:
      if part not in section:
        section[part] = ConfigDict()
      section = section[part]
    section[leaf] = key.default
  return config


def _as_tuples(value: Any) -> Any:
  """Returns a value with tuples in place of the lists that JSON has."""
  if isinstance(value, Mapping):
    return {key: _as_tuples(part) for key, part in value.items()}
  if isinstance(value, list):
    return tuple(_as_tuples(part) for part in value)
  return value


# Checks.


def check_config(config: ConfigDict) -> None:
  """Checks that all keys are there, of their type and in their range.

  Components check the values of their own keywords when they are made.

  Raises:
    ConfigError: one line with everything that is wrong.
  """
  with foreign("the config cannot be read"):
    known = _known(config)
    values = flatten(config)
    renamed = renamed_sections(config, known, values.keys())
  problems = list(renamed.values())
  for name, value in values.items():
    if _parent(name) in renamed:
      continue
    try:
      require(name in known, unknown(name, known))
      with_type(name, value, known[name].example)
    except ConfigError as error:
      problems.append(str(error))
  for name, key in known.items():
    missing = name not in values and not key.optional
    if missing and _parent(name) not in renamed:
      problems.append(_missing(name, key))
  if not len(config.cohort):
    problems.append("cohort needs at least one group")
  if not problems:
    problems = _out_of_range(known, values)
  require(not problems, "; ".join(problems))


def _known(config: ConfigDict) -> dict[str, Key]:
  """Returns dotted name -> key, of all that a configuration has or may have."""
  return {key.name: key for key in KEYS} | section_keys(config)


def _parent(name: str) -> str:
  """Returns the section that a key is in."""
  return name.rpartition(".")[0]


def _missing(name: str, key: Key) -> str:
  """Returns the line about a key that is not there."""
  if key.default is REQUIRED:
    return f"{name} is missing and has no default: set --config.{name}=..."
  return f"{name} is missing"


def _out_of_range(known: Mapping[str, Key], values: Mapping[str, Any]) -> list[str]:
  """Returns a line about every value that its key does not allow."""
  problems = []
  for name, value in values.items():
    # Epochs count only where there is no number of steps.
    if name == "epochs" and values["steps"]:
      continue
    allowed = known[name].allowed
    if not allowed.check(value):
      problems.append(f"{name} must be {allowed.text}, got {value!r}")
    elif type(value) is int and value > _LARGEST_COUNT and not _is_of_host(name):
      problems.append(f"{name} must be at most {_LARGEST_COUNT}, got {value}")
  return problems


def _is_of_host(name: str) -> bool:
  """Whether a key is used on the host only, as those of the data set are."""
  return name.startswith("data.") or name == "resident_bytes"


# What two runs have in common.


def config_differences(
  old: Mapping[str, Any] | ConfigDict, new: Mapping[str, Any] | ConfigDict
) -> list[str]:
  """Lists the keys whose values differ between two configurations.

  Harmless ones are left out. A key that only one of them has is no difference if it is
  at its default, or belongs to a component that is not in use.

  Args:
    old: a configuration, as it is in `config.json`.
    new: another one.
  """
  there = _comparable(old)
  here = _comparable(new)
  differences = []
  for key in sorted((there.values.keys() | here.values.keys()) - set(HARMLESS)):
    if key not in there.values:
      same = here.is_default(key)
    elif key not in here.values:
      same = there.is_default(key)
    else:
      same = there.values[key] == here.values[key]
    if not same:
      before = there.values.get(key, "absent")
      after = here.values.get(key, "absent")
      differences.append(f"{key}: there {before!r}, here {after!r}")
  return differences


class _Comparable(NamedTuple):
  """A configuration as it is compared.

  Attributes:
    values: dotted key -> value, of all that its run uses.
    defaults: dotted key -> default, of all that it could have.
  """

  values: dict[str, Any]
  defaults: dict[str, Any]

  def is_default(self, key: str) -> bool:
    """Whether a key has its default."""
    return key in self.defaults and self.values[key] == self.defaults[key]


def _comparable(config: Mapping[str, Any] | ConfigDict) -> _Comparable:
  """Returns a configuration as it is compared."""
  values = flatten(config)
  try:
    known = _known(_as_config(config))
  except ConfigError:
    # It names components that are not to be found: nothing is known of their keys.
    return _Comparable(values, {})
  used = {}
  for key, value in values.items():
    if key in known or not _of_another_component(key):
      used[key] = value
  defaults = {name: key.default for name, key in known.items()}
  return _Comparable(used, flatten(defaults))


def _as_config(config: Mapping[str, Any] | ConfigDict) -> ConfigDict:
  """Returns a config, also where it is a plain dict."""
  return config if isinstance(config, ConfigDict) else ConfigDict(config)


def _of_another_component(key: str) -> bool:
  """Whether an unknown key belongs to a built-in component that is not in use.

  An operation, an optimiser or a schedule: their keys stood in every config once.
  """
  section, _, leaf = key.rpartition(".")
  pool, _, operation = section.partition(".")
  if pool in POOLS and operation:
    return operation in registry.list_available(pool)
  if section.rpartition(".")[2] != "optimizer":
    return False
  for kind in ("optimizers", "schedules"):
    for name in registry.list_available(kind):
      if leaf in registry.keywords(kind, name):
        return True
  return False


def config_digest(config: ConfigDict) -> str:
  """Returns the SHA-256 of what determines a run: all keys but the harmless ones."""
  flat = {key: value for key, value in flatten(config).items() if key not in HARMLESS}
  return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
