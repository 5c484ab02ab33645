"""Placement on devices: the only file that names mesh axes.

Batches are split over the `data` axis; batch means and batch statistics are global
under `jit`, so results do not depend on the number of devices beyond rounding. The
members of a group are split over the `member` axis, which has one device unless the
config says otherwise. Everything else is on every device.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import logging
import os
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from jaxdistill.core.types import Group, PyTree, Table, TrainState
from jaxdistill.errors import require

MEMBER = "member"
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


def make_mesh(
  num_devices: int = 0, member: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
  """Builds the mesh ("member", "data") over `num_devices` devices (0: all there are).

  Args:
    num_devices: how many are taken.
    member: number of parts that the members of a group are split into; each part is
      trained by as many devices, which split the batch.
    devices: those to take them from, which need not be there; None: those there are.

  Raises:
    ConfigError: if there are fewer, or the parts would differ in their devices.
  """
  available = jax.devices()
  if devices is not None:
    available = list(devices)
  require(
    0 <= num_devices <= len(available),
    f"mesh.devices is {num_devices}, but there are {len(available)}",
  )
  taken = available[: num_devices or None]
  processes = {device.process_index for device in taken}
  require(
    devices is not None or len(processes) == jax.process_count(),
    f"mesh.devices={num_devices} leaves processes without a device: there are "
    f"{len(available)} devices of {jax.process_count()} processes; leave it at 0",
  )
  require(
    len(taken) % member == 0,
    f"mesh.member is {member}, but {len(taken)} devices cannot be split into as many "
    "equal parts: take a divisor of their number, or set mesh.devices",
  )
  if (
    len(taken) > 1
    and taken[0].platform == "cpu"
    and _IN_ORDER not in os.environ.get("XLA_FLAGS", "")
  ):
    _log.warning(
      "several CPU devices may deadlock: set XLA_FLAGS to '%s' besides their number",
      _IN_ORDER,
    )
  # Explicit axes, the default of make_mesh, do not work with vmapped convolutions.
  return jax.make_mesh(
    (member, len(taken) // member),
    (MEMBER, DATA),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=taken,
  )


def member_parts(mesh: Mesh) -> int:
  """Returns the number of parts that the members of a group are split into."""
  return mesh.shape[MEMBER]


def batch_parts(mesh: Mesh) -> int:
  """Returns the number of parts that a batch is split into."""
  return mesh.shape[DATA]


def platform_of(mesh: Mesh) -> str:
  """Returns "cpu", "gpu" or "tpu": what the mesh consists of, here or elsewhere."""
  platform = mesh.devices.flat[0].platform
  # Devices that are described and not there are named after their maker.
  if platform in ("cuda", "rocm"):
    return "gpu"
  return platform


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def shard_over_rows(mesh: Mesh) -> NamedSharding:
  """Sharding of arrays whose first axis is the batch, or the examples of a table."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def shard_over_members(mesh: Mesh) -> NamedSharding:
  """Sharding of arrays whose first axis is a group's members."""
  return NamedSharding(mesh, PartitionSpec(MEMBER))


def is_table(x: Any) -> bool:
  """Tells whether a node of a pytree is a table, for `is_leaf`."""
  return isinstance(x, Table)


def state_sharding(mesh: Mesh, state: PyTree) -> Any:
  """Returns where each leaf of a train state, or of a method's memory, is placed.

  Groups, and the modules that they own, are split over their members, tables over their
  rows; all else is on every device.
  """

  def place(x):
    if is_table(x):
      return dataclasses.replace(x, rows=shard_over_rows(mesh))
    return replicated(mesh)

  placed = jax.tree.map(place, state, is_leaf=is_table)
  if not isinstance(state, TrainState):
    return placed
  owned = {}
  for owner, modules in state.method.modules.items():
    if owner in state.cohort:
      owned[owner] = modules
  method = dataclasses.replace(
    placed.method, modules=placed.method.modules | _split_groups(mesh, owned)
  )
  return dataclasses.replace(
    placed,
    cohort=_split_groups(mesh, state.cohort),
    method=method,
    intact=_split_groups(mesh, state.intact),
  )


def _split_groups(mesh: Mesh, groups: Mapping[str, Group]) -> dict[str, Group]:
  """Returns where each leaf of stacked members is placed."""
  placed = {}
  for name, group in groups.items():
    members = jax.tree.map(lambda _: shard_over_members(mesh), group)
    # The host reads it.
    placed[name] = dataclasses.replace(members, held=replicated(mesh))
  return placed


def constrain_state(mesh: Mesh, state: TrainState) -> TrainState:
  """Keeps a state where `state_sharding` says, inside a jitted function."""
  # One device leaves no choice.
  if mesh.size == 1:
    return state
  return jax.lax.with_sharding_constraint(state, state_sharding(mesh, state))


def map_over_members(mesh: Mesh, function: Callable) -> Callable:
  """Returns a function of stacked members that every part runs on its own members.

  Within a part, the batch stays split over its devices.

  Args:
    mesh: devices.
    function: of arrays [K, ...], as `jax.vmap` returns it.
  """
  members = PartitionSpec(MEMBER)
  # No member reads what another part has: there is no replication to check.
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=members,
    out_specs=members,
    axis_names={MEMBER},
    check_vma=False,
  )


def connect(mesh: Mesh) -> None:
  """Connects the devices of several processes, which must all have come here.

  CPUs are connected by the first collective of those that take part in it, for which
  they wait half a minute; in later ones they wait half an hour. One process may come
  late to any: it compiles longer, or its part of an evaluation takes longer.
  """
  if jax.process_count() == 1 or platform_of(mesh) != "cpu":
    return

  def meet(x: jax.Array) -> jax.Array:
    everywhere = jax.lax.psum(x, (MEMBER, DATA))
    return everywhere + jax.lax.psum(x, MEMBER) + jax.lax.psum(x, DATA)

  each = PartitionSpec(MEMBER, DATA)
  met = jax.jit(jax.shard_map(meet, mesh=mesh, in_specs=each, out_specs=each))
  zeros = np.zeros(mesh.devices.shape, np.float32)
  jax.block_until_ready(met(put(zeros, NamedSharding(mesh, each))))


def gather_members(mesh: Mesh, x: jax.Array) -> jax.Array:
  """Copies what all members of a group have, [K, ...], to every part of the mesh."""
  others = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
  everywhere = NamedSharding(mesh, PartitionSpec(None, *others))
  return jax.lax.with_sharding_constraint(x, everywhere)


def constrain_rows(mesh: Mesh, tree: PyTree) -> PyTree:
  """Splits the first axis of every array over the mesh, inside a jitted function."""
  return jax.tree.map(
    lambda x: jax.lax.with_sharding_constraint(x, shard_over_rows(mesh)), tree
  )


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


def rows_here(mesh: Mesh, number: int) -> np.ndarray:
  """Returns which rows of an array, split by its rows, this process's devices hold.

  Args:
    mesh: devices.
    number: of the rows of the whole array.

  Returns:
    i64[b], ascending.
  """
  parts = shard_over_rows(mesh).addressable_devices_indices_map((number,))
  held = np.zeros(number, bool)
  for index in parts.values():
    held[index] = True
  return np.flatnonzero(held)


def put_rows(mesh: Mesh, local: np.ndarray, rows: np.ndarray, number: int) -> jax.Array:
  """Copies rows of an array to this process's devices that hold them.

  Args:
    mesh: devices.
    local: [b, ...] those of this process.
    rows: i64[b] which they are, from `rows_here`.
    number: of the rows of the whole array.

  Returns:
    The whole array [number, ...], split by its rows.
  """

  def part(index: Any) -> np.ndarray:
    first, end, _ = index[0].indices(number)
    start, stop = np.searchsorted(rows, (first, end))
    return local[start:stop]

  shape = (number, *local.shape[1:])
  return jax.make_array_from_callback(shape, shard_over_rows(mesh), part)


@functools.cache
def _gatherer(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def gather_rows(mesh: Mesh, x: Any) -> Any:
  """Returns an array that is split by its rows where every process can read all."""
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return x
  return _gatherer(mesh)(x)


def put_replicated(mesh: Mesh, tree: PyTree) -> PyTree:
  """Copies host arrays to every device of the mesh."""
  return jax.tree.map(lambda x: put(np.asarray(x), replicated(mesh)), tree)
