"""Configurations: every key with its meaning and type, overrides, checks, digests.

A config file is Python with a `get_config()` that starts from `default()` and sets what
differs. Sections that name a component (`data`, `method`, a group of the `cohort`) hold
all keywords of its factory, so that every one of them can be overridden by
`--config.section.key=value` and a new component needs no change here.
"""

import ast
import hashlib
import inspect
import json
from typing import Any

import ml_collections

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError, require
from jaxdistill.inputs import augment, perturb
from jaxdistill.inputs.perturb import pool
from jaxdistill.optim import Chain

ConfigDict = ml_collections.ConfigDict

COMPONENTS = {"data": "data", "method": "methods"}

# Keys that may change between two runs in one workdir: they alter neither the
# parameters nor what is evaluated.
HARMLESS = (
  "log_every",
  "checkpoint_every",
  "keep_checkpoints",
  "eval_batch_size",
  "steps_per_dispatch",
  "mesh.devices",
  "data.dir",
)


def _keywords(function, *given: str) -> dict[str, Any]:
  """Keyword defaults of a function, without those that the program itself gives."""
  parameters = inspect.signature(function).parameters.values()
  return {
    p.name: p.default
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and p.name not in given and p.default is not p.empty
  }


def _filled(
  kind: str, name: str, given: tuple[str, ...], overrides: dict[str, Any]
) -> dict[str, Any]:
  known = {k: v for k, v in registry.defaults(kind, name).items() if k not in given}
  for key in overrides:
    if key not in known:
      raise ConfigError(f"{name} has no key {key!r}{registry.nearest(key, known)}")
  values = {
    **{k: v for k, v in known.items() if v is not inspect.Parameter.empty},
    **overrides,
  }
  missing = [k for k in known if k not in values]
  require(not missing, f"{name} needs {', '.join(missing)}")
  return values


def component(kind: str, name: str, **overrides: Any) -> ConfigDict:
  """Returns the section of a component: its name and every keyword of its factory.

  Args:
    kind: "data" or "methods".
    name: registry name.
    **overrides: keywords that differ from their defaults.

  Raises:
    ConfigError: for an unknown name or keyword.
  """
  return ConfigDict({"name": name, **_filled(kind, name, (), overrides)})


def group(
  model: str,
  members: int = 1,
  init: str = "",
  optimizer: dict[str, Any] | None = None,
  **overrides: Any,
) -> ConfigDict:
  """Returns the section of a group of the cohort: `members` networks of one architecture.

  Args:
    model: registry name, or "package.module:factory".
    members: how many.
    init: published weights to start from, see `pretrained.load`: one path for all
      members, or one for each, separated by commas; "" starts from random ones.
    optimizer: keys of the section `optimizer` that differ for this group.
    **overrides: keywords of the factory that differ from their defaults.
  """
  return ConfigDict(
    {
      "model": model,
      "members": members,
      "init": init,
      "optimizer": optimizer or {},
      **_filled("models", model, ("num_classes", "dtype"), overrides),
    }
  )


def network_keys(section: ConfigDict) -> dict[str, Any]:
  """Returns what determines the network of a group: its registry name as "model", and its factory's keywords."""
  return {
    key: value
    for key, value in section.to_dict().items()
    if key not in ("members", "init", "optimizer")
  }


def default(data: str, method: str, **method_kwargs: Any) -> ConfigDict:
  """Returns the configuration that every config file starts from: a cohort has still to be added.

  Args:
    data: registry name of the data set.
    method: registry name of the method.
    **method_kwargs: keywords that differ from the method's defaults.
  """
  config = ConfigDict()
  config.seed = 0  # of everything random; 0 to 2^31 - 1
  config.batch_size = 128  # examples of a step, over all devices
  config.eval_batch_size = (
    500  # examples of an evaluation step; does not change the results
  )
  config.epochs = (
    200.0  # length of the run in epochs (whole batches: the remainder is left out) ...
  )
  config.steps = 0  # ... or in steps, if above 0
  config.log_every = (
    "0.1 epochs"  # durations: "500 steps", "2 epochs" or "30%" of the run
  )
  config.eval_every = "1 epoch"
  config.checkpoint_every = "1 epoch"
  config.keep_checkpoints = 2  # newest ones to keep
  config.dtype = "float32"  # of the networks' arithmetic: float32 or bfloat16; parameters stay float32
  config.label_smoothing = (
    0.0  # share of every label that is spread evenly over the classes
  )
  config.ema_decay = (
    0.0  # of the moving average of the weights that is evaluated and kept; 0: none
  )
  config.update_order = "simultaneous"  # or "sequential": update a member before the next one learns from it
  config.mapping = (
    "auto"  # members under "vmap" or "unroll"; auto is chosen for the backend
  )
  config.steps_per_dispatch = (
    0  # most steps that one call of the device runs; 0 is chosen for the backend
  )
  config.mesh = ConfigDict({"devices": 0})  # devices to use; 0 is all
  config.holdout = (
    0  # examples taken out of the training set, as many of each class; 0 takes none
  )
  config.views = "shared"  # all members see one augmentation of a batch; or "per_member": each its own
  config.data = component("data", data)
  config.cohort = ConfigDict()  # group name -> group(...)
  config.method = component("methods", method, **method_kwargs)
  config.perturb = perturbation(ops=())  # perturbation() is the paper's pool
  config.augment = ConfigDict(_keywords(augment.pad_crop_flip, "fill"))
  config.optimizer = ConfigDict(
    {
      **Chain._field_defaults,
      **registry.defaults("optimizers", "sgd"),
      **registry.defaults("schedules", "step"),
    }
  )
  return config


def perturbation(
  ops: tuple[str, ...] = perturb.DEFAULT_POOL, **overrides: Any
) -> ConfigDict:
  """Returns the section of the stochastic perturbation.

  Args:
    ops: names of the operations in the pool; an empty tuple turns perturbation off.
    **overrides: `every`, `member`, `label_mix`, `space`, or a dict of strengths under
      an operation's name.
  """
  section = ConfigDict(
    {"ops": ops, "space": "pixel", **_keywords(pool.make_perturb, "num_members")}
  )
  for name in registry.list_available("perturb"):
    section[name] = ConfigDict(registry.defaults("perturb", name))
  for name in ops:
    require(
      ":" in name or name in section,
      f"there is no perturbation {name!r}"
      f"{registry.nearest(name, registry.list_available('perturb'))}",
    )
  section.update(overrides)
  return section


def _parse(key: str, text: str, like: Any) -> Any:
  if isinstance(like, str):
    return text
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    names = {
      "true": True,
      "false": False,
      "nan": float("nan"),
      "inf": float("inf"),
      "-inf": float("-inf"),
    }
    value = names.get(text.lower(), text)
  if isinstance(like, (tuple, list)) and isinstance(value, (str, int, float)):
    value = tuple(part.strip() for part in text.split(",") if part.strip())
  return _typed(key, value, like)


def _typed(key: str, value: Any, like: Any) -> Any:
  """Returns `value` as the type of `like`, an integer being a float where one is wanted."""
  if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if isinstance(like, (tuple, list)) and isinstance(value, (tuple, list)):
    return tuple(_typed(key, v, like[0]) if like else v for v in value)
  require(
    type(value) is type(like),
    f"{key} must be {type(like).__name__}, got {value!r} ({type(value).__name__})",
  )
  return value


def apply_overrides(config: ConfigDict, assignments: list[str]) -> None:
  """Applies `key.of.a.section=value` assignments, those that swap a component first.

  Raises:
    ConfigError: for an unknown key, naming the nearest one, or a value of another type.
  """
  pairs = []
  for assignment in assignments:
    key, equals, text = assignment.partition("=")
    require(bool(equals), f"{assignment!r} is not of the form key=value")
    pairs.append((key, text))
  for key, text in sorted(pairs, key=lambda pair: not _swaps(pair[0])):
    *path, leaf = key.split(".")
    section = config
    if (
      len(path) == 3
      and path[0] == "cohort"
      and path[2] == "optimizer"
      and path[1] in config.cohort
    ):
      config.cohort[path[1]].optimizer.update(
        {k: v for k, v in config.optimizer.items() if k == leaf}
      )
    for part in path:
      require(
        isinstance(section, ConfigDict) and part in section,
        f"unknown key {key!r}{_nearest_key(config, key)}",
      )
      section = section[part]
    require(
      isinstance(section, ConfigDict)
      and leaf in section
      and not isinstance(section[leaf], ConfigDict),
      f"unknown key {key!r}{_nearest_key(config, key)}",
    )
    if _swaps(key) and text != section[leaf]:
      _swap(section, leaf, path[0], text)
    else:
      section[leaf] = _parse(key, text, section[leaf])


def _swaps(key: str) -> bool:
  parts = key.split(".")
  return (
    len(parts) == 2
    and parts[0] in COMPONENTS
    and parts[1] == "name"
    or len(parts) == 3
    and parts[0] == "cohort"
    and parts[2] == "model"
  )


def _swap(section: ConfigDict, leaf: str, where: str, name: str) -> None:
  """Gives a section another component: keywords of one name and type keep their values."""
  kind, given = (
    ("models", ("num_classes", "dtype"))
    if where == "cohort"
    else (COMPONENTS[where], ())
  )
  old = section.to_dict()
  known = registry.defaults(kind, name)
  # A keyword of the same name may be something else there, such as a factor and a
  # number of channels.
  fits = lambda k, v: known[k] is inspect.Parameter.empty or type(v) is type(known[k])
  kept = {k: v for k, v in old.items() if k in known and fits(k, v)}
  filled = _filled(kind, name, given, kept)
  own = {leaf, "members", "init", "optimizer"} if kind == "models" else {leaf}
  for key in old.keys() - own:
    del section[key]
  section.update({leaf: name, **filled, **({"init": ""} if kind == "models" else {})})


def flatten(config: dict[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
  """Returns dotted key -> value."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, (dict, ConfigDict)):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return flat


def _nearest_key(config: ConfigDict, key: str) -> str:
  flat = flatten(config)
  leaves = {k for k in flat if k.rpartition(".")[0] == key.rpartition(".")[0]}
  return registry.nearest(key, leaves or flat)


def load_config(path: str, assignments: list[str] = ()) -> ConfigDict:
  """Reads a config file, applies overrides and checks the result."""
  module = registry.load_file(path)
  require(hasattr(module, "get_config"), f"config file {path!r} has no get_config()")
  config = module.get_config()
  apply_overrides(config, list(assignments))
  check_config(config)
  return config


def check_config(config: ConfigDict) -> None:
  """Checks keys, types and ranges of what does not belong to a component.

  Raises:
    ConfigError: one line with everything that is wrong.
  """
  reference, problems = default(config.data.name, config.method.name), []
  for name, section in config.cohort.items():
    differing = {
      key: reference.optimizer[key]
      for key in section.get("optimizer", {})
      if key in reference.optimizer
    }
    reference.cohort[name] = group(section.model, optimizer=differing)
  known, flat = flatten(reference), flatten(config)
  for key, value in flat.items():
    try:
      require(key in known, f"unknown key {key!r}{_nearest_key(reference, key)}")
      _typed(
        key,
        tuple(value) if isinstance(value, list) else value,
        tuple(known[key]) if isinstance(known[key], list) else known[key],
      )
    except ConfigError as error:
      problems.append(str(error))
  problems += [f"{key} is missing" for key in known if key not in flat]
  rules = (
    {
      "seed": (0 <= config.seed < 2**31, "must be in 0..2^31-1"),
      "batch_size": (config.batch_size >= 1, "must be at least 1"),
      "eval_batch_size": (config.eval_batch_size >= 1, "must be at least 1"),
      "steps": (config.steps >= 0, "must be at least 0"),
      "epochs": (
        0 < config.epochs < float("inf") or config.steps > 0,
        "must be a finite number above 0",
      ),
      "keep_checkpoints": (config.keep_checkpoints >= 1, "must be at least 1"),
      "dtype": (config.dtype in ("float32", "bfloat16"), "must be float32 or bfloat16"),
      "update_order": (
        config.update_order in ("simultaneous", "sequential"),
        "must be simultaneous or sequential",
      ),
      "holdout": (config.holdout >= 0, "must be at least 0"),
      "label_smoothing": (0 <= config.label_smoothing < 1, "must be in [0, 1)"),
      "ema_decay": (0 <= config.ema_decay < 1, "must be in [0, 1)"),
      "views": (
        config.views in ("shared", "per_member"),
        "must be shared or per_member",
      ),
      "mapping": (
        config.mapping in ("auto", "vmap", "unroll"),
        "must be auto, vmap or unroll",
      ),
      "perturb.space": (
        config.perturb.space in ("pixel", "normalized"),
        "must be pixel or normalized",
      ),
      "cohort": (len(config.cohort) > 0, "needs at least one group"),
      **{
        f"cohort.{name}.members": (section.members >= 1, "must be at least 1")
        for name, section in config.cohort.items()
      },
    }
    if not problems
    else {}
  )
  problems += [
    f"{key} {rule}, got {flat.get(key, 'none')!r}"
    for key, (ok, rule) in rules.items()
    if not ok
  ]
  require(not problems, "; ".join(problems))


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """Lists the keys whose values differ between two plain configurations, harmless ones left out."""
  old, new = flatten(old), flatten(new)
  keys = sorted((old.keys() | new.keys()) - set(HARMLESS))
  return [
    f"{key}: there {old.get(key, 'absent')!r}, here {new.get(key, 'absent')!r}"
    for key in keys
    if old.get(key) != new.get(key)
  ]


def config_digest(config: ConfigDict) -> str:
  """Returns the SHA-256 of what determines a run: all keys but the harmless ones."""
  flat = {key: value for key, value in flatten(config).items() if key not in HARMLESS}
  return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
