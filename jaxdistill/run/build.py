"""From a checked config to the objects of an experiment.

Everything that can be refused is refused here.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from jaxdistill.core import registry
from jaxdistill.core.durations import MOST_STEPS, Clock
from jaxdistill.core.method import GroupSpec, Method
from jaxdistill.core.types import (
  Batch,
  Group,
  MakeViews,
  Perturb,
  TrainState,
  TrainStep,
)
from jaxdistill.data import Dataset, Split, Streamed, hold_out, keep_few
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import make_spec, member_names, spread_members
from jaxdistill.engine.dispatch import common_period
from jaxdistill.engine.evaluate import make_eval_step, make_forward
from jaxdistill.engine.measures import CLASSIFICATION, Task
from jaxdistill.engine.modules import Optimizers, owner_group
from jaxdistill.engine.retrieval import retrieval
from jaxdistill.engine.sampling import Sampler, make_sampler
from jaxdistill.engine.survey import Surveyor
from jaxdistill.engine.train_step import init_state, make_train_step
from jaxdistill.errors import ConfigError, foreign, naming, readable, require
from jaxdistill.inputs.augment.pool import Augmentation, make_augment
from jaxdistill.inputs.normalize import Channels, Normalization
from jaxdistill.inputs.perturb.pool import make_perturb
from jaxdistill.inputs.views import make_views
from jaxdistill.optim import make_optimizer, make_schedule, parameter_names
from jaxdistill.run import normalization, pretrained, room
from jaxdistill.run.config import ConfigDict, check_config, network_keys
from jaxdistill.run.divergence import Watch
from jaxdistill.run.pretrained import InitialWeights
from jaxdistill.run.sections import group_optimizer, operation, peak_rate

# Steps that one call runs where the config does not say. On a CPU a loop around the
# step costs about what the dispatches cost that it saves, and a signal would wait for
# its end; on accelerators the dispatch is what a small network waits for. See
# benchmarks/step.py.
MAX_STEPS_PER_DISPATCH = {"cpu": 1, "gpu": 100, "tpu": 100}

# More is a slip of the fingers; it would take hours to find that out.
MOST_MEMBERS = 4096

# With the convolution that carries its own batching rule, vmap is as fast as unrolling
# on a CPU and compiles faster. For a TPU, XLA makes copies to stack the maps of members
# behind every convolution and to part them before the next, but folds members into
# plain convolutions by itself: it estimates half of the cycles (docs/pods.md). Nothing
# was measured on accelerators.
MAPPING = {"cpu": "vmap", "gpu": "vmap", "tpu": "plain"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Periods:
  """How often things happen, in steps."""

  log: int
  """From one training line to the next."""
  evaluate: int
  """From one evaluation to the next."""
  checkpoint: int
  """From one checkpoint to the next."""
  patience: int
  """From one look at who has diverged to the next; 0: never."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """What a run needs."""

  dataset: Dataset
  """Host arrays, or what is read when it is needed."""
  specs: tuple[GroupSpec, ...]
  """The groups, in member order."""
  models: Mapping[str, str]
  """Group -> registry name of its network."""
  method: Method
  """How they learn from each other."""
  mesh: Mesh
  """Devices."""
  normalizations: Mapping[str, Normalization]
  """Member -> what its images are normalised with."""
  clock: Clock
  """Length of the run and of an epoch."""
  periods: Periods
  """How often the run logs, evaluates and saves."""
  notes: tuple[str, ...]
  """What the user should know about the start."""
  watch: Watch
  """Looks after members that diverge."""
  select_on: str
  """The split on which best weights are chosen: "test" or "holdout"."""
  task: Task
  """What members are measured by."""
  seed: int
  """Of everything random."""
  sampler: Sampler
  """The order in which an epoch visits the training examples."""
  init: Callable[[], TrainState]
  """Initialises the state; compiled at its first call."""
  program: Callable[[], str]
  """Returns what is computed, as text: the initialisation and a step."""
  state: TrainState
  """Shapes, dtypes and shardings of the state."""
  train_step: TrainStep
  """The pure function of one step."""
  eval_step: Callable
  """The jitted function of one evaluation batch."""
  eval_batch_size: int
  """Examples of an evaluation batch, a multiple of the parts that it is split into."""
  surveyor: Surveyor
  """Makes the method's passes between epochs."""
  max_steps_per_dispatch: int
  """Most steps of one call of the device."""

  @property
  def saved_state(self) -> TrainState:
    """What a checkpoint holds of the state: its shapes, dtypes and shardings."""
    if not self.watch.restarts:
      return self.state
    return dataclasses.replace(self.state, intact=self.state.cohort)

  def steps_per_dispatch(self, start: int = 0) -> int:
    """Returns how many steps a dispatch runs: as many as all periods allow.

    Args:
      start: step at which the run begins or goes on.
    """
    periods = dataclasses.astuple(self.periods)
    return common_period((*periods, *self.clock, start), self.max_steps_per_dispatch)

  @property
  def members(self) -> tuple[str, ...]:
    """Names of all members."""
    return member_names(self.specs)


def build(
  config: ConfigDict,
  dataset: Dataset | None = None,
  *,
  devices: Sequence[Any] | None = None,
) -> Experiment:
  """Builds an experiment; reads the data set but compiles nothing.

  Args:
    config: a checked or unchecked configuration.
    dataset: of an experiment with the same data; None reads it.
    devices: those to build for, which need not be there; None: those there are.

  Raises:
    ConfigError, DataError: one line about what is wrong.
  """
  check_config(config)
  mesh = sharding.make_mesh(config.mesh.devices, config.mesh.member, devices=devices)
  platform = sharding.platform_of(mesh)
  _require_divisible(config.batch_size, mesh)
  require(
    config.batch_size % config.batch_norm_groups == 0,
    f"batch_size {config.batch_size} cannot be split into "
    f"batch_norm_groups={config.batch_norm_groups} equal groups: take a divisor",
  )
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

  if dataset is None:
    dataset = read_dataset(config)
  _require_splits(config, method, dataset)
  select_on = _select_on(config, dataset)
  clock = _make_clock(config, len(dataset.train.label))
  sampler = make_sampler(
    config.sampler,
    label=dataset.train.label,
    batch_size=config.batch_size,
    images=config.sampler_images,
    repeats=config.repeats,
  )
  specs = _make_specs(config, clock, dataset.num_classes, platform)
  specs = spread_members(specs, mesh)
  require(
    config.mesh.member == 1 or config.update_order == "simultaneous",
    f"update_order={config.update_order} updates one member after the other, but "
    f"mesh.member={config.mesh.member} spreads them over devices: set "
    "update_order=simultaneous or mesh.member=1",
  )
  optimizers = _make_optimizers(config, clock, method, specs)

  def init(seed, initial=None) -> TrainState:
    return init_state(
      seed,
      specs,
      method,
      optimizers,
      # Augmentation may crop training images to this size.
      image_shape=dataset.test.shape,
      num_classes=dataset.num_classes,
      num_examples=len(dataset.train.label),
      clock=clock,
      initial=initial,
    )

  with foreign("the cohort's networks and the method's state cannot be made"):
    state = jax.eval_shape(init, config.seed)
  state = _with_shardings(mesh, state)
  if devices is None:
    room.require_fits(state)
  weights, notes = _read_initial_weights(config, specs, state, dataset.num_classes)
  initial = {name: pretrained.stack(members) for name, members in weights.items()}
  normalizations, further_notes = normalization.of_members(
    config, specs, Normalization(dataset.mean, dataset.std), weights
  )
  channels = normalization.as_channels(normalizations)
  _check_no_decay(config, state)
  _require_stable_index(config, dataset, state)
  task = CLASSIFICATION
  if dataset.ranking:
    task = retrieval(dataset.ranking)
    require_feature(specs, state.cohort, dataset, task.feature)

  augmentation = _make_augment(config.augment, dataset)
  views = _make_views(
    config, dataset, channels, member_names(specs), augmentation, perturb
  )
  train_step = make_train_step(
    specs,
    method,
    views,
    optimizers=optimizers,
    clock=clock,
    update_order=config.update_order,
    batch_norm_groups=config.batch_norm_groups,
  )
  eval_batch_size = batch_size_of_evaluation(config, dataset, mesh)
  jitted_init = _jit_init(init, state, platform)
  batch = _batch_shapes(config.batch_size, dataset.train)

  def program() -> str:
    lowered = (
      jitted_init.lower(config.seed, initial),
      jax.jit(train_step).lower(state, batch),
    )
    return "\n".join(part.as_text() for part in lowered)

  periods = _make_periods(config, clock)
  return Experiment(
    dataset=dataset,
    specs=specs,
    models={name: group.model for name, group in config.cohort.items()},
    method=method,
    mesh=mesh,
    normalizations=normalizations,
    clock=clock,
    periods=periods,
    notes=(*_describe_rates(config), *notes, *further_notes),
    watch=Watch(specs, periods.patience, config.on_divergence),
    select_on=select_on,
    task=task,
    seed=config.seed,
    sampler=sampler,
    init=functools.partial(jitted_init, config.seed, initial),
    program=program,
    state=state,
    train_step=train_step,
    eval_step=make_eval_step(specs, method.predict, mesh=mesh, task=task, **channels),
    eval_batch_size=eval_batch_size,
    surveyor=Surveyor(specs, method, mesh=mesh, batch_size=eval_batch_size, **channels),
    max_steps_per_dispatch=config.steps_per_dispatch
    or MAX_STEPS_PER_DISPATCH.get(platform, 1),
  )


def read_dataset(config: ConfigDict) -> Dataset:
  """Reads the data set that a config names, of which it keeps and holds out some.

  Raises:
    ConfigError, DataError: one line about what is wrong.
  """
  with readable("data"):
    whole = _component("data", "data", config.data)
  few = keep_few(whole, config.examples_per_class, config.seed)
  return hold_out(few, config.holdout, config.seed)


def batch_size_of_evaluation(config: ConfigDict, dataset: Dataset, mesh: Mesh) -> int:
  """Returns the examples of an evaluation batch, which devices can share evenly."""
  most = min(config.eval_batch_size, len(dataset.test.label))
  return _round_up(most, sharding.batch_parts(mesh))


def _component(section_name: str, kind: str, section: ConfigDict) -> Any:
  """Builds the component that a section names."""
  keywords = section.to_dict()
  name = keywords.pop("name")
  with naming(section_name):
    return registry.resolve(kind, name, **keywords)


def _round_up(number: int, divisor: int) -> int:
  return -(-number // divisor) * divisor


def _require_divisible(batch_size: int, mesh: Mesh) -> None:
  """Raises ConfigError unless the batch can be split evenly over the devices."""
  parts = sharding.batch_parts(mesh)
  if batch_size % parts == 0:
    return
  below = batch_size // parts * parts
  sizes = [str(size) for size in (below, below + parts) if size]
  raise ConfigError(
    f"batch_size {batch_size} is not divisible by {parts} devices: take "
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
  """Raises ConfigError for a table of examples without a stable index.

  Nor may an example stand twice in a batch, which would write two rows to one place.
  """
  memory = jax.tree.leaves(state.method.memory, is_leaf=sharding.is_table)
  if not any(sharding.is_table(leaf) for leaf in memory):
    return
  keeps = f"method {config.method.name} keeps a table of the training examples, but"
  require(
    dataset.stable_index,
    f"{keeps} {dataset.name} gives them no stable index: use one that does, or the "
    "variant that remembers weights",
  )
  require(
    config.sampler == "shuffle" and config.repeats == 1,
    f"{keeps} sampler={config.sampler} with repeats={config.repeats} may show one "
    "twice in a batch: set sampler=shuffle and repeats=1",
  )


def require_feature(
  specs: Sequence[GroupSpec],
  cohort: Mapping[str, Group],
  dataset: Dataset,
  feature: str,
) -> None:
  """Raises ConfigError for a network without the feature that is to be compared."""
  image = jax.ShapeDtypeStruct((1, *dataset.test.shape), jnp.uint8)
  forward = make_forward(specs, mean=dataset.mean, std=dataset.std)
  outputs = jax.eval_shape(forward, cohort, image)
  for name, output in outputs.groups.items():
    require(
      feature in output.features,
      f"cohort.{name}: its network returns no feature {feature!r}, by which "
      f"{dataset.name} is searched: add it to its ModelOutput",
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
    patience=clock.steps("patience", config.patience),
  )


def _select_on(config: ConfigDict, dataset: Dataset) -> str:
  """Returns the split on which best weights are chosen."""
  if dataset.ranking:
    require(
      config.select_on != "holdout",
      f"select_on is 'holdout', but {dataset.name} is searched, and has queries in its "
      "test split only: set select_on=test",
    )
    return "test"
  if config.select_on == "auto":
    return "holdout" if dataset.holdout else "test"
  require(
    config.select_on == "test" or bool(dataset.holdout),
    "select_on is 'holdout', but no examples are held out: set holdout to their "
    "number, such as a tenth of the training set",
  )
  return config.select_on


def _batch_shapes(batch_size: int, split: Split | Streamed) -> Batch:
  """Returns the shapes of a batch of a split."""

  def shape(*sizes: int, dtype: Any) -> Any:
    return jax.ShapeDtypeStruct((batch_size, *sizes), dtype)

  return Batch(
    image=shape(*split.shape, dtype=jnp.uint8),
    label=shape(dtype=jnp.int32),
    index=shape(dtype=jnp.int32),
    mask=shape(dtype=jnp.float32),
  )


def _make_augment(section: ConfigDict, dataset: Dataset) -> Augmentation:
  """Builds the augmentation of all members' images.

  Raises:
    ConfigError: if it makes images of another size than those of testing, or crops
      what is read in random crops.
  """
  reads_crops = isinstance(dataset.train, Streamed) and dataset.train.varies
  require(
    not reads_crops or "random_resized_crop" not in section.ops,
    f"{dataset.name} is read in random crops already: take random_resized_crop out of "
    "augment.ops, or have it read without (data.crop)",
  )
  size = dataset.test.shape[:2]
  # However the members normalise the images: these are colours of the data.
  of_data = {"mean": dataset.mean, "std": dataset.std, "size": size}
  ops = {}
  for op in section.ops:
    name = operation(op)
    keywords = section[name].to_dict()
    for argument, value in of_data.items():
      if registry.takes("augment", op, argument):
        keywords[argument] = value
    with naming(f"augment.{name}"):
      ops[name] = registry.resolve("augment", op, **keywords)
  augmentation = make_augment(ops)

  image = jax.ShapeDtypeStruct((1, *dataset.train.shape), jnp.uint8)
  with foreign("augment"):
    augmented = jax.eval_shape(augmentation.augment, jax.random.key(0), image)
  height, width = augmented.shape[1:3]
  require(
    (height, width) == size,
    f"augment.ops makes training images of {height} x {width} pixels, and those of "
    f"testing have {size[0]} x {size[1]}: add random_resized_crop or random_crop",
  )
  return augmentation


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


def _make_optimizers(
  config: ConfigDict, clock: Clock, method: Method, specs: Sequence[GroupSpec]
) -> Optimizers:
  """Returns what gives the modules of every owner their optimiser.

  Raises:
    ConfigError: for keys out of range.
  """
  with foreign("optimizer"):
    make_optimizer(_optimizer_keys(config, config.optimizer, {}), clock)

  def optimizer(owner: str) -> optax.GradientTransformation:
    section = config.optimizer
    spec = owner_group(specs, owner)
    if spec:
      own_keys = config.cohort[spec.name].optimizer
      section = group_optimizer(config.optimizer, own_keys)

    def recipe(**differing: Any) -> optax.GradientTransformation:
      with foreign("optimizer"):
        return make_optimizer(_optimizer_keys(config, section, differing), clock)

    with foreign(f"method {config.method.name}"):
      return method.tx(owner, recipe)

  return optimizer


def _optimizer_keys(
  config: ConfigDict, section: Mapping[str, Any], differing: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the keys of an optimiser, with its learning rate for the batch size.

  Args:
    config: the run's.
    section: the run's section `optimizer`, or a group's.
    differing: keys that are not those of the section.
  """
  keys = group_optimizer(section, differing)
  return {**keys, "learning_rate": peak_rate(keys, config.batch_size)}


def _describe_rates(config: ConfigDict) -> list[str]:
  """Returns a line for every group whose learning rate follows from the batch size."""
  lines = []
  for name, group in config.cohort.items():
    keys = group_optimizer(config.optimizer, group.optimizer)
    if keys["learning_rate_per"]:
      lines.append(
        f"{name} has the learning rate {peak_rate(keys, config.batch_size):g}, which "
        f"is {keys['learning_rate']:g} * {config.batch_size} / "
        f"{keys['learning_rate_per']} (batch_size / optimizer.learning_rate_per)"
      )
  return lines


def _make_specs(
  config: ConfigDict, clock: Clock, num_classes: int, platform: str
) -> tuple[GroupSpec, ...]:
  """Builds the groups, each with the run's optimiser or with its own keys of it."""
  mapping = config.mapping
  if mapping == "auto":
    mapping = MAPPING.get(platform, "vmap")
  specs = []
  for name, group in config.cohort.items():
    keys = _optimizer_keys(config, config.optimizer, group.optimizer)
    with naming(f"cohort.{name}", separator="."), foreign("optimizer"):
      tx = make_optimizer(keys, clock)
      schedule = make_schedule(keys, clock)
    with naming(f"cohort.{name}"):
      spec = make_spec(
        name,
        members=group.members,
        tx=tx,
        mapping=mapping,
        average=config.ema_decay,
        schedule=schedule,
        num_classes=num_classes,
        dtype=jnp.dtype(config.dtype),
        **network_keys(group),
      )
    specs.append(spec)
  return tuple(specs)


def _make_views(
  config: ConfigDict,
  dataset: Dataset,
  channels: Mapping[str, Channels],
  members: Sequence[str],
  augmentation: Augmentation,
  perturb: Perturb,
) -> MakeViews:
  """Builds the function that prepares what each member sees."""
  return make_views(
    augmentation.augment,
    perturb,
    mix=augmentation.mix,
    **channels,
    members=members,
    num_classes=dataset.num_classes,
    space=config.perturb.space,
    per_member=config.views == "per_member",
    smoothing=config.label_smoothing,
  )


def _read_initial_weights(
  config: ConfigDict, specs: Sequence[GroupSpec], state: TrainState, num_classes: int
) -> tuple[dict[str, list[InitialWeights]], list[str]]:
  """Reads the weights that groups start from.

  Returns:
    (group -> weights of each of its members, a line for every file).
  """
  found = {}
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
        with readable(path):
          weights[path] = pretrained.load(
            path,
            one_member,
            num_classes,
            class_position=getattr(spec.model, "class_position", None),
          )
      notes.append(weights[path].describe(spec.name, path, num_classes))
    # One file serves every member of the group.
    if len(paths) == 1:
      paths = paths * spec.size
    found[spec.name] = [weights[path] for path in paths]
  return found, notes


def _check_no_decay(config: ConfigDict, state: TrainState) -> None:
  """Raises ConfigError for a name in `no_decay` that no parameter has."""
  known = set()
  for group in (*state.cohort.values(), *state.method.modules.values()):
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


def _jit_init(init: Callable[..., TrainState], state: TrainState, platform: str) -> Any:
  """Returns the jitted initialisation, which puts every array where it belongs.

  It is (seed, initial weights) -> state: one program serves all seeds.
  """
  # It runs once: on a CPU, compiling it with optimisations takes ten times as long, for
  # random numbers mostly.
  options = None
  if platform == "cpu":
    options = {"xla_backend_optimization_level": 0}
  shardings = jax.tree.map(lambda x: x.sharding, state)

  return jax.jit(init, out_shardings=shardings, compiler_options=options)
