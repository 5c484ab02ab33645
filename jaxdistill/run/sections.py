"""Sections of a config that name components.

`data`, `method`, a group of the `cohort`, `optimizer`, `augment` and `perturb` hold the
keywords of what they name, and no others. A config thus holds what its run uses, and a
new component needs no change here.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_collections

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError, naming, require, require_choice
from jaxdistill.inputs import perturb
from jaxdistill.inputs.augment import RECIPES
from jaxdistill.inputs.perturb import pool
from jaxdistill.optim import Chain
from jaxdistill.run.keys import (
  REQUIRED,
  Allowed,
  Key,
  at_least,
  between,
  choice,
  filled,
  function_keys,
  of_channels,
  parameter_keys,
  with_type,
)

if TYPE_CHECKING:

  class ConfigDict(ml_collections.ConfigDict):
    """For the type checker, which cannot know the types of keys."""

    def __getattr__(self, attribute: str) -> Any:
      """Returns a section, or the value of a key."""

    def __getitem__(self, key: str) -> Any:
      """Returns a section, or the value of a key."""
else:
  ConfigDict = ml_collections.ConfigDict

COMPONENTS = {"data": "data", "method": "methods"}
"""Sections that hold a name and the keywords of what it names, and nothing else."""

POOLS = ("augment", "perturb")
"""Sections that hold the names of operations, and a subsection for each of them."""

GROUP_KEYS = (
  Key("model", REQUIRED, "name of the network", annotation=str),
  Key("members", 1, "how many of it", at_least(1)),
  Key(
    "init",
    "",
    "files of published weights to start from: one for all members, or one for each, "
    "separated by commas; empty starts from random weights",
  ),
  Key(
    "mean",
    (),
    "of the three channels, by which its images are normalised; empty: that of the "
    "run that its weights are from, else that of the data set",
    of_channels(between(0, 1, "[0, 1]")),
  ),
  Key(
    "std",
    (),
    "standard deviation of the three channels; given together with `mean`",
    of_channels(Allowed(lambda value: 0 < value <= 1, "in (0, 1]")),
  ),
)
"""The keys of every group, beside the keywords of its network and `optimizer`."""

PERTURB_KEYS = (
  Key("ops", (), "names of the operations in the pool; without any, none is applied"),
  Key(
    "space",
    "pixel",
    "where operations are applied: to pixels in [0, 1], or after normalisation",
    choice("pixel", "normalized"),
  ),
)
"""The keys of `perturb`, beside the keywords of the pool and of its operations."""

AUGMENT_KEYS = (
  Key(
    "ops",
    (),
    "names of the operations, in the order in which they are applied to the images of "
    "all members",
    annotation=tuple[str, ...],
  ),
)
"""The keys of `augment`, beside the keywords of its operations."""

OPTIMIZER_KEYS = (
  Key(
    "learning_rate_per",
    0,
    "images of a batch that `learning_rate` is meant for: the peak is learning_rate * "
    "batch_size / learning_rate_per, also where a group or a method has a learning "
    "rate of its own; 0: it is as given",
    at_least(0),
  ),
)
"""The keys of every `optimizer`, beside those of `Chain` and of what it names."""


_RESERVED = {
  "data": ("name",),
  "methods": ("name",),
  "models": ("name", "tx", "mapping", "average", *(key.name for key in GROUP_KEYS)),
}
"""What a component's keywords cannot be called: keys of its section, and arguments of
what builds it."""


def component_keys(kind: str, name: str) -> dict[str, Key]:
  """Returns the keywords of a component.

  Args:
    kind: a key of `registry.KINDS`.
    name: registry name.

  Raises:
    ConfigError: if there is no such component, or a keyword has the name of something
      else.
  """
  keys = parameter_keys(registry.keywords(kind, name))
  for taken in _RESERVED.get(kind, ()):
    require(
      taken not in keys,
      f"{name} has a keyword {taken!r}, but that is another key of the section: rename "
      "the keyword",
    )
  return keys


def component(kind: str, name: str, **overrides: Any) -> ConfigDict:
  """Returns the section of a component: its name and every keyword of its factory.

  Args:
    kind: "data" or "methods".
    name: registry name.
    **overrides: keywords that differ from their defaults.

  Raises:
    ConfigError: for an unknown name or keyword, or a required one that is not given.
  """
  keys = component_keys(kind, name)
  return ConfigDict({"name": name, **_complete(name, keys, overrides)})


def group(
  model: str,
  members: int = 1,
  init: str = "",
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  optimizer: Mapping[str, Any] | None = None,
  **overrides: Any,
) -> ConfigDict:
  """Returns the section of a group: `members` networks of one architecture.

  Args:
    model: registry name, or "package.module:factory".
    members: how many.
    init: published weights to start from, see `pretrained.load`: one path for all
      members, or one for each, separated by commas; "" starts from random ones.
    mean: of the three channels, by which its images are normalised; empty: that of the
      run that its weights are from, else that of the data set.
    std: standard deviation of the three channels; given together with `mean`.
    optimizer: keys of the section `optimizer` that differ for this group.
    **overrides: keywords of the factory that differ from their defaults.

  Raises:
    ConfigError: for an unknown name or keyword, or a required one that is not given.
  """
  keys = component_keys("models", model)
  return ConfigDict(
    {
      "model": model,
      "members": members,
      "init": init,
      "mean": tuple(mean),
      "std": tuple(std),
      "optimizer": dict(optimizer or {}),
      **_complete(model, keys, overrides),
    }
  )


def new_group(model: str) -> dict[str, Any]:
  """Returns the keys of a group of one network, but for required keywords.

  Args:
    model: registry name, or "package.module:factory".

  Raises:
    ConfigError: for an unknown name.
  """
  own = {key.name: key for key in GROUP_KEYS}
  keys = own | component_keys("models", model)
  return {"optimizer": {}, **filled(keys, {"model": model})}


def network_keys(section: ConfigDict) -> dict[str, Any]:
  """Returns what determines the network of a group.

  Its registry name as "model", and the keywords of its factory.
  """
  keys = section.to_dict()
  for other in ("members", "init", "mean", "std", "optimizer"):
    keys.pop(other, None)
  return keys


# The optimiser.


def optimizer_keys(
  name: str, schedule: str, section: str = "optimizer"
) -> dict[str, Key]:
  """Returns the keys of every optimiser, of this one and of its schedule.

  Args:
    name: of the optimiser.
    schedule: its name.
    section: of the config, for errors.

  Raises:
    ConfigError: for an unknown name, or a keyword that two of them have.
  """
  keys = {}
  for field, default in Chain._field_defaults.items():
    keys[field] = Key(field, default, annotation=Chain.__annotations__[field])
  keys |= {key.name: key for key in OPTIMIZER_KEYS}
  for part, kind, chosen in (
    ("name", "optimizers", name),
    ("schedule", "schedules", schedule),
  ):
    with naming(f"{section}.{part}"):
      own = component_keys(kind, chosen)
      for key in own:
        require(
          key not in keys,
          f"{chosen} has a keyword {key!r}, but that is another key of the section: "
          "rename the keyword",
        )
    keys.update(own)
  return keys


def optimizer(
  name: str = "sgd", schedule: str = "step", **overrides: Any
) -> ConfigDict:
  """Returns the section of the optimiser.

  The keys that go with all of them, its own keywords and its schedule's.

  Args:
    name: registry name of the optimiser.
    schedule: registry name of the schedule.
    **overrides: keys that differ from their defaults.

  Raises:
    ConfigError: for an unknown name or key, or a required one that is not given.
  """
  keys = optimizer_keys(name, schedule)
  values = {"name": name, "schedule": schedule, **overrides}
  return ConfigDict(_complete("optimizer", keys, values))


def switch_optimizer(
  section: Mapping[str, Any], *, name: str, schedule: str
) -> dict[str, Any]:
  """Returns the keys of a section `optimizer` with another optimiser or schedule.

  Those that go with all of them stay. Keywords of one name and type go along if they
  were changed from their default: SGD's 0.9 must not become RMSProp's momentum.

  Args:
    section: the keys before.
    name: of the optimiser after.
    schedule: its name after.
  """
  keys = optimizer_keys(name, schedule)
  common = [*Chain._fields, *(key.name for key in OPTIMIZER_KEYS)]
  kept = {key: section[key] for key in common if key in section}
  kept |= {"name": name, "schedule": schedule}
  for kind, old, new in (
    ("optimizers", section["name"], name),
    ("schedules", section["schedule"], schedule),
  ):
    before = component_keys(kind, old)
    changed = {}
    for key in before:
      if key in section and (old == new or section[key] != before[key].default):
        changed[key] = section[key]
    kept |= changed if old == new else _fitting(component_keys(kind, new), changed)
  return filled(keys, kept)


def group_optimizer(
  section: Mapping[str, Any], differing: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns all keys of an optimiser that differs from the run's in some of them.

  Args:
    section: the run's section `optimizer`.
    differing: those keys; they may name another optimiser or schedule.
  """
  switched = switch_optimizer(
    section,
    name=differing.get("name", section["name"]),
    schedule=differing.get("schedule", section["schedule"]),
  )
  return {**switched, **differing}


def peak_rate(keys: Mapping[str, Any], batch_size: int) -> float:
  """Returns the learning rate at the schedule's peak, for a batch size.

  Args:
    keys: all keys of an optimiser.
    batch_size: of the run.
  """
  images = keys["learning_rate_per"]
  if not images:
    return keys["learning_rate"]
  return keys["learning_rate"] * batch_size / images


# The pools of operations: augmentation and perturbation.


def operation(op: str) -> str:
  """Returns the name of an operation's subsection: that of its function."""
  return op.rpartition(":")[2]


def pool_keys(section: str) -> dict[str, Key]:
  """Returns the keys of `augment` or `perturb` that go with every pool."""
  if section == "augment":
    return {key.name: key for key in AUGMENT_KEYS}
  keys = {key.name: key for key in PERTURB_KEYS}
  return keys | function_keys(pool.make_perturb, "num_members")


def operation_keys(section: str, ops: Sequence[str]) -> dict[str, dict[str, Key]]:
  """Returns subsection -> keywords of every operation in a pool.

  Args:
    section: "augment" or "perturb", which is the kind of its operations as well.
    ops: their names.

  Raises:
    ConfigError: for an unknown operation, or two that would have one subsection.
  """
  taken = pool_keys(section)
  found = {}
  for op in ops:
    subsection = operation(op)
    with naming(f"{section}.ops"):
      require(
        subsection not in found and subsection not in taken,
        f"{op!r} would be another {section}.{subsection}: give every operation once, "
        "and a function of your own a name of its own",
      )
      found[subsection] = component_keys(section, op)
  return found


def perturbation(
  ops: Sequence[str] = perturb.DEFAULT_POOL, **overrides: Any
) -> ConfigDict:
  """Returns the section of the stochastic perturbation.

  Args:
    ops: the operations in the pool, each "name" or "package.module:function"; an empty
      tuple turns perturbation off.
    **overrides: `every`, `member`, `label_mix`, `space`, or a dict of strengths under
      an operation's name, which is the function's for one of your own.

  Raises:
    ConfigError: for an unknown operation or key, or a required one that is not given.
  """
  return _pool_section("perturb", ops, overrides)


def augmentation(
  recipe: str = "cifar", ops: Sequence[str] | None = None, **overrides: Any
) -> ConfigDict:
  """Returns the section of the augmentation of all members' images.

  Args:
    recipe: its operations and their strengths, see `inputs.augment.RECIPES`.
    ops: other operations, each "name" or "package.module:function", in the order in
      which they are applied; those of the recipe keep its strengths.
    **overrides: a dict of strengths under an operation's name, which is the function's
      for one of your own.

  Raises:
    ConfigError: for an unknown recipe, operation or key.
  """
  require_choice(**{"augment.recipe": (recipe, tuple(RECIPES))})
  strengths = RECIPES[recipe]
  if ops is None:
    ops = tuple(strengths)
  combined = {}
  for op in ops:
    combined[operation(op)] = dict(strengths.get(op, {}))
  for name, given in overrides.items():
    combined[name] = combined.get(name, {}) | given
  return _pool_section("augment", ops, combined)


def _pool_section(
  section: str, ops: Sequence[str], overrides: Mapping[str, Any]
) -> ConfigDict:
  """Returns a section with a pool of operations.

  Args:
    section: "augment" or "perturb".
    ops: the operations.
    overrides: keys of the section, and a mapping of strengths for each operation.

  Raises:
    ConfigError: for an unknown operation or key, or a required one that is not given.
  """
  common = pool_keys(section)
  operations = operation_keys(section, ops)
  for key in overrides:
    known = [*common, *operations]
    require(key in known, f"{section} has no key {key!r}{registry.nearest(key, known)}")
  given = {key: value for key, value in overrides.items() if key in common}
  keys = filled(common, {"ops": tuple(ops), **given})
  for name, own in operations.items():
    keys[name] = _complete(name, own, overrides.get(name, {}))
  return ConfigDict(keys)


# Other components in the place of those that a section names.


def switch_component(section: ConfigDict, kind: str, name: str) -> dict[str, Any]:
  """Returns the keys of `data` or `method` with another component.

  Keywords of one name and type keep their values.
  """
  keys = component_keys(kind, name)
  return {"name": name, **filled(keys, _fitting(keys, section))}


def switch_network(section: ConfigDict, model: str) -> dict[str, Any]:
  """Returns the keys of a group with another network, which starts from random ones.

  Keywords of one name and type keep their values.
  """
  keys = component_keys("models", model)
  return {
    "model": model,
    "members": section.members,
    "init": "",
    "mean": (),
    "std": (),
    "optimizer": section.optimizer,
    **filled(keys, _fitting(keys, section)),
  }


def switch_operations(
  name: str, section: ConfigDict, ops: Sequence[str]
) -> dict[str, Any]:
  """Returns the keys of `augment` or `perturb` with another pool.

  Operations that were in it keep their strengths.

  Args:
    name: of the section.
    section: its keys before.
    ops: the operations after.
  """
  switched = filled(pool_keys(name), section.to_dict()) | {"ops": tuple(ops)}
  for op, keys in zip(ops, operation_keys(name, ops).values(), strict=True):
    kept = section[operation(op)] if op in section.ops else {}
    switched[operation(op)] = filled(keys, kept)
  return switched


def _fitting(
  keys: Mapping[str, Key], values: Mapping[str, Any] | ConfigDict
) -> dict[str, Any]:
  """Returns the values whose name and type are those of a key.

  A keyword of the same name may be something else there, such as a factor and a number
  of channels.
  """
  fitting = {}
  for name, key in keys.items():
    if name in values and type(values[name]) is type(key.example):
      fitting[name] = values[name]
  return fitting


def _complete(
  owner: str, keys: Mapping[str, Key], values: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a value for every key: the given one or the default.

  Raises:
    ConfigError: for a value without a key, or a required key without a value.
  """
  for name in values:
    if name not in keys:
      raise ConfigError(f"{owner} has no key {name!r}{registry.nearest(name, keys)}")
  result = filled(keys, values)
  missing = [name for name in keys if name not in result]
  require(not missing, f"{owner} needs {', '.join(missing)}")
  return result


# All of them.


def section_keys(config: ConfigDict) -> dict[str, Key]:
  """Returns the keys that a config's components bring along, by their dotted names.

  Args:
    config: a configuration; other keys than the names of components may be absent.

  Raises:
    ConfigError: for the name of a component that is missing or unknown.
  """
  found = {}

  def add(prefix: str, keys: Mapping[str, Key]) -> None:
    for name, key in keys.items():
      found[f"{prefix}.{name}"] = key

  for section, kind in COMPONENTS.items():
    name = _named(config, section, "name")
    add(section, {"name": Key("name", REQUIRED, annotation=str)})
    with naming(f"{section}.name"):
      add(section, component_keys(kind, name))

  name = _named(config, "optimizer", "name")
  schedule = _named(config, "optimizer", "schedule")
  add("optimizer", optimizer_keys(name, schedule))

  for name in _section(config, "cohort"):
    section = f"cohort.{name}"
    model = _named(config, section, "model")
    add(section, {key.name: key for key in GROUP_KEYS})
    with naming(f"{section}.model"):
      add(section, component_keys("models", model))
    add(f"{section}.optimizer", _group_optimizer_keys(config, name))

  for section in POOLS:
    add(section, pool_keys(section))
    for name, keys in operation_keys(section, _pool(config, section)).items():
      add(f"{section}.{name}", keys)
  return found


def _group_optimizer_keys(config: ConfigDict, name: str) -> dict[str, Key]:
  """Returns the keys that may differ for a group; defaults are those of the run."""
  run = config.optimizer
  own = config.cohort[name].get("optimizer", {})
  chosen = {part: own.get(part, run[part]) for part in ("name", "schedule")}
  section = f"cohort.{name}.optimizer"
  allowed = optimizer_keys(**chosen, section=section)
  inherited = switch_optimizer(run, **chosen) | {
    "name": run.name,
    "schedule": run.schedule,
  }
  keys = {}
  for key, entry in allowed.items():
    default = inherited.get(key, entry.default)
    keys[key] = entry._replace(default=default, optional=True)
  return keys


def _section(config: ConfigDict, path: str) -> ConfigDict:
  """Returns a section.

  Raises:
    ConfigError: if it is missing.
  """
  found = config
  for part in path.split("."):
    require(part in found and isinstance(found[part], ConfigDict), f"{path} is missing")
    found = found[part]
  return found


def _named(config: ConfigDict, path: str, key: str) -> str:
  """Returns the name that a section gives to its component.

  Raises:
    ConfigError: if it is missing, or no text.
  """
  section = _section(config, path)
  require(key in section, f"{path}.{key} is missing")
  return with_type(f"{path}.{key}", section[key], "")


def _pool(config: ConfigDict, path: str) -> tuple[str, ...]:
  """Returns the operations that `augment` or `perturb` names.

  Raises:
    ConfigError: if they are missing, or no texts.
  """
  section = _section(config, path)
  require("ops" in section, f"{path}.ops is missing")
  return with_type(f"{path}.ops", section.ops, ("",))
