"""Compiles the train step for devices that are not there, and tells what it needs.

    python -m jaxdistill aot --config=cifar100_competitive --topology=v5e:4x4
    python -m jaxdistill aot --config=FILE --topology=h100:2x4 --config.batch_size=1024

Nothing is trained, and the data set need not be at hand: shapes are enough.
"""

import argparse
from collections.abc import Sequence
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.types import Batch, PyTree, Table
from jaxdistill.data import Dataset, Split, Streamed, cifar
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import parameter_count
from jaxdistill.engine.dispatch import make_dispatch
from jaxdistill.engine.resident import Delivered, Resident, delivered_shapes
from jaxdistill.errors import (
  ConfigError,
  DataError,
  describe,
  foreign,
  require,
  run_command,
)
from jaxdistill.nn.conv import as_written
from jaxdistill.run import background
from jaxdistill.run.assignments import assignments
from jaxdistill.run.build import Experiment, build
from jaxdistill.run.config import ConfigDict, load_config
from jaxdistill.run.console import Console, with_model
from jaxdistill.run.jax_settings import matmul_precision
from jaxdistill.run.residency import fitting, splits_of, with_dataset
from jaxdistill.run.room import bytes_per_device, in_units
from jaxdistill.tools import _aot_report, _hlo
from jaxdistill.tools._topologies import EXAMPLES, KINDS, Topology, open_topology

_USAGE = (
  "python -m jaxdistill aot --config=FILE [--config.KEY=VALUE ...] --topology=v5e:4x4"
)

_SIZES = "--examples=1281167,50000 --image=224,224 --classes=1000"

_POSITIVE = r"[1-9]\d{0,9}"

# Data sets of known size, and their classes.
_CIFAR = {"cifar.cifar10": 10, "cifar.cifar100": 100}

# In what XLA says of a program that is too large: what it takes, then what there is.
_AMOUNT = re.compile(r"\b(\d[\d.]*[KMGT])\b")


# The data set, as shapes.


def shapes_only(
  examples: tuple[int, int],
  image: tuple[int, int],
  classes: int,
  holdout: float = 0,
  per_class: int = 0,
) -> Dataset:
  """Returns a data set of the given size that takes no memory.

  Args:
    examples: numbers of training and of test images.
    image: (H, W).
    classes: C.
    holdout: how many of the training images are held out, or a fraction below 1.
    per_class: training images of each class that are kept before; 0 keeps all.
  """
  train, test = examples
  if per_class:
    kept = per_class * classes
    require(
      kept <= train,
      f"examples_per_class is {per_class}, but there are {train} training images of "
      f"{classes} classes: make it smaller",
    )
    train = kept
  if holdout < 1:
    holdout = round(holdout * train)
  holdout = int(holdout)
  require(
    0 <= holdout < train,
    f"holdout is {holdout}, but there are {train} training images: make it smaller",
  )
  held_out = None
  if holdout:
    held_out = _blank(holdout, image)
  return Dataset(
    name="shapes",
    train=_blank(train - holdout, image),
    test=_blank(test, image),
    num_classes=classes,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    holdout=held_out,
  )


def _blank(count: int, image: tuple[int, int]) -> Split:
  """Returns images and labels that all are one zero in memory."""
  return Split(
    image=np.broadcast_to(np.uint8(0), (count, *image, 3)),
    label=np.broadcast_to(np.int32(0), (count,)),
  )


def _dataset(config: ConfigDict, flags: argparse.Namespace) -> Dataset | None:
  """Returns the shapes of the data set; None if it has to be read for them.

  Raises:
    ConfigError: if the command line tells only some of them.
  """
  told = (flags.examples, flags.image, flags.classes)
  if config.data.name in _CIFAR and not any(told):
    height, width, _ = cifar.SHAPE
    told = (cifar.EXAMPLES, (height, width), _CIFAR[config.data.name])
  if not any(told):
    return None
  require(
    all(told),
    "command line: --examples, --image and --classes tell the size of the data set "
    f"together: give all three, as in {_SIZES}",
  )
  return shapes_only(*told, config.holdout, config.examples_per_class)


# The step.


def _build(
  config: ConfigDict, dataset: Dataset | None, topology: Topology
) -> Experiment:
  """Returns the experiment on devices that are not there.

  Raises:
    ConfigError, DataError: one line about what is wrong.
  """
  try:
    return build(config, dataset, devices=topology.devices)
  except (ConfigError, DataError) as error:
    about_data = isinstance(error, DataError) or str(error).startswith("data:")
    if dataset is not None or not about_data:
      raise
    raise DataError(f"{error}; or tell its size alone, as in {_SIZES}") from error


def _on_every_device(experiment: Experiment, tree: PyTree) -> Any:
  """Returns shapes with where the arrays are placed: on every device, whole."""
  placement = sharding.replicated(experiment.mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement), tree
  )


def _on_devices(
  experiment: Experiment, split: Split | Streamed, batch_size: int
) -> Resident | Delivered:
  """Returns the shapes of a split on the devices; of a streamed one, of a batch."""
  if isinstance(split, Streamed):
    return delivered_shapes(experiment.mesh, batch_size, split.shape)
  count = len(split.label)
  pixels: Any = jax.ShapeDtypeStruct((count, math.prod(split.shape)), jnp.uint8)
  label: Any = jax.ShapeDtypeStruct((count,), jnp.int32)
  return _on_every_device(
    experiment, Resident(pixels=pixels, label=label, shape=split.shape)
  )


def _settled(
  experiment: Experiment, resident_bytes: int, topology: Topology
) -> Experiment:
  """Returns an experiment whose streamed splits are blank arrays where they fit.

  Args:
    experiment: as it was built.
    resident_bytes: the key of the config.
    topology: the devices.
  """
  limit = resident_bytes
  if limit < 0:
    limit = topology.memory // 2
  splits = splits_of(experiment.dataset)
  changes: dict[str, Any] = {}
  for name in fitting(splits, limit):
    height, width, _ = splits[name].shape
    changes[name] = _blank(len(splits[name].label), (height, width))
  return with_dataset(experiment, experiment.dataset._replace(**changes))


def _lower(experiment: Experiment, batch_size: int, steps: int) -> Any:
  """Returns the dispatch of a run, ready to be compiled."""
  train = _on_devices(experiment, experiment.dataset.train, batch_size)
  if isinstance(train, Delivered):
    steps_per_epoch = 1
    order: Any = train.index
  else:
    steps_per_epoch = experiment.clock.steps_per_epoch
    shape = jax.ShapeDtypeStruct(train.label.shape, jnp.int32)
    order = _on_every_device(experiment, shape)
  dispatch: Any = make_dispatch(
    experiment.train_step,
    experiment.mesh,
    batch_size=batch_size,
    steps_per_epoch=steps_per_epoch,
    steps_per_dispatch=steps,
  )
  with foreign("the train step cannot be made"):
    return dispatch.lower(experiment.state, train, order)


# Memory.


def _beside(experiment: Experiment) -> int:
  """Returns the bytes that a device holds besides what the step is given."""
  total = bytes_per_device(experiment.saved_state) - bytes_per_device(experiment.state)
  for split in (experiment.dataset.test, experiment.dataset.holdout):
    if split:
      on_devices = _on_devices(experiment, split, experiment.eval_batch_size)
      total += bytes_per_device(on_devices)
  return total


def _memory(experiment: Experiment, compiled: Any) -> _aot_report.Memory:
  """Returns what a compiled step takes on a device."""
  told = compiled.memory_analysis()
  return _aot_report.Memory(
    arguments=told.argument_size_in_bytes,
    outputs=max(0, told.output_size_in_bytes - told.alias_size_in_bytes),
    temporaries=told.temp_size_in_bytes,
    code=told.generated_code_size_in_bytes,
    beside=_beside(experiment),
  )


def _require_room(
  name: str, experiment: Experiment, batch_size: int, topology: Topology
) -> None:
  """Refuses a run whose arrays alone are larger than a device, before it is compiled.

  Raises:
    ConfigError: with both numbers.
  """
  train = _on_devices(experiment, experiment.dataset.train, batch_size)
  data = bytes_per_device(train)
  needed = data + bytes_per_device(experiment.state) + _beside(experiment)
  require(
    needed <= topology.memory,
    f"{name} does not fit: before any activation a device holds {in_units(needed)}, of "
    f"which {in_units(data)} are the training images, and it has "
    f"{in_units(topology.memory)}: take smaller or fewer images, or fewer members",
  )


def _compile(name: str, lowered: Any) -> Any:
  """Compiles a step.

  Raises:
    ConfigError: if XLA finds no room for it, or cannot compile it.
  """
  try:
    # In a thread, so that Ctrl-C is heard.
    return background.wait_for(lowered.compile, lambda: False)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" in str(error):
      raise ConfigError(
        f"{name} does not fit{amounts(str(error))}: {_aot_report.TAKE_LESS}"
      ) from error
    raise ConfigError(
      f"{name}: XLA cannot compile the train step for these devices; a step of other "
      f"sizes it may, such as another batch_size: {describe(error)}"
    ) from error


def amounts(text: str) -> str:
  """Returns what XLA says a device needs and has, of an error that says it."""
  found = _AMOUNT.findall(text)
  if len(found) < 2:
    return ""
  needed, available, *_ = found
  return f": XLA wants {needed} of a device, of {available} that a program can have"


def _flops(experiment: Experiment, batch_size: int, compiled: Any) -> float:
  """Returns the work of a step on all devices; 0 where XLA does not tell.

  XLA counts the step as it is written, alike for all kinds of devices, and a loop as if
  it ran once. Where members are on devices of their own, it counts only what it has
  compiled.
  """
  cost = _step_as_written(experiment, batch_size).cost_analysis()
  if cost:
    return cost["flops"]
  cost = compiled.cost_analysis() or {}
  return cost.get("flops", 0.0) * experiment.mesh.size


def _step_as_written(experiment: Experiment, batch_size: int) -> Any:
  """Returns the lowered step, without what is done for one kind of device."""
  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), experiment.state
  )

  def row(dtype: Any, *shape: int) -> Any:
    return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

  batch = Batch(
    image=row(jnp.uint8, *experiment.dataset.train.shape),
    label=row(jnp.int32),
    index=row(jnp.int32),
    mask=row(jnp.float32),
  )
  with as_written():
    return jax.jit(experiment.train_step).lower(state, batch)


def _members(experiment: Experiment) -> dict[str, tuple[int, int]]:
  """Returns group -> (number of members, parameters of each)."""
  found = {}
  for spec in experiment.specs:
    group = with_model(spec.name, experiment.models[spec.name])
    found[group] = (spec.size, parameter_count(experiment.state.cohort[spec.name]))
  return found


def _tables(experiment: Experiment) -> list[tuple[int, ...]]:
  """Returns the shapes of the method's tables of the training examples."""
  memory = jax.tree.leaves(experiment.state.method.memory, is_leaf=sharding.is_table)
  return [leaf.rows.shape for leaf in memory if isinstance(leaf, Table)]


# The command.


def compile_ahead(
  config: ConfigDict,
  topology_name: str,
  *,
  name: str = "the config",
  dataset: Dataset | None = None,
  console: Console | None = None,
) -> _aot_report.Report:
  """Returns what is known of a config's train step on devices that are not there.

  Args:
    config: of the run.
    topology_name: such as "v5e:4x4".
    name: what errors and the report call the config.
    dataset: whose shapes count; None reads that of the config.
    console: to say what takes long.

  Raises:
    ConfigError: one line about what cannot be, or does not fit.
  """
  console = console or Console(quiet=True)
  topology = open_topology(topology_name)
  built = _build(config, dataset, topology)
  experiment = _settled(built, config.resident_bytes, topology)
  _require_room(name, experiment, config.batch_size, topology)
  steps = experiment.steps_per_dispatch()
  start = time.perf_counter()
  console.say(f"Compiling the train step for {topology_name} ...")
  with matmul_precision(config.matmul_precision):
    lowered = _lower(experiment, config.batch_size, steps)
  compiled = _compile(name, lowered)
  seconds = time.perf_counter() - start

  devices = experiment.mesh.devices.flat
  train = experiment.dataset.train
  return _aot_report.Report(
    config=name,
    topology=topology_name,
    device_kind=devices[0].device_kind,
    devices=experiment.mesh.size,
    hosts=len({device.process_index for device in devices}),
    batch_size=config.batch_size,
    images_each=config.batch_size // sharding.batch_parts(experiment.mesh),
    steps=steps,
    seconds=seconds,
    members=_members(experiment),
    memory=_memory(experiment, compiled),
    capacity=topology.memory,
    flops=_flops(experiment, config.batch_size, compiled),
    images=(len(train.label), *train.shape),
    tables=_tables(experiment),
    program=_hlo.parse(compiled.as_text()),
  )


def _run(argv: Sequence[str]) -> None:
  """Compiles what the command line names and prints the report."""
  flags, rest = _parser().parse_known_args(argv)
  changes = assignments(rest, _USAGE)
  for flag in ("config", "topology"):
    require(bool(getattr(flags, flag)), f"command line: no --{flag} given: {_USAGE}")
  config = load_config(flags.config, changes)
  console = Console()
  report = compile_ahead(
    config,
    flags.topology,
    name=flags.config,
    dataset=_dataset(config, flags),
    console=console,
  )
  console.say(_aot_report.table(report))
  _aot_report.require_fits(report)


def _pair(text: str) -> tuple[int, int]:
  """Returns two whole numbers above zero, from "32,32"."""
  found = re.fullmatch(f"({_POSITIVE}),({_POSITIVE})", text)
  if not found:
    raise argparse.ArgumentTypeError(
      f"{text!r} is not a pair of whole numbers above zero, as in {_SIZES}"
    )
  return int(found[1]), int(found[2])


def _positive(text: str) -> int:
  """Returns a whole number above zero."""
  if not re.fullmatch(_POSITIVE, text):
    raise argparse.ArgumentTypeError(
      f"{text!r} is no whole number above zero, as in {_SIZES}"
    )
  return int(text)


def _parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill aot",
    usage=_USAGE,
    description="Compile the train step for devices that are not there, and tell the "
    "memory, collectives and work of a device. Nothing is trained; neither the devices "
    "nor CIFAR have to be at hand.",
    epilog="example: python -m jaxdistill aot --config=cifar100_competitive "
    "--topology=v5e:4x4 --config.batch_size=1024",
    allow_abbrev=False,
  )
  parser.add_argument(
    "--config",
    default="",
    metavar="FILE",
    help="a config file, or one that comes with the package; --config.KEY=VALUE "
    "overrides one of its keys, as for training",
  )
  parser.add_argument(
    "--topology",
    default="",
    metavar="KIND:SHAPE",
    help=f"the devices, {EXAMPLES}; kinds are {', '.join(KINDS)}",
  )
  parser.add_argument(
    "--examples",
    type=_pair,
    metavar="TRAIN,TEST",
    help="numbers of images of a data set that is not at hand",
  )
  parser.add_argument(
    "--image", type=_pair, metavar="H,W", help="height and width of its images"
  )
  parser.add_argument(
    "--classes", type=_positive, metavar="C", help="number of its classes"
  )
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  return background.leave(run_command(lambda: _run(argv)))
