"""Finds components by name: the module path below a room is the name.

There is no list to edit. A component is a public function that is annotated with the
kind of thing it returns: `-> Method`, `-> Op`. `"competitive"` is the function
`competitive` in `jaxdistill/methods/competitive.py`, `"kdcl.min_logit"` the function
`min_logit` in `jaxdistill/methods/kdcl.py`, and `"my_lab.idea:make"` any function that
can be imported. Its keyword-only arguments are the keys of its section in a config.
"""

from collections.abc import Callable, Iterable
import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import types
import typing
from typing import Any, NamedTuple

from jaxdistill.errors import ConfigError, foreign


class Kind(NamedTuple):
  """A kind of component.

  Attributes:
    noun: what errors call it.
    package: where the built-in ones are: a package of modules, or one module.
    product: "module:name" of what its factories return: a type, or a union of some.
    flat: whether names leave out the module: for kinds that are sorted into modules for
      the reader only.
    given: keywords that the program passes itself, which are no config keys.
  """

  noun: str
  package: str
  product: str
  flat: bool = False
  given: tuple[str, ...] = ()


KINDS = {
  "methods": Kind("method", "jaxdistill.methods", "jaxdistill.core.method:Method"),
  "models": Kind(
    "model", "jaxdistill.models", "flax.linen:Module", given=("num_classes", "dtype")
  ),
  "data": Kind("data set", "jaxdistill.data", "jaxdistill.data:Dataset"),
  "augment": Kind(
    "augmentation",
    "jaxdistill.inputs.augment",
    "jaxdistill.core.types:AugmentOp",
    flat=True,
    given=("mean", "std", "size"),
  ),
  "perturb": Kind(
    "perturbation", "jaxdistill.inputs.perturb", "jaxdistill.core.types:Op", flat=True
  ),
  "optimizers": Kind(
    "optimiser",
    "jaxdistill.optim.optimizers",
    "optax:GradientTransformation",
    flat=True,
  ),
  "schedules": Kind(
    "schedule", "jaxdistill.optim.schedules", "optax:Schedule", flat=True
  ),
}

# What people call keys in other libraries.
SYNONYMS = {
  "lr": "learning_rate",
  "wd": "weight_decay",
  "bs": "batch_size",
  "batch": "batch_size",
  "num_epochs": "epochs",
  "max_epochs": "epochs",
  "num_steps": "steps",
  "max_steps": "steps",
  "opt": "optimizer",
  "optimiser": "optimizer",
  "lr_schedule": "schedule",
  "scheduler": "schedule",
  "warmup_steps": "warmup",
  "warmup_epochs": "warmup",
  "gamma": "decay",
  "beta1": "b1",
  "beta2": "b2",
  "epsilon": "eps",
  "grad_clip": "clip_norm",
  "clip": "clip_norm",
  "t": "temperature",
  "tau": "temperature",
  "ema": "ema_decay",
  "path": "dir",
  "root": "dir",
  "model_name": "model",
  "precision": "dtype",
}


def closest(name: str, candidates: Iterable[str]) -> str | None:
  """Returns the candidate that `name` is a synonym or a misspelling of, or None."""
  candidates = sorted(candidates)
  *section, leaf = name.split(".")
  synonym = ".".join([*section, SYNONYMS.get(leaf, leaf)])
  if synonym in candidates:
    return synonym
  close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
  return close[0] if close else None


def nearest(name: str, candidates: Iterable[str]) -> str:
  """Returns `; did you mean ...?`, or the candidates where none comes near."""
  candidates = sorted(candidates)
  found = closest(name, candidates)
  if found:
    return f"; did you mean {found!r}?"
  return f"; known are {', '.join(candidates) or 'none'}"


def _import_name(path: str) -> Any:
  """Imports `module:name`."""
  module, _, name = path.partition(":")
  return getattr(importlib.import_module(module), name)


def _makes(function: Callable, product: Any) -> bool:
  """Whether a function is annotated to return the product, or a subclass of it."""
  if "return" not in getattr(function, "__annotations__", {}):
    return False
  returned = typing.get_type_hints(function)["return"]
  ancestry = (returned, *getattr(returned, "__mro__", ()))
  return any(one in ancestry for one in _alternatives(product))


def _alternatives(product: Any) -> tuple[Any, ...]:
  """Returns the types of a union, or the one type that there is."""
  if isinstance(product, types.UnionType):
    return typing.get_args(product)
  return (product,)


def _factories(module: Any, product: Any) -> dict[str, Callable]:
  """Returns the public functions defined in `module` that make the product."""
  found = {}
  for name, value in inspect.getmembers(module, inspect.isfunction):
    defined_here = value.__module__ == module.__name__
    if defined_here and not name.startswith("_") and _makes(value, product):
      found[name] = value
  return found


@functools.cache
def _builtin(kind: str) -> dict[str, Callable]:
  """Returns name -> factory of all built-in components of a kind."""
  package = importlib.import_module(KINDS[kind].package)
  product = _import_name(KINDS[kind].product)
  if not hasattr(package, "__path__"):
    return _factories(package, product)
  found = {}
  for info in pkgutil.iter_modules(package.__path__):
    # What is private to the folder, such as blocks that components share, holds no
    # components.
    if info.name.startswith("_"):
      continue
    module = importlib.import_module(f"{package.__name__}.{info.name}")
    for function, factory in _factories(module, product).items():
      short = KINDS[kind].flat or function == info.name
      name = function if short else f"{info.name}.{function}"
      if name in found:
        raise TypeError(f"two components of {package.__name__} are called {name!r}")
      found[name] = factory
  return found


def list_available(kind: str) -> tuple[str, ...]:
  """Lists the names of all built-in components of a kind, see `KINDS`."""
  return tuple(sorted(_builtin(kind)))


def find(kind: str, name: str) -> Callable:
  """Returns the factory that `name` stands for.

  Args:
    kind: a key of `KINDS`.
    name: module path below its room, or `"package.module:function"` for code elsewhere.

  Raises:
    ConfigError: if there is no such factory, naming the nearest one.
  """
  noun = KINDS[kind].noun
  if ":" in name:
    with foreign(f"{noun} {name!r} cannot be imported"):
      factory = _import_name(name)
    if not inspect.isfunction(factory) and not inspect.isclass(factory):
      raise ConfigError(f"{noun} {name!r} is {type(factory).__name__}, not a function")
    return factory
  if name not in _builtin(kind):
    raise ConfigError(f"there is no {noun} {name!r}{nearest(name, _builtin(kind))}")
  return _builtin(kind)[name]


def load_file(path: str) -> Any:
  """Imports the Python file at `path` as a module of its own.

  Raises:
    ConfigError: if there is no such file, or running it raises an error, with its line.
  """
  if not os.path.isfile(path):
    raise ConfigError(f"there is no config file {path!r}")
  name = os.path.splitext(os.path.basename(path))[0]
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise ConfigError(f"config file {path!r} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  with foreign(f"config file {path!r}", path):
    spec.loader.exec_module(module)
  return module


def keywords(kind: str, name: str) -> dict[str, inspect.Parameter]:
  """Returns the keyword-only arguments of a component but those that the program gives.

  They are its keys in a config.
  """
  own = {}
  factory = find(kind, name)
  try:
    signature = inspect.signature(factory)
  except ValueError as error:
    raise ConfigError(
      f"{KINDS[kind].noun} {name!r} does not tell its arguments: write it in Python"
    ) from error
  for key, parameter in signature.parameters.items():
    keyword_only = parameter.kind is parameter.KEYWORD_ONLY
    if keyword_only and key not in KINDS[kind].given:
      own[key] = parameter
  return own


def defaults(kind: str, name: str) -> dict[str, Any]:
  """Returns key -> default; `inspect.Parameter.empty` marks a required key."""
  return {key: parameter.default for key, parameter in keywords(kind, name).items()}


def takes(kind: str, name: str, argument: str) -> bool:
  """Whether a component takes one of the keywords that the program gives.

  Args:
    kind: a key of `KINDS`.
    name: see `find`.
    argument: one of the kind's `given`.
  """
  return argument in inspect.signature(find(kind, name)).parameters


def bind(kind: str, name: str, /, *args: Any, **kwargs: Any) -> Callable[[], Any]:
  """Returns the factory `name` of `kind` with its arguments, still to be called.

  Args:
    kind: a key of `KINDS`.
    name: see `find`.
    *args: what the kind passes by position.
    **kwargs: config keys, and what the kind passes by keyword.

  Raises:
    ConfigError: for an unknown name or keyword, naming the nearest one, a missing
      keyword, or a function that cannot be called in this way.
  """
  factory = find(kind, name)
  known = defaults(kind, name)
  for key in kwargs:
    if key not in known and key not in KINDS[kind].given:
      raise ConfigError(f"{name} has no key {key!r}{nearest(key, known)}")
  missing = []
  for key, default in known.items():
    if default is inspect.Parameter.empty and key not in kwargs:
      missing.append(key)
  if missing:
    raise ConfigError(f"{name} needs {', '.join(missing)}")
  try:
    inspect.signature(factory).bind(*args, **kwargs)
  except TypeError as error:
    raise ConfigError(
      f"{KINDS[kind].noun} {name!r} cannot be made: its function is called with "
      f"{_call(args, kwargs)}: {error}"
    ) from error
  return functools.partial(factory, *args, **kwargs)


def _call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
  """Describes the arguments of a call."""
  described = [f"{len(args)} by position"] if args else []
  described += kwargs
  return ", ".join(described) or "no arguments"


def require_kind(kind: str, name: str, made: Any) -> None:
  """Raises ConfigError unless a component is of its kind, as far as can be seen."""
  product = _import_name(KINDS[kind].product)
  if not any(_fits(made, one) for one in _alternatives(product)):
    wanted = KINDS[kind].product.partition(":")[2]
    raise ConfigError(
      f"{KINDS[kind].noun} {name!r} returned {type(made).__name__}: it must return "
      f"{wanted}"
    )


def _fits(made: Any, product: Any) -> bool:
  """Whether a component may be of a type, as far as can be seen."""
  if inspect.isclass(product) and not getattr(product, "_is_protocol", False):
    return isinstance(made, product)
  # What is a function can only be seen to be one.
  return callable(made)


def resolve(kind: str, name: str, /, *args: Any, **kwargs: Any) -> Any:
  """Builds the component `name` of `kind`.

  Args:
    kind: a key of `KINDS`.
    name: see `find`.
    *args: what the kind passes by position.
    **kwargs: config keys, and what the kind passes by keyword.

  Raises:
    ConfigError: as `bind` does, or if what the factory returns is of another kind.
  """
  make = bind(kind, name, *args, **kwargs)
  with contextlib.ExitStack() as stack:
    if ":" in name:
      stack.enter_context(foreign(f"{KINDS[kind].noun} {name!r} cannot be made"))
    made = make()
  require_kind(kind, name, made)
  return made
