"""From a checked config to the objects of an experiment.

Everything that can be refused is refused here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdistill.core import registry
from jaxdistill.core.durations import MOST_STEPS, Clock
from jaxdistill.core.method import GroupSpec, Method, Recipe
from jaxdistill.core.types import MakeViews, Perturb, TrainState, TrainStep
from jaxdistill.data import Dataset, hold_out
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import InitialVariables, make_spec, member_names
from jaxdistill.engine.evaluate import make_eval_step
from jaxdistill.engine.survey import Surveyor
from jaxdistill.engine.train_step import init_state, make_train_step
from jaxdistill.errors import ConfigError, DataError, foreign, naming, reason, require
from jaxdistill.inputs.augment import pad_crop_flip
from jaxdistill.inputs.perturb.pool import make_perturb
from jaxdistill.inputs.views import make_views
from jaxdistill.optim import make_optimizer, parameter_names
from jaxdistill.run import pretrained, room
from jaxdistill.run.config import ConfigDict, check_config, network_keys
from jaxdistill.run.sections import group_optimizer, operation

# Steps that one call runs where the config does not say. On a CPU a loop around the
# step costs far more than the dispatch it saves; on accelerators the dispatch is what a
# small network waits for. See benchmarks/step.py.
MAX_STEPS_PER_DISPATCH = {"cpu": 1, "gpu": 100, "tpu": 100}

# More is a slip of the fingers; it would take hours to find that out.
MOST_MEMBERS = 4096

# With the convolution that carries its own batching rule, vmap is as fast as unrolling
# on a CPU and compiles faster; not measured elsewhere.
MAPPING = {"cpu": "vmap", "gpu": "vmap", "tpu": "vmap"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Periods:
  """How often things happen, in steps."""

  log: int
  """From one training line to the next."""
  evaluate: int
  """From one evaluation to the next."""
  checkpoint: int
  """From one checkpoint to the next."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """What a run needs."""

  dataset: Dataset
  """Host arrays."""
  specs: tuple[GroupSpec, ...]
  """The groups, in member order."""
  method: Method
  """How they learn from each other."""
  mesh: Mesh
  """Devices."""
  clock: Clock
  """Length of the run and of an epoch."""
  periods: Periods
  """How often the run logs, evaluates and saves."""
  notes: tuple[str, ...]
  """What the user should know about the start."""
  init: Callable[[], TrainState]
  """Initialises the state; compiled at its first call."""
  state: TrainState
  """Shapes, dtypes and shardings of the state."""
  train_step: TrainStep
  """The pure function of one step."""
  eval_step: Callable
  """The jitted function of one evaluation batch."""
  eval_batch_size: int
  """Examples of an evaluation batch, a multiple of the number of devices."""
  surveyor: Surveyor
  """Makes the method's passes between epochs."""
  max_steps_per_dispatch: int
  """Most steps of one call of the device."""

  @property
  def members(self) -> tuple[str, ...]:
    """Names of all members."""
    return member_names(self.specs)


def build(config: ConfigDict) -> Experiment:
  """Builds an experiment; reads the data set but compiles nothing.

  Args:
    config: a checked or unchecked configuration.

  Raises:
    ConfigError, DataError: one line about what is wrong.
  """
  check_config(config)
  mesh = sharding.make_mesh(config.mesh.devices)
  _require_divisible(config.batch_size, mesh)
  method = _component("method", "methods", config.method)
  num_members = sum(group.members for group in config.cohort.values())
  require(
    num_members <= MOST_MEMBERS,
    f"the cohort has {num_members} members, the most are {MOST_MEMBERS}: lower "
    "cohort.<group>.members",
  )
  require(
    num_members >= method.min_members,
    f"method {config.method.name} needs at least {method.min_members} members, the "
    f"cohort has {num_members}: raise cohort.<group>.members",
  )
  perturb = _make_perturb(config.perturb, num_members)

  with _readable("data"):
    dataset = _component("data", "data", config.data)
  dataset = hold_out(dataset, config.holdout, config.seed)
  _require_splits(config, method, dataset)
  clock = _make_clock(config, len(dataset.train.label))
  recipe = _make_recipe(config, clock)
  specs = _make_specs(config, clock, dataset.num_classes)
  with foreign(f"method {config.method.name}"):
    method_tx = method.tx(recipe)

  init = functools.partial(
    init_state,
    config.seed,
    specs,
    method,
    method_tx,
    image_shape=dataset.train.image.shape[1:],
    num_classes=dataset.num_classes,
    num_examples=len(dataset.train.label),
    clock=clock,
  )
  with foreign("the cohort's networks and the method's state cannot be made"):
    state = jax.eval_shape(init)
  room.require_fits(state)
  initial, notes = _read_initial_weights(config, specs, state, dataset.num_classes)
  _check_no_decay(config, state)
  _require_stable_index(config, dataset, state)
  state = _with_shardings(mesh, state)

  views = _make_views(config, dataset, member_names(specs), perturb)
  train_step = make_train_step(
    specs,
    method,
    views,
    method_tx=method_tx,
    clock=clock,
    update_order=config.update_order,
  )
  channels = {"mean": dataset.mean, "std": dataset.std}
  eval_batch_size = _round_up(
    min(config.eval_batch_size, len(dataset.test.label)), mesh.size
  )
  backend = jax.default_backend()
  return Experiment(
    dataset=dataset,
    specs=specs,
    method=method,
    mesh=mesh,
    clock=clock,
    periods=_make_periods(config, clock),
    notes=notes,
    init=_compile_once(init, state, initial),
    state=state,
    train_step=train_step,
    eval_step=make_eval_step(specs, method, mesh=mesh, **channels),
    eval_batch_size=eval_batch_size,
    surveyor=Surveyor(specs, method, mesh=mesh, batch_size=eval_batch_size, **channels),
    max_steps_per_dispatch=config.steps_per_dispatch
    or MAX_STEPS_PER_DISPATCH.get(backend, 1),
  )


def _component(section_name: str, kind: str, section: ConfigDict) -> Any:
  """Builds the component that a section names."""
  keywords = section.to_dict()
  name = keywords.pop("name")
  with naming(section_name):
    return registry.resolve(kind, name, **keywords)


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
  """Tells in one line of a file that cannot be read.

  Raises:
    DataError: in place of the system's error.
  """
  try:
    yield
  except UnicodeEncodeError as error:
    raise DataError(f"{what}: no file can have this name: {reason(error)}") from error
  except OSError as error:
    where = error.filename or "a file"
    raise DataError(f"{what}: {where} cannot be read: {reason(error)}") from error


def _round_up(number: int, divisor: int) -> int:
  return -(-number // divisor) * divisor


def _require_divisible(batch_size: int, mesh: Mesh) -> None:
  """Raises ConfigError unless the batch can be split evenly over the devices."""
  if batch_size % mesh.size == 0:
    return
  below = batch_size // mesh.size * mesh.size
  sizes = [str(size) for size in (below, below + mesh.size) if size]
  raise ConfigError(
    f"batch_size {batch_size} is not divisible by {mesh.size} devices: take "
    f"{' or '.join(sizes)}, or set mesh.devices"
  )


def _require_splits(config: ConfigDict, method: Method, dataset: Dataset) -> None:
  """Raises ConfigError if the method needs held-out examples and there are none."""
  needs_holdout = any(survey.split == "holdout" for survey in method.surveys)
  require(
    bool(dataset.holdout) or not needs_holdout,
    f"method {config.method.name} needs examples that are not trained on: set "
    "holdout to their number, such as a tenth of the training set",
  )


def _require_stable_index(
  config: ConfigDict, dataset: Dataset, state: TrainState
) -> None:
  """Raises ConfigError for a table of examples that have no stable index."""
  memory = jax.tree.leaves(state.method.memory, is_leaf=sharding.is_table)
  require(
    dataset.stable_index or not any(sharding.is_table(leaf) for leaf in memory),
    f"method {config.method.name} keeps a table of the training examples, but "
    f"{dataset.name} gives them no stable index: use one that does, or the variant "
    "that remembers weights",
  )


def _make_clock(config: ConfigDict, num_train: int) -> Clock:
  """Returns the length of the run and of an epoch, in whole batches."""
  steps_per_epoch = num_train // config.batch_size
  require(
    steps_per_epoch > 0,
    f"batch_size {config.batch_size} is larger than the training set of {num_train} "
    "images: make it smaller",
  )
  total = config.steps
  if not total:
    total = config.epochs * steps_per_epoch
  require(
    total <= MOST_STEPS,
    f"the run has {total:.4g} steps, the most are {MOST_STEPS}: lower epochs or steps",
  )
  total = max(1, round(total))
  return Clock(steps_per_epoch=steps_per_epoch, total_steps=total)


def _make_periods(config: ConfigDict, clock: Clock) -> Periods:
  """Returns the run's periods, each at least a step long."""

  def steps(key):
    return max(1, clock.steps(key, config[key]))

  return Periods(
    log=steps("log_every"),
    evaluate=steps("eval_every"),
    checkpoint=steps("checkpoint_every"),
  )


def _make_perturb(section: ConfigDict, num_members: int) -> Perturb:
  """Builds the stochastic perturbation."""
  ops = []
  for op in section.ops:
    strengths = section[operation(op)].to_dict()
    with naming(f"perturb.{operation(op)}"):
      ops.append(registry.resolve("perturb", op, **strengths))
  return make_perturb(
    ops,
    num_members=num_members,
    every=section.every,
    member=section.member,
    label_mix=section.label_mix,
  )


def _make_recipe(config: ConfigDict, clock: Clock) -> Recipe:
  """Returns what builds the run's optimiser with some of its keys replaced.

  Raises:
    ConfigError: for keys out of range.
  """

  def recipe(**keys):
    with foreign("optimizer"):
      return make_optimizer(group_optimizer(config.optimizer, keys), clock)

  recipe()
  return recipe


def _make_specs(
  config: ConfigDict, clock: Clock, num_classes: int
) -> tuple[GroupSpec, ...]:
  """Builds the groups, each with the run's optimiser or with its own keys of it."""
  mapping = config.mapping
  if mapping == "auto":
    mapping = MAPPING.get(jax.default_backend(), "vmap")
  specs = []
  for name, group in config.cohort.items():
    keys = group_optimizer(config.optimizer, group.optimizer)
    with naming(f"cohort.{name}", separator="."), foreign("optimizer"):
      tx = make_optimizer(keys, clock)
    with naming(f"cohort.{name}"):
      spec = make_spec(
        name,
        members=group.members,
        tx=tx,
        unroll=mapping == "unroll",
        average=config.ema_decay,
        num_classes=num_classes,
        dtype=jnp.dtype(config.dtype),
        **network_keys(group),
      )
    specs.append(spec)
  return tuple(specs)


def _make_views(
  config: ConfigDict, dataset: Dataset, members: Sequence[str], perturb: Perturb
) -> MakeViews:
  """Builds the function that prepares what each member sees."""
  return make_views(
    pad_crop_flip(**config.augment, fill=dataset.mean),
    perturb,
    mean=dataset.mean,
    std=dataset.std,
    members=members,
    num_classes=dataset.num_classes,
    space=config.perturb.space,
    per_member=config.views == "per_member",
    smoothing=config.label_smoothing,
  )


def _read_initial_weights(
  config: ConfigDict, specs: Sequence[GroupSpec], state: TrainState, num_classes: int
) -> tuple[InitialVariables, tuple[str, ...]]:
  """Reads the weights that groups start from.

  Returns:
    (weights, a line for every file).
  """
  initial = {}
  notes = []
  for spec in specs:
    paths = [
      path.strip() for path in config.cohort[spec.name].init.split(",") if path.strip()
    ]
    if not paths:
      continue
    require(
      len(paths) in (1, spec.size),
      f"cohort.{spec.name}.init names {len(paths)} files for {spec.size} members: "
      "give one for all or one for each",
    )
    group = state.cohort[spec.name]
    one_member = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
      {"params": group.params, **group.stats},
    )
    weights = {}
    for path in dict.fromkeys(paths):
      with naming(f"cohort.{spec.name}"):
        with _readable(path):
          weights[path] = pretrained.load(path, one_member, num_classes)
      notes.append(weights[path].describe(spec.name, path, num_classes))
    # One file serves every member of the group.
    if len(paths) == 1:
      paths = paths * spec.size
    initial[spec.name] = pretrained.stack([weights[path] for path in paths])
  return initial, tuple(notes)


def _check_no_decay(config: ConfigDict, state: TrainState) -> None:
  """Raises ConfigError for a name in `no_decay` that no parameter has."""
  known = parameter_names(state.method.params)
  for group in state.cohort.values():
    known |= parameter_names(group.params)
  for section in (config, *config.cohort.values()):
    for name in section.optimizer.get("no_decay", ()):
      hint = registry.nearest(name, known)
      require(
        name in known, f"optimizer.no_decay: no network has a parameter {name!r}{hint}"
      )


def _with_shardings(mesh: Mesh, state: TrainState) -> TrainState:
  """Returns the shapes of a state with where each array is placed."""

  def place(x, placement):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)

  return jax.tree.map(place, state, sharding.state_sharding(mesh, state))


def _compile_once(
  init: Callable[..., TrainState], state: TrainState, initial: InitialVariables
) -> Callable[[], TrainState]:
  """Returns the jitted initialisation, which puts every array where it belongs."""
  # It runs once: on a CPU, compiling it with optimisations takes ten times as long, for
  # random numbers mostly.
  options = (
    {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  )
  shardings = jax.tree.map(lambda x: x.sharding, state)

  def initialize(initial: Mapping[str, Any]) -> TrainState:
    return init(initial=initial)

  jitted = jax.jit(initialize, out_shardings=shardings, compiler_options=options)
  return functools.partial(jitted, initial)
