"""Groups of stacked members: how they are made, run and updated. The only file that knows the K axis.

Members of one architecture are stored stacked and run under `jax.vmap`; groups of different architectures
stand side by side. Outside this file a cohort is a dict of groups and a float32 tensor of logits [M, B, C].
"""

from collections.abc import Sequence
import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import optax

from jaxdistill import registry, rng
from jaxdistill.errors import naming
from jaxdistill.protocol import GroupSpec
from jaxdistill.types import Group, ModelOutput, Outputs, PyTree


def make_spec(name: str, model: str, members: int, tx: optax.GradientTransformation, *, unroll: bool = False,
              average: float = 0.0, **model_kwargs) -> GroupSpec:
  """Builds the spec of one group; `model` is a registry name, `model_kwargs` its factory's keywords."""
  return GroupSpec(name, registry.resolve("models", model, **model_kwargs), members, tx, unroll, average)


def member_names(specs: Sequence[GroupSpec]) -> tuple[str, ...]:
  """Names of all members in member order: the order of the M axis."""
  return tuple(name for spec in specs for name in spec.members)


def member_slices(specs: Sequence[GroupSpec]) -> dict[str, slice]:
  """Where each group's members stand on the M axis."""
  slices, start = {}, 0
  for spec in specs:
    slices[spec.name] = slice(start, start + spec.size)
    start += spec.size
  return slices


def _member_keys(key: jax.Array, spec: GroupSpec) -> jax.Array:
  # Folding in the member's name and not its position keeps every member's stream when others are added.
  seeds = jnp.array([rng.stream_id(name) for name in spec.members], jnp.uint32)
  return jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds)


def init(key: jax.Array, specs: Sequence[GroupSpec], image_shape: tuple[int, int, int],
         given: dict[str, dict] | None = None) -> dict[str, Group]:
  """Initialises all members, each from its own key.

  Args:
    key: PRNG key.
    specs: the groups.
    image_shape: (H, W, 3).
    given: group name -> path of a variable -> values [K, ...] to start from instead of random ones.

  Returns:
    group name -> Group with leaves [K, ...].
  """
  cohort = {}
  for spec in specs:
    def one(member_key, replaced, spec=spec):
      keys = {"params": member_key, "dropout": rng.stream(member_key, "dropout")}  # NNX modules make both at once
      variables = spec.model.init(keys, jnp.zeros((1, *image_shape)), train=False)
      variables = traverse_util.unflatten_dict({**traverse_util.flatten_dict(variables), **replaced})
      params = variables.pop("params")
      # Copies: the same array twice in a state could not be donated.
      average = jax.tree.map(jnp.copy, {"params": params, "stats": variables, "count": jnp.float32(0)})
      return Group(params, variables, spec.tx.init(params), average if spec.average else {})
    with naming(f"cohort.{spec.name}"):
      cohort[spec.name] = jax.vmap(one)(_member_keys(key, spec), (given or {}).get(spec.name, {}))
  return cohort


def _map_members(fn, spec: GroupSpec):
  if not spec.unroll:
    return jax.vmap(fn)
  def unrolled(*args):
    rows = [fn(*jax.tree.map(lambda x, k=k: x[k], args)) for k in range(spec.size)]
    return jax.tree.map(lambda *xs: jnp.stack(xs), *rows)
  return unrolled


def _where_member(keep: jax.Array, new: PyTree, old: PyTree) -> PyTree:
  """Takes `new` for the members in `keep` (bool[K]), `old` for the others."""
  return jax.tree.map(lambda n, o: jnp.where(keep.reshape((-1,) + (1,) * (n.ndim - 1)), n, o), new, old)


def _run_group(spec: GroupSpec, params: PyTree, stats: PyTree, images: jax.Array, keys: jax.Array,
               train: bool) -> tuple[ModelOutput, jax.Array, PyTree]:
  """Runs stacked members; returns their output, made safe, bool[K] alive and the new statistics."""
  def one(p, s, x, key):
    variables = {"params": p, **s}
    if not train:
      return spec.model.apply(variables, x, train=False), s
    output, updated = spec.model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=list(s))
    return output, {**s, **updated}
  output, stats = _map_members(one, spec)(params, stats, images, keys)
  output = ModelOutput(output.logits.astype(jnp.float32), output.features)
  alive = jnp.isfinite(output.logits).all(axis=(1, 2))
  return _where_member(alive, output, jax.tree.map(jnp.zeros_like, output)), alive, stats


def forward(specs: Sequence[GroupSpec], params: dict[str, PyTree], stats: dict[str, PyTree], images: jax.Array,
            key: jax.Array, *, train: bool) -> tuple[Outputs, dict[str, PyTree]]:
  """Runs every member on its own images.

  Outputs of members with a logit that is not finite are replaced by zeros before anything else sees them:
  multiplying by a mask later would not help, since 0 * NaN is NaN in the value and in the gradient.

  Args:
    specs: the groups.
    params: group name -> parameters [K, ...].
    stats: group name -> all other collections [K, ...].
    images: f32[M, B, H, W, 3].
    key: PRNG key of this step's forward pass, for dropout.
    train: batch statistics of the batch, dropout on; else running statistics, dropout off.

  Returns:
    (Outputs, new stats); in evaluation mode the stats come back unchanged.
  """
  slices, groups, alive, new_stats = member_slices(specs), {}, [], {}
  for spec in specs:
    groups[spec.name], group_alive, new_stats[spec.name] = _run_group(
        spec, params[spec.name], stats[spec.name], images[slices[spec.name]], _member_keys(key, spec), train)
    alive.append(group_alive)
  logits = jnp.concatenate([groups[spec.name].logits for spec in specs])
  return Outputs(logits, jnp.concatenate(alive), groups), new_stats


def forward_member(spec: GroupSpec, k: int, position: int, outputs: Outputs, params: PyTree, stats: PyTree,
                   images: jax.Array, key: jax.Array) -> Outputs:
  """Runs one member again, in training mode, and puts its output in the place of the old one.

  Args:
    spec: the member's group.
    k: its place in the group.
    position: its place in the cohort.
    outputs: outputs of the cohort.
    params: its parameters [1, ...].
    stats: its other collections [1, ...]; the new batch statistics are dropped.
    images: f32[M, B, H, W, 3].
    key: the step's forward key.
  """
  output, alive, _ = _run_group(spec._replace(size=1), params, stats, images[position:position + 1],
                                _member_keys(key, spec)[k:k + 1], train=True)
  groups = {**outputs.groups, spec.name: set_member(outputs.groups[spec.name], k, output)}
  logits = outputs.logits.at[position].set(output.logits[0])
  return Outputs(logits, outputs.alive.at[position].set(alive[0]), groups)


def take_member(tree: PyTree, k: int) -> PyTree:
  """Takes member k out of a group's stacked pytree, keeping a leading axis of one."""
  return jax.tree.map(lambda x: x[k:k + 1], tree)


def set_member(tree: PyTree, k: int, member: PyTree) -> PyTree:
  """Puts `member` (leaves [1, ...]) in the place of member k of a group's stacked pytree."""
  return jax.tree.map(lambda x, m: x.at[k].set(m[0]), tree, member)


def _all_finite(tree: PyTree, size: int) -> jax.Array:
  """Tells per member whether every float in the tree of leaves [K, ...] is finite: bool[K]."""
  leaves = [x.reshape(size, -1) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
  return jnp.isfinite(jnp.concatenate(leaves, axis=1)).all(axis=1)


def _averaged(decay: float, average: PyTree, params: PyTree, stats: PyTree) -> PyTree:
  """Moves the average towards new weights, quickly at first: with 1 - min(decay, (1 + n) / (10 + n)) in step n."""
  if not average:
    return average
  rate = jnp.minimum(decay, (1 + average["count"]) / (10 + average["count"]))
  mean = lambda old, new: jax.tree.map(lambda a, b: rate * a + (1 - rate) * b, old, new)
  return {"params": mean(average["params"], params), "stats": mean(average["stats"], stats),
          "count": average["count"] + 1}


def update(specs: Sequence[GroupSpec], cohort: dict[str, Group], grads: dict[str, PyTree],
           stats: dict[str, PyTree]) -> tuple[dict[str, Group], jax.Array]:
  """Applies every member's own optimiser, holding members whose step would not be finite.

  The optimiser runs under `vmap`, so that clipping by norm, LARS, LAMB and step counts are per member.

  Args:
    specs: the groups.
    cohort: current groups.
    grads: group name -> gradients [K, ...].
    stats: group name -> new batch statistics [K, ...].

  Returns:
    (new groups, updated bool[M]): a member that is not updated keeps parameters, statistics and optimiser
    state of before the step.
  """
  new, updated = {}, []
  for spec in specs:
    group = cohort[spec.name]
    updates, opt = jax.vmap(spec.tx.update)(grads[spec.name], group.opt, group.params)
    params = optax.apply_updates(group.params, updates)
    average = jax.vmap(functools.partial(_averaged, spec.average))(group.average, params, stats[spec.name])
    stepped = Group(params, stats[spec.name], opt, average)
    # Gradients are checked too: clipping turns an infinite one into a finite but meaningless step.
    ok = _all_finite((grads[spec.name], stepped.params, stepped.stats), spec.size)
    new[spec.name] = _where_member(ok, stepped, group)
    updated.append(ok)
  return new, jnp.concatenate(updated)


def parameter_count(group: Group) -> int:
  """Number of trainable numbers of one member of the group."""
  return sum(x.size // x.shape[0] for x in jax.tree.leaves(group.params))
