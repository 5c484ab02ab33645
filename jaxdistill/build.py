"""From a checked config to the objects of an experiment; everything that can be refused is refused here."""

from collections.abc import Callable, Iterator
import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill import augment, optim, pool, registry, sharding
from jaxdistill import cohort as cohort_lib
from jaxdistill import config as config_lib
from jaxdistill import step as step_lib
from jaxdistill import views as views_lib
from jaxdistill.dataset import Dataset, hold_out
from jaxdistill.errors import ConfigError
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
  init: Callable[[], TrainState]
  state: TrainState
  train_step: Callable
  eval_step: Callable
  eval_batch_size: int
  surveyor: Surveyor
  steps_limit: int


def _keywords(section) -> dict[str, Any]:
  return {key: value for key, value in section.to_dict().items() if key != "name"}


@contextlib.contextmanager
def _naming(section: str) -> Iterator[None]:
  """Puts the section in front of what a factory, which knows only its own keywords, says is wrong with it."""
  try:
    yield
  except ConfigError as error:
    raise ConfigError(f"{section}: {error}") from error


def _component(section_name: str, kind: str, section) -> Any:
  with _naming(section_name):
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
    with _naming(f"perturb.{name}"):
      ops.append(registry.resolve("perturb", name, **strengths))
  return pool.make_perturb(ops, num_members=num_members, **{key: section[key] for key in keys})


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
  tx = recipe()
  mapping = config.mapping if config.mapping != "auto" else MAPPING.get(jax.default_backend(), "vmap")
  specs = []
  for name, group in config.cohort.items():
    with _naming(f"cohort.{name}"):
      specs.append(cohort_lib.make_spec(name, tx=tx, unroll=mapping == "unroll", num_classes=dataset.num_classes,
                                        dtype=jnp.dtype(config.dtype), **group.to_dict()))
  specs = tuple(specs)
  augment_fn = augment.pad_crop_flip(**config.augment, fill=dataset.mean)
  views = views_lib.make_views(augment_fn, perturb_fn, mean=dataset.mean, std=dataset.std,
                               members=cohort_lib.member_names(specs), num_classes=dataset.num_classes,
                               space=config.perturb.space, per_member=config.views == "per_member")
  method_tx = method.tx(recipe)
  init = functools.partial(step_lib.init_state, config.seed, specs, method, method_tx,
                           dataset.train.image.shape[1:], dataset.num_classes, len(dataset.train.label),
                           steps_per_epoch=plan.per_epoch, total_steps=plan.total)
  with _naming("method"):
    state = jax.eval_shape(init)
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
  init = jax.jit(init, out_shardings=shardings, compiler_options=options)
  return Experiment(dataset, specs, method, mesh, plan, init, state, train_step, eval_step, eval_batch, surveyor, limit)
