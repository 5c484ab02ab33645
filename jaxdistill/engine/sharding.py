"""Placement on devices: the only file that names mesh axes.

Batches are split over the `data` axis, everything else is on every device; batch means
and batch statistics are global under `jit`, so results do not depend on the number of
devices beyond rounding.
"""

import dataclasses
import logging
import os
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from jaxdistill.core.types import PyTree, Table
from jaxdistill.errors import require

DATA = "data"

# Where a CPU plays several devices, each of them runs independent operations in an
# order of its own: a collective in the branch of a conditional and one outside of it
# then wait for each other for ever, half of the devices in either. Without this
# scheduler all keep the program's order. It has to be a flag of the process: as an
# option of a single compilation it is lost when the program comes from the compilation
# cache.
_IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
_log = logging.getLogger(__name__)


def keep_order_on_cpu(several_processes: bool = False) -> None:
  """Makes a CPU that plays several devices run them in one order.

  Call it before the first computation.

  Args:
    several_processes: whether there are others, each with a device at least.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  several_here = (
    "host_platform_device_count" in flags or "JAX_NUM_CPU_DEVICES" in os.environ
  )
  several = several_here or several_processes
  if several and "xla_cpu_enable_concurrency_optimized_scheduler" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {_IN_ORDER}".strip()


def make_mesh(num_devices: int = 0) -> Mesh:
  """Builds the one-dimensional mesh over `num_devices` devices (0: all there are).

  Raises:
    ConfigError: if there are fewer.
  """
  available = jax.devices()
  require(
    0 <= num_devices <= len(available),
    f"mesh.devices is {num_devices}, but there are {len(available)}",
  )
  devices = available[: num_devices or None]
  processes = {device.process_index for device in devices}
  require(
    len(processes) == jax.process_count(),
    f"mesh.devices={num_devices} leaves processes without a device: there are "
    f"{len(available)} devices of {jax.process_count()} processes; leave it at 0",
  )
  if (
    len(devices) > 1
    and devices[0].platform == "cpu"
    and _IN_ORDER not in os.environ.get("XLA_FLAGS", "")
  ):
    _log.warning(
      "several CPU devices may deadlock: set XLA_FLAGS to '%s' besides their number",
      _IN_ORDER,
    )
  # Explicit axes, the default of make_mesh, do not work with vmapped convolutions.
  return jax.make_mesh(
    (len(devices),), (DATA,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def shard_over_rows(mesh: Mesh) -> NamedSharding:
  """Sharding of arrays whose first axis is the batch, or the examples of a table."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def is_table(x: Any) -> bool:
  """Tells whether a node of a pytree is a table, for `is_leaf`."""
  return isinstance(x, Table)


def state_sharding(mesh: Mesh, state: PyTree) -> Any:
  """Returns where each leaf of a train state is placed.

  Tables are split over their rows, all else is on every device.
  """

  def place(x):
    if is_table(x):
      return dataclasses.replace(x, rows=shard_over_rows(mesh))
    return replicated(mesh)

  return jax.tree.map(place, state, is_leaf=is_table)


def constrain_rows(mesh: Mesh, tree: PyTree) -> PyTree:
  """Splits the first axis of every array over the mesh, inside a jitted function."""
  return jax.tree.map(
    lambda x: jax.lax.with_sharding_constraint(x, shard_over_rows(mesh)), tree
  )


def constrain_state(mesh: Mesh, state: PyTree) -> PyTree:
  """Keeps a state where `state_sharding` says, inside a jitted function."""
  # One device leaves no choice.
  if mesh.size == 1:
    return state
  return jax.lax.with_sharding_constraint(state, state_sharding(mesh, state))


def constrain_whole(mesh: Mesh, tree: PyTree) -> PyTree:
  """Puts every array whole on every device, inside a jitted function."""
  if mesh.size == 1:
    return tree
  return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def put(array: np.ndarray, placement: jax.sharding.Sharding) -> jax.Array:
  """Copies a host array, which is the same in every process, to the devices.

  `jax.device_put` would send all of it around to see that it is the same.
  """
  return jax.make_array_from_callback(array.shape, placement, lambda part: array[part])


def put_replicated(mesh: Mesh, tree: PyTree) -> PyTree:
  """Copies host arrays to every device of the mesh."""
  return jax.tree.map(lambda x: put(np.asarray(x), replicated(mesh)), tree)
