"""From a checked config to the objects of an experiment; everything that can be refused is refused here."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import augment, optim, pool, pretrained, registry, sharding
from jaxdistill import cohort as cohort_lib
from jaxdistill import config as config_lib
from jaxdistill import step as step_lib
from jaxdistill import views as views_lib
from jaxdistill.dataset import Dataset, hold_out
from jaxdistill.errors import ConfigError, naming, require
from jaxdistill.evaluate import make_eval_step
from jaxdistill.protocol import GroupSpec, Method
from jaxdistill.survey import Surveyor
from jaxdistill.types import Table, TrainState

# Steps that one call runs where the config does not say. On a CPU a loop around the step costs far more than
# the dispatch it saves; on accelerators the dispatch is what a small network waits for. See benchmarks/step.py.
MAX_STEPS_PER_DISPATCH = {"cpu": 1, "gpu": 100, "tpu": 100}

# With the convolution that carries its own batching rule, vmap is as fast as unrolling on a CPU and compiles
# faster; not measured elsewhere.
MAPPING = {"cpu": "vmap", "gpu": "vmap", "tpu": "vmap"}


class Plan(NamedTuple):
  """A run in steps."""

  total: int
  per_epoch: int
  log_every: int
  eval_every: int
  checkpoint_every: int

  @property
  def epochs(self) -> int:
    """Epochs begun in the run."""
    return -(-self.total // self.per_epoch)


class Experiment(NamedTuple):
  """What a run needs.

  Attributes:
    dataset: host arrays.
    specs: groups in member order.
    method: the method.
    mesh: device mesh.
    plan: durations in steps.
    notes: what the user should know about the start.
    init: () -> TrainState.
    state: shapes, dtypes and shardings of the state.
    train_step: the pure function of one step.
    eval_step: the jitted function of one evaluation batch.
    eval_batch_size: examples of one, a multiple of the number of devices.
    surveyor: makes the method's passes between epochs.
    steps_limit: most steps of a dispatch.
  """

  dataset: Dataset
  specs: tuple[GroupSpec, ...]
  method: Method
  mesh: Any
  plan: Plan
  notes: list[str]
  init: Callable[[], TrainState]
  state: TrainState
  train_step: Callable
  eval_step: Callable
  eval_batch_size: int
  surveyor: Surveyor
  steps_limit: int


def _keywords(section) -> dict[str, Any]:
  return {key: value for key, value in section.to_dict().items() if key != "name"}


def _component(section_name: str, kind: str, section) -> Any:
  with naming(section_name):
    return registry.resolve(kind, section.name, **_keywords(section))


def _plan(config, num_train: int) -> Plan:
  per_epoch = num_train // config.batch_size
  if not per_epoch:
    raise ConfigError(f"batch_size {config.batch_size} is larger than the training set of {num_train} images: "
                      "make it smaller")
  total = config.steps or max(1, round(config.epochs * per_epoch))
  steps = lambda key: max(1, optim.duration(key, config[key], steps_per_epoch=per_epoch, total_steps=total))
  return Plan(total, per_epoch, *(steps(key) for key in ("log_every", "eval_every", "checkpoint_every")))


def _perturb(section, num_members: int) -> Callable:
  keys = ("every", "member", "label_mix")
  ops = []
  for name in section.ops:
    strengths = section[name].to_dict() if name in section else {}
    with naming(f"perturb.{name}"):
      ops.append(registry.resolve("perturb", name, **strengths))
  return pool.make_perturb(ops, num_members=num_members, **{key: section[key] for key in keys})


def _specs(config, recipe: Callable, num_classes: int) -> tuple[GroupSpec, ...]:
  mapping = config.mapping if config.mapping != "auto" else MAPPING.get(jax.default_backend(), "vmap")
  specs = []
  for name, group in config.cohort.items():
    with naming(f"cohort.{name}"):
      specs.append(cohort_lib.make_spec(
          name, tx=recipe(**group.optimizer.to_dict()), members=group.members, unroll=mapping == "unroll", average=config.ema_decay,
          num_classes=num_classes, dtype=jnp.dtype(config.dtype), **config_lib.network(group)))
  return tuple(specs)


def _given(config, specs: tuple[GroupSpec, ...], state: TrainState, num_classes: int) -> tuple[dict[str, dict], list[str]]:
  """Reads the weights that groups start from: group -> path -> array [K, ...]; and says what was left out."""
  given, notes = {}, []
  for spec in specs:
    paths = [path.strip() for path in config.cohort[spec.name].init.split(",") if path.strip()]
    if not paths:
      continue
    require(len(paths) in (1, spec.size), f"cohort.{spec.name}.init names {len(paths)} files for {spec.size} members: "
            "give one for all or one for each")
    group = state.cohort[spec.name]
    variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), {"params": group.params, **group.stats})
    with naming(f"cohort.{spec.name}"):
      loaded = {path: pretrained.load(path, variables, num_classes) for path in dict.fromkeys(paths)}
    notes += [f"{spec.name} starts from {path}" + (f" but for {left}, which it has for {num_classes} classes" if left else "")
              for path, (_, left) in loaded.items()]
    each = [loaded[path][0] for path in paths] * (spec.size // len(paths))
    given[spec.name] = {key: np.stack([member[key] for member in each]) for key in each[0]}
  return given, notes


def _check_no_decay(config, state: TrainState) -> None:
  names = [name for section in (config, *config.cohort.values()) for name in section.optimizer.get("no_decay", ())]
  known = set().union(*(optim.parameter_names(p) for p in (state.method.params, *(g.params for g in state.cohort.values()))))
  for name in names:
    require(name in known, f"optimizer.no_decay: no network has a parameter {name!r}{registry.nearest(name, known)}")


def build(config) -> Experiment:
  """Builds an experiment; reads the data set but compiles nothing.

  Raises:
    ConfigError, DataError: one line about what is wrong.
  """
  config_lib.check(config)
  mesh = sharding.make_mesh(config.mesh.devices)
  if config.batch_size % mesh.size:
    down = config.batch_size // mesh.size * mesh.size
    raise ConfigError(f"batch_size {config.batch_size} is not divisible by {mesh.size} devices: take "
                      f"{' or '.join(str(b) for b in (down, down + mesh.size) if b)}, or set mesh.devices")
  method = _component("method", "methods", config.method)
  num_members = sum(group.members for group in config.cohort.values())
  if num_members < method.min_members:
    raise ConfigError(f"method {config.method.name} needs at least {method.min_members} members, the cohort has "
                      f"{num_members}: raise cohort.<group>.members")
  perturb_fn = _perturb(config.perturb, num_members)
  dataset = hold_out(_component("data", "data", config.data), config.holdout, config.seed)
  if not dataset.holdout and any(survey.split == "holdout" for survey in method.surveys):
    raise ConfigError(f"method {config.method.name} needs examples that are not trained on: set holdout to their "
                      "number, such as a tenth of the training set")
  plan = _plan(config, len(dataset.train.label))
  recipe = lambda **keys: optim.make_optimizer(**{**config.optimizer.to_dict(), **keys}, steps_per_epoch=plan.per_epoch,
                                               total_steps=plan.total)
  specs = _specs(config, recipe, dataset.num_classes)
  augment_fn = augment.pad_crop_flip(**config.augment, fill=dataset.mean)
  views = views_lib.make_views(augment_fn, perturb_fn, mean=dataset.mean, std=dataset.std,
                               members=cohort_lib.member_names(specs), num_classes=dataset.num_classes,
                               space=config.perturb.space, per_member=config.views == "per_member",
                               smoothing=config.label_smoothing)
  method_tx = method.tx(recipe)
  init = functools.partial(step_lib.init_state, config.seed, specs, method, method_tx,
                           dataset.train.image.shape[1:], dataset.num_classes, len(dataset.train.label),
                           steps_per_epoch=plan.per_epoch, total_steps=plan.total)
  state = jax.eval_shape(init)
  given, notes = _given(config, specs, state, dataset.num_classes)
  _check_no_decay(config, state)
  is_table = lambda x: isinstance(x, Table)
  if not dataset.stable_index and any(map(is_table, jax.tree.leaves(state.method.memory, is_leaf=is_table))):
    raise ConfigError(f"method {config.method.name} keeps a table of the training examples, but {dataset.name} "
                      "gives them no stable index: use one that does, or the variant that remembers weights")
  shardings = sharding.state_sharding(mesh, state)
  state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
  train_step = step_lib.make_train_step(specs, method, views, method_tx=method_tx, steps_per_epoch=plan.per_epoch,
                                        num_epochs=plan.epochs, update=config.update_order)
  eval_step = make_eval_step(specs, method, mean=dataset.mean, std=dataset.std, mesh=mesh)
  eval_batch = -(-min(config.eval_batch_size, len(dataset.test.label)) // mesh.size) * mesh.size
  surveyor = Surveyor(specs, method, mean=dataset.mean, std=dataset.std, mesh=mesh, batch_size=eval_batch)
  limit = config.steps_per_dispatch or MAX_STEPS_PER_DISPATCH.get(jax.default_backend(), 1)
  # It runs once: on a CPU, compiling it with optimisations takes ten times as long, for random numbers mostly.
  options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  init = functools.partial(jax.jit(init, out_shardings=shardings, compiler_options=options), given)
  return Experiment(dataset, specs, method, mesh, plan, notes, init, state, train_step, eval_step, eval_batch, surveyor, limit)
