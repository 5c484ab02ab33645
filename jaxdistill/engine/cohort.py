"""Groups of stacked members: how they are made, run and updated.

The only file that knows the K axis.

Members of one architecture are stored stacked and run under `jax.vmap`; groups of
different architectures stand side by side. Outside this file a cohort is a dict of
groups and a float32 tensor of logits [M, B, C].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from jaxdistill import losses
from jaxdistill.core import registry, rng
from jaxdistill.core.method import GroupSpec
from jaxdistill.core.types import (
  Group,
  ModelOutput,
  Outputs,
  PyTree,
  Variables,
)
from jaxdistill.engine import sharding
from jaxdistill.engine._trained import Advance, Rule, advance, all_finite, start
from jaxdistill.errors import naming, require
from jaxdistill.nn.conv import as_written

InitialVariables = Mapping[str, Mapping[tuple[str, ...], Any]]
"""Group name -> path of a variable -> values [K, ...]."""


def make_spec(
  name: str,
  model: str,
  members: int,
  tx: optax.GradientTransformation,
  *,
  mapping: str = "vmap",
  average: float = 0.0,
  schedule: optax.Schedule | None = None,
  **model_kwargs: Any,
) -> GroupSpec:
  """Builds the spec of one group.

  Args:
    name: of the group.
    model: registry name of the network.
    members: K.
    tx: optimiser of one member.
    mapping: see `GroupSpec`.
    average: see `GroupSpec`.
    schedule: see `GroupSpec`.
    **model_kwargs: keywords of the network's factory.

  Raises:
    ConfigError: for an unknown network or keyword.
  """
  network = registry.resolve("models", model, **model_kwargs)
  return GroupSpec(
    name=name,
    model=network,
    size=members,
    tx=tx,
    mapping=mapping,
    average=average,
    schedule=schedule,
  )


def spread_members(specs: Sequence[GroupSpec], mesh: Mesh) -> tuple[GroupSpec, ...]:
  """Returns the groups with their members spread over the parts of a mesh.

  Raises:
    ConfigError: for a group that cannot be split into as many parts.
  """
  parts = sharding.member_parts(mesh)
  if parts == 1:
    return tuple(specs)
  spread = []
  for spec in specs:
    require(
      spec.size % parts == 0,
      f"cohort.{spec.name} has {spec.size} members, which cannot be split into "
      f"mesh.member={parts} equal parts: change cohort.{spec.name}.members or "
      "mesh.member",
    )
    require(
      spec.mapping != "unroll",
      f"mapping=unroll runs members one after the other, but mesh.member={parts} "
      "spreads them over devices: set mapping=vmap or mesh.member=1",
    )
    spread.append(spec._replace(mesh=mesh))
  return tuple(spread)


def member_names(specs: Sequence[GroupSpec]) -> tuple[str, ...]:
  """Names of all members in member order: the order of the M axis."""
  return tuple(name for spec in specs for name in spec.members)


def member_slices(specs: Sequence[GroupSpec]) -> dict[str, slice]:
  """Where each group's members stand on the M axis."""
  slices = {}
  start = 0
  for spec in specs:
    slices[spec.name] = slice(start, start + spec.size)
    start += spec.size
  return slices


def active_members(cohort: Mapping[str, Group]) -> dict[str, jax.Array]:
  """Which members take part: group name -> bool[K]; the others are quarantined."""
  return {name: group.active for name, group in cohort.items()}


def parameter_count(group: Group) -> int:
  """Number of trainable numbers of one member of the group."""
  return sum(x.size // x.shape[0] for x in jax.tree.leaves(group.params))


def _member_keys(key: jax.Array, spec: GroupSpec) -> jax.Array:
  # Folding in the member's name and not its position keeps every member's stream when
  # others are added.
  return jnp.stack([rng.stream(key, name) for name in spec.members])


def init_cohort(
  key: jax.Array,
  specs: Sequence[GroupSpec],
  image_shape: tuple[int, ...],
  initial: InitialVariables | None = None,
) -> dict[str, Group]:
  """Initialises all members, each from its own key.

  Args:
    key: PRNG key.
    specs: the groups.
    image_shape: (H, W, 3).
    initial: weights to start from instead of random ones.

  Returns:
    group name -> Group with leaves [K, ...].
  """
  cohort = {}
  for spec in specs:
    own = (initial or {}).get(spec.name, {})
    with naming(f"cohort.{spec.name}"):
      cohort[spec.name] = _init_group(_member_keys(key, spec), spec, image_shape, own)
  return cohort


def _init_group(
  keys: jax.Array,
  spec: GroupSpec,
  image_shape: tuple[int, ...],
  initial: Mapping[tuple[str, ...], Any],
) -> Group:
  """Initialises one group; `initial` holds values [K, ...] of some variables."""

  def init_member(member_key, replaced):
    # NNX modules draw for parameters and dropout at once.
    streams = {"params": member_key, "dropout": rng.stream(member_key, "dropout")}
    variables = spec.model.init(streams, jnp.zeros((1, *image_shape)), train=False)
    flat = {**traverse_util.flatten_dict(variables), **replaced}
    variables = traverse_util.unflatten_dict(flat)
    params = variables.pop("params")
    return start(Rule(spec.tx, spec.average), params, variables)

  return jax.vmap(init_member)(keys, initial)


def _map_members(function: Callable, spec: GroupSpec) -> Callable:
  """Maps a function of one member over the stacked members."""
  mapped = jax.vmap(function)

  def plain(*args):
    with as_written():
      return mapped(*args)

  def unrolled(*args):
    rows = []
    for k in range(spec.size):
      member = jax.tree.map(lambda x, k=k: x[k], args)
      rows.append(function(*member))
    return jax.tree.map(lambda *xs: jnp.stack(xs), *rows)

  chosen = {"vmap": mapped, "unroll": unrolled, "plain": plain}[spec.mapping]
  if spec.mesh is None:
    return chosen
  return sharding.map_over_members(spec.mesh, chosen)


def _where_member(keep: jax.Array, new: PyTree, old: PyTree) -> PyTree:
  """Takes `new` for the members in `keep` (bool[K]), `old` for the others."""

  def choose(new, old):
    mask = keep.reshape((-1,) + (1,) * (new.ndim - 1))
    return jnp.where(mask, new, old)

  return jax.tree.map(choose, new, old)


def _run_group(
  spec: GroupSpec,
  params: PyTree,
  stats: PyTree,
  images: jax.Array,
  keys: jax.Array,
  *,
  train: bool,
  active: jax.Array | None = None,
) -> tuple[ModelOutput, jax.Array, PyTree]:
  """Runs stacked members; `active` is bool[K], None for all.

  Returns:
    (output, zeros for members that are not finite, bool[K] which are, new statistics).
  """

  def run_member(params, stats, images, key):
    variables = {"params": params, **stats}
    if not train:
      return spec.model.apply(variables, images, train=False), stats
    output, updated = spec.model.apply(
      variables, images, train=True, rngs={"dropout": key}, mutable=list(stats)
    )
    return output, {**stats, **updated}

  # A compiled program may make finite logits of weights that are not: on a CPU, the
  # maximum with zero of what is not a number is zero.
  intact = jax.vmap(all_finite)((params, stats))
  output, stats = _map_members(run_member, spec)(params, stats, images, keys)
  output = ModelOutput(output.logits.astype(jnp.float32), output.features)
  alive = intact & (jnp.abs(output.logits) <= losses.LARGEST).all(axis=(1, 2))
  if active is not None:
    alive &= active
  safe = _where_member(alive, output, jax.tree.map(jnp.zeros_like, output))
  return safe, alive, stats


def forward(
  specs: Sequence[GroupSpec],
  variables: Variables,
  images: jax.Array,
  key: jax.Array,
  *,
  train: bool,
  active: Mapping[str, jax.Array] | None = None,
) -> tuple[Outputs, dict[str, PyTree]]:
  """Runs every member on its own images.

  Outputs of members that are not `alive` are replaced by zeros before
  anything else sees them: multiplying by a mask later would not help, since 0 * NaN is
  NaN in the value and in the gradient.

  Args:
    specs: the groups.
    variables: group name -> (params, stats), leaves [K, ...].
    images: f32[M, B, H, W, 3].
    key: PRNG key of this step's forward pass, for dropout.
    train: batch statistics of the batch, dropout on; else running statistics, dropout
      off.
    active: group name -> bool[K], which members may be alive; None for all.

  Returns:
    (Outputs, group name -> new stats); in evaluation mode the stats come back
    unchanged.
  """
  slices = member_slices(specs)
  groups = {}
  alive = []
  new_stats = {}
  for spec in specs:
    params, stats = variables[spec.name]
    groups[spec.name], group_alive, new_stats[spec.name] = _run_group(
      spec,
      params,
      stats,
      images[slices[spec.name]],
      _member_keys(key, spec),
      train=train,
      active=None if active is None else active[spec.name],
    )
    alive.append(group_alive)
  logits = []
  for spec in specs:
    own = groups[spec.name].logits
    if spec.mesh is not None:
      own = sharding.gather_members(spec.mesh, own)
    logits.append(own)
  outputs = Outputs(jnp.concatenate(logits), jnp.concatenate(alive), groups)
  return outputs, new_stats


def forward_member(
  spec: GroupSpec,
  k: int,
  outputs: Outputs,
  params: PyTree,
  stats: PyTree,
  images: jax.Array,
  key: jax.Array,
  active: jax.Array,
) -> Outputs:
  """Runs one member again, in training mode, and replaces its output.

  Args:
    spec: the member's group.
    k: its place in the group.
    outputs: outputs of the cohort.
    params: its parameters [1, ...].
    stats: its other collections [1, ...]; the new batch statistics are dropped.
    images: f32[M, B, H, W, 3].
    key: the step's forward key.
    active: bool[1] whether it may be alive.
  """
  position = outputs.members.index(spec.members[k])
  output, alive, _ = _run_group(
    spec._replace(size=1, mesh=None),
    params,
    stats,
    images[position : position + 1],
    _member_keys(key, spec)[k : k + 1],
    train=True,
    active=active,
  )
  group = set_member(outputs.groups[spec.name], k, output)
  return Outputs(
    logits=outputs.logits.at[position].set(output.logits[0]),
    alive=outputs.alive.at[position].set(alive[0]),
    groups={**outputs.groups, spec.name: group},
  )


def take_member(tree: PyTree, k: int) -> PyTree:
  """Takes member k out of a group's stacked pytree, keeping a leading axis of one."""
  return jax.tree.map(lambda x: x[k : k + 1], tree)


def set_member(tree: PyTree, k: int, member: PyTree) -> PyTree:
  """Replaces member k of a group's stacked pytree by `member`, leaves [1, ...]."""
  return jax.tree.map(lambda x, m: x.at[k].set(m[0]), tree, member)


class Advances(NamedTuple):
  """What a step made of the members, in member order.

  Attributes:
    cohort: the groups after it. A member that is not updated keeps parameters,
      statistics and optimiser state of before the step.
    updated: bool[M] which members were updated.
    gradient_norm: f32[M] of their gradients, before they are clipped.
  """

  cohort: dict[str, Group]
  updated: jax.Array
  gradient_norm: jax.Array


def update_members(
  specs: Sequence[GroupSpec],
  cohort: Mapping[str, Group],
  grads: Mapping[str, PyTree],
  stats: Mapping[str, PyTree],
  *,
  alive: jax.Array,
  step: jax.Array,
) -> Advances:
  """Applies every member's own optimiser.

  Members whose step would not be finite are held. The optimiser runs under `vmap`, so
  that clipping by norm, LARS, LAMB and step counts are per member.

  Args:
    specs: the groups.
    cohort: current groups.
    grads: group name -> gradients [K, ...].
    stats: group name -> new batch statistics [K, ...].
    alive: bool[M] the members that may be updated.
    step: i32[] number of the step.
  """
  slices = member_slices(specs)
  advances = {}
  for spec in specs:
    advances[spec.name] = update_stacked(
      Rule(spec.tx, spec.average),
      cohort[spec.name],
      grads[spec.name],
      stats[spec.name],
      allowed=alive[slices[spec.name]],
      step=step,
    )
  rows = advances.values()
  return Advances(
    cohort={name: row.group for name, row in advances.items()},
    updated=jnp.concatenate([row.updated for row in rows]),
    gradient_norm=jnp.concatenate([row.gradient_norm for row in rows]),
  )


def update_stacked(
  rule: Rule,
  group: Group,
  grads: PyTree,
  stats: PyTree,
  *,
  allowed: jax.Array,
  step: jax.Array,
) -> Advance:
  """Applies the optimiser to stacked parameters: see `advance`, all leaves [K, ...].

  `allowed`, and what comes back, has one value a member.
  """

  def update_member(group, grads, stats, allowed):
    return advance(rule, group, grads, stats, allowed=allowed, step=step)

  return jax.vmap(update_member)(group, grads, stats, allowed)
