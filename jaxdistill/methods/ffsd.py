"""FFSD: a leader learns from the fused features of common students kept diverse."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdistill import losses
from jaxdistill.core.method import (
  SHARED,
  Method,
  Recipe,
  Setup,
  Step,
  mean_ensemble,
)
from jaxdistill.core.types import Objective, Outputs, PyTree, Variables
from jaxdistill.errors import (
  require,
  require_choice,
  require_not_negative,
  require_positive,
)
from jaxdistill.methods._ffsd_distances import (
  PRINTED,
  RELEASED,
  Distance,
  Distances,
)
from jaxdistill.methods._ffsd_modules import (
  Maps,
  Roles,
  init_parts,
  make_parts,
  member_maps,
  run_part,
  train_parts,
)


def ffsd(
  *,
  leader: str = "",
  stages: Sequence[str] = (),
  temperature: float = 2.0,
  diversity_weight: float = 1e-5,
  fusion_weight: float = 10.0,
  self_weight: float = 1000.0,
  ramp_epochs: float = 5,
  variant: str = "released",
  fusion_weight_decay: float = -1.0,
  self_learning_rate: float = 1e-3,
  self_weight_decay: float = 1e-4,
) -> Method:
  """Returns the method in which a leader learns from the fusion of diverse students.

  Common students 1..n, a fusion of their last maps F^M, the leader 0 and
  self-distillation modules R_i are trained together:

      student i   CE + mean_{j != i} T^2 KL(p_j || p_i)
                     + diversity_weight (D_i + sum_m d(A_i^m, A(R_i(t_i))^m)), i > 1
      fusion f    CE + T^2 KL(p_e || p_f), with z_e the students' mean logits
      leader 0    CE + T^2 KL(p_f || p_0)
                     + fusion_weight (d(A_0^M, A_f) + d(A(s(F_0^M)), A_e))
                     + fusion_weight sum_m d(A_0^m, A(R_0(F_f))^m)
      R_i         self_weight sum_m (d(A(R_i(F_i^M))^m, A_i^m)
                                     + d(R_i(F_i^M)^m, F_i^m)), i != 1

  A is attention, the squared map over its channels, d a distance of maps of unit norm.
  D_i pulls A_i^M to where student i - 1 does not look, and t_i is that target as a map.
  R_i, the self-distillation module, turns the last map into those of the shallower
  stages m < M; s gives the leader's map the size of all students' together, F_e. All
  that crosses members or modules is detached, and R_i is used as it was before the
  step, in evaluation mode. The three weights rise over `ramp_epochs` with exp(-5 (1 - e
  / ramp_epochs)^2), e from 1. The fusion's labels are those of the first student, which
  matters only where members see different images. One stage has no R_i.

  Args:
    leader: name of the leading member, the only one exported; "" is the last. All
      others are common students.
    stages: names of the feature maps from shallow to deep; () is all of "stage1",
      "stage2", ... that members have.
    temperature: T > 0.
    diversity_weight: weight of the students' diversity.
    fusion_weight: weight of the leader's feature terms.
    self_weight: weight of the self-distillation modules' own loss.
    ramp_epochs: epochs until the weights are reached; 0 for at once.
    variant: "released", as the authors' code, or "paper".
    fusion_weight_decay: weight decay of the fusion; below zero, what the variant has:
      1e-5 in "released", the members' own in "paper".
    self_learning_rate: Adam's learning rate for the self-distillation modules; it
      follows the run's schedule.
    self_weight_decay: their weight decay.

  Raises:
    ConfigError: for values out of range, and at initialisation for a cohort or stages
      that do not suit.

  Reference:
    S. Li, M. Lin, Y. Wang, Y. Wu, Y. Tian, L. Shao, R. Ji: Distilling a Powerful
      Student Model via Online Knowledge Distillation. IEEE TNNLS 2022, equations
      2 to 14.
  Differs from the paper: "released" takes d as a mean of squares, not a norm; the mean
  over peers, not the sum; fusion_weight, not self_weight, for the leader's shallow
  stages; compares the leader's attention, not its maps themselves (equations 5 and 13);
  lets the fusion decay less than the members; and makes the diverse attention from the
  normalised one, not scaled again, so that D_i is in the hundreds. "paper" undoes all
  six. The column "Ens" of the paper's
  tables counts an example as correct if any student is; the prediction `ensemble` is
  not that.
  """
  require_choice(variant=(variant, ("released", "paper")))
  require_positive(temperature=temperature, self_learning_rate=self_learning_rate)
  require_not_negative(
    diversity_weight=diversity_weight,
    fusion_weight=fusion_weight,
    self_weight=self_weight,
    ramp_epochs=ramp_epochs,
    self_weight_decay=self_weight_decay,
  )
  distances = RELEASED
  leader_ladder_weight = fusion_weight
  fusion_keys = {"weight_decay": 1e-5}
  if variant == "paper":
    distances = PRINTED
    leader_ladder_weight = self_weight
    fusion_keys = {}
  if fusion_weight_decay >= 0:
    fusion_keys = {"weight_decay": fusion_weight_decay}
  settings = _Settings(
    leader=leader,
    stages=tuple(stages),
    temperature=temperature,
    distances=distances,
    mean_over_peers=variant == "released",
    diversity_weight=diversity_weight,
    fusion_weight=fusion_weight,
    leader_ladder_weight=leader_ladder_weight,
    ladder_weight=self_weight,
    ramp_epochs=ramp_epochs,
  )

  def tx(owner: str, recipe: Recipe) -> optax.GradientTransformation:
    if owner == SHARED:
      return recipe(**fusion_keys)
    ladder = recipe(
      name="adam", learning_rate=self_learning_rate, weight_decay=self_weight_decay
    )
    return optax.multi_transform({"transfer": recipe(), "ladder": ladder}, _label_parts)

  def exported(names: Sequence[str]) -> tuple[str]:
    return (leader or names[-1],)

  return Method(
    loss=functools.partial(_loss, settings),
    init=functools.partial(_init, settings),
    predict=functools.partial(_predict, settings),
    tx=tx,
    exported=exported,
    min_members=3,
    symmetric=False,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
  """What the loss reads of the config; `variant` has been decided.

  Attributes:
    leader: name of the leading member, "" for the last.
    stages: names of the maps, () for all stages that members share.
    temperature: T.
    distances: of the variant.
    mean_over_peers: a student's KL is the mean over its peers; else their sum.
    diversity_weight: of the students' diversity.
    fusion_weight: of the leader's last stage.
    leader_ladder_weight: of the leader's shallow stages.
    ladder_weight: of the ladders' own loss.
    ramp_epochs: epochs until the weights are reached.
  """

  leader: str
  stages: tuple[str, ...]
  temperature: float
  distances: Distances
  mean_over_peers: bool
  diversity_weight: float
  fusion_weight: float
  leader_ladder_weight: float
  ladder_weight: float
  ramp_epochs: float

  def roles(self, outputs: Outputs) -> Roles:
    """Returns the roles of the members, with the defaults resolved."""
    members = outputs.members
    leader = self.leader or members[-1]
    students = tuple(name for name in members if name != leader)
    stages = self.stages or _shared_stages(outputs)
    return Roles(leader=leader, students=students, stages=stages)


def _loss(settings: _Settings, step: Step) -> Objective:
  """Returns the objective of a step; see `ffsd`."""
  outputs = step.outputs
  roles = settings.roles(outputs)
  leader = roles.leader
  maps, fits = member_maps(outputs, roles.stages)
  alive = dict(zip(outputs.members, outputs.alive & fits, strict=True))
  detached = jax.lax.stop_gradient(maps)
  distances = settings.distances

  # The modules: all of them run on the batch, the fusion detached from members.
  parts = make_parts(roles, maps, outputs.logits.shape[-1])
  trained = train_parts(parts, step.modules)
  fused, fusion_logits = trained.output[SHARED]["fusion"]
  restored = trained.output[leader]["transfer"]
  fused = jax.lax.stop_gradient(fused)
  students_maps = parts[SHARED]["fusion"].x
  with_ladder = [name for name in outputs.members if "ladder" in parts.get(name, {})]

  def ladder_distance(name: str, top: jax.Array, distance: Distance) -> jax.Array:
    """Distance of a member's shallow maps from what its ladder makes of `top`."""
    if name not in with_ladder:
      return jnp.float32(0)
    wanted = run_part(parts, step.modules, name, "ladder", top)
    return _total(distance, maps[name][:-1], jax.lax.stop_gradient(wanted))

  # Logits: students learn from each other, the fusion from them, the leader from it.
  terms = _logit_terms(
    step,
    fusion_logits,
    outputs.members.index(leader),
    temperature=settings.temperature,
    mean_over_peers=settings.mean_over_peers,
  )

  # The students: kept apart by shifted attention (equations 7 to 9).
  attention = {roles.students[0]: jnp.float32(0)}
  extra = {roles.students[0]: jnp.float32(0)}
  for previous, student in itertools.pairwise(roles.students):
    diversity, target = distances.diversity(maps[student][-1], detached[previous][-1])
    term = diversity + ladder_distance(student, target, distances.attention)
    attention[student] = jnp.where(alive[previous], term, 0)
    extra[student] = settings.diversity_weight * attention[student]

  # The leader: follows the fusion's last map, and its own ladder in the shallow stages
  # (equations 5 and 13).
  own_map = maps[leader][-1]
  last_stage = distances.leader(own_map, fused) + distances.leader(
    restored, students_maps
  )
  attention[leader] = last_stage
  shallow_stages = ladder_distance(leader, fused, distances.leader)
  extra[leader] = (
    settings.fusion_weight * last_stage + settings.leader_ladder_weight * shallow_stages
  )

  # The ladders: learn to rebuild a member's shallow maps from its last one
  # (equation 14).
  def rebuild_loss(made: jax.Array, wanted: jax.Array) -> jax.Array:
    return distances.attention(made, wanted) + distances.features(made, wanted)

  ladder_loss = jnp.float32(0)
  for name in with_ladder:
    made = trained.output[name]["ladder"]
    own_loss = _total(rebuild_loss, made, detached[name][:-1])
    ladder_loss += jnp.where(alive[name], own_loss, 0)

  def by_member(values: dict[str, jax.Array]) -> jax.Array:
    return jnp.stack([values[name] for name in outputs.members])

  ramp = _ramp(step.context.epoch + 1, settings.ramp_epochs)
  return Objective(
    member=step.label_loss + terms.kl + ramp * by_member(extra),
    shared=(
      terms.fusion_ce + terms.fusion_kl + ramp * settings.ladder_weight * ladder_loss
    ),
    metrics={
      "kl": terms.kl,
      "attention": by_member(attention),
      "fusion_ce": terms.fusion_ce,
      "self": ladder_loss,
    },
    stats=trained.stats,
  )


class _LogitTerms(NamedTuple):
  """The terms of the objective that compare logits.

  Attributes:
    kl: f32[M] of each member to its teachers.
    fusion_ce: f32[] cross-entropy of the fusion.
    fusion_kl: f32[] of the fusion to the students.
  """

  kl: jax.Array
  fusion_ce: jax.Array
  fusion_kl: jax.Array


def _logit_terms(
  step: Step,
  fusion_logits: jax.Array,
  leader: int,
  *,
  temperature: float,
  mean_over_peers: bool,
) -> _LogitTerms:
  """Compares the logits of members and fusion.

  Args:
    step: the step.
    fusion_logits: [B, C].
    leader: the leader's place among the members.
    temperature: T.
    mean_over_peers: whether a student's KL is the mean over its peers; else their sum.
  """
  logits = step.outputs.logits
  teachers = jax.lax.stop_gradient(logits)
  is_student = jnp.arange(len(logits)) != leader

  # Each student learns from the other students.
  among_students = is_student[:, None] & is_student[None, :]
  peers = (step.outputs.peers & among_students).astype(jnp.float32)
  pairs = losses.pairwise_kl(logits, teachers, temperature).mean(axis=-1)
  student_kl = (peers * pairs).sum(axis=1)
  if mean_over_peers:
    student_kl /= jnp.maximum(peers.sum(axis=1), 1)

  # The leader learns from the fusion.
  detached_fusion = jax.lax.stop_gradient(fusion_logits)
  leader_kl = losses.kl_divergence(logits[leader], detached_fusion, temperature).mean()

  # The fusion learns from the students' mean logits, and from the first one's labels.
  teaches = is_student & step.outputs.alive
  total = jnp.where(teaches[:, None, None], teachers, 0).sum(axis=0)
  mean = total / jnp.maximum(teaches.sum(), 1)
  fusion_kl = losses.kl_divergence(fusion_logits, mean, temperature).mean()
  first_student = 1 if leader == 0 else 0
  target = step.views.target[first_student]
  return _LogitTerms(
    kl=jnp.where(is_student, student_kl, leader_kl),
    fusion_ce=losses.soft_cross_entropy(fusion_logits, target).mean(),
    fusion_kl=jnp.where(teaches.any(), fusion_kl, 0),
  )


def _total(
  distance: Callable[[jax.Array, jax.Array], jax.Array],
  students: Sequence[jax.Array],
  teachers: Sequence[jax.Array],
) -> jax.Array:
  """Sums a distance over the maps of several stages."""
  total = jnp.float32(0)
  for student, teacher in zip(students, teachers, strict=True):
    total += distance(student, teacher)
  return total


def _ramp(epoch: jax.Array | int, length: float) -> jax.Array:
  """Returns the fraction of the full weights in `epoch`, counted from 1."""
  if not length:
    return jnp.float32(1)
  return jnp.exp(-5 * (1 - jnp.minimum(epoch / length, 1.0)) ** 2)


def _label_parts(params: dict[str, PyTree]) -> dict[str, str]:
  """Labels every module's parameters by the name of the optimiser they have."""
  return {part: part for part in params}


def _init(
  settings: _Settings, key: jax.Array, setup: Setup
) -> tuple[Variables, PyTree]:
  """Initialises the modules."""
  roles = settings.roles(setup.outputs)
  _require_stages(roles, setup.outputs)
  _require_one_size(roles, setup.outputs)

  def maps_of(outputs: Outputs) -> Maps:
    maps, _ = member_maps(outputs, roles.stages)
    return maps

  shapes = jax.eval_shape(maps_of, setup.outputs)
  maps = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return init_parts(key, make_parts(roles, maps, setup.num_classes)), {}


def _predict(
  settings: _Settings, modules: Variables, memory: PyTree, outputs: Outputs
) -> dict[str, jax.Array]:
  """Predicts with the mean of all members and with the fusion."""
  roles = settings.roles(outputs)
  maps, _ = member_maps(outputs, roles.stages)
  parts = make_parts(roles, maps, outputs.logits.shape[-1])
  _, logits = run_part(parts, modules, SHARED, "fusion")
  fusion = {"fusion": jax.nn.log_softmax(logits)}
  return mean_ensemble(modules, memory, outputs) | fusion


def _shared_stages(outputs: Outputs) -> tuple[str, ...]:
  """Returns the stages that all members have, from shallow to deep."""
  groups = list(outputs.groups.values())
  return tuple(
    stage
    for stage in groups[0].stages
    if all(stage in output.features for output in groups)
  )


def _require_stages(roles: Roles, outputs: Outputs) -> None:
  """Raises ConfigError unless there is a leader and all members have suitable maps."""
  require(
    roles.leader in outputs.members,
    f"leader {roles.leader!r} is no member: members are {', '.join(outputs.members)}",
  )
  require(
    bool(roles.stages),
    "the members share no map stage1, stage2, ...: name their maps in method.stages",
  )
  for group, output in outputs.groups.items():
    known = []
    for name, feature in output.features.items():
      if len(feature.shape) == 5:
        known.append(name)
    for stage in roles.stages:
      require(
        stage in known,
        f"method.stages: {stage!r} is no feature map of {group}: "
        f"it has {', '.join(known)}",
      )
    sizes = _map_sizes(outputs, group, roles.stages)
    for shallow, deep in itertools.pairwise(roles.stages):
      larger, smaller = sizes[shallow][:2], sizes[deep][:2]
      require(
        larger == [2 * side for side in smaller],
        f"method.stages: {deep} must have half the height and width of {shallow}, "
        f"but they are {smaller} and {larger} in {group}: name stages that halve them",
      )


def _require_one_size(roles: Roles, outputs: Outputs) -> None:
  """Raises ConfigError unless maps have one shape, but for the leader's channels."""
  reference = _group_of(roles.students[0])
  reference_sizes = _map_sizes(outputs, reference, roles.stages)
  for name in outputs.members:
    group = _group_of(name)
    sizes = _map_sizes(outputs, group, roles.stages)
    for stage in roles.stages:
      size, other = reference_sizes[stage], sizes[stage]
      require(
        name == roles.leader or size == other,
        "the common students must have one architecture: "
        f"{stage} is {size} in {reference} and {other} in {group}",
      )
      require(
        size[:2] == other[:2],
        "the leader's maps must have the students' height and width: "
        f"{stage} is {size[:2]} in {reference} and {other[:2]} in {group}",
      )


def _map_sizes(
  outputs: Outputs, group: str, stages: Sequence[str]
) -> dict[str, list[int]]:
  """Returns stage -> [H, W, D] of a group's maps."""
  features = outputs.groups[group].features
  return {stage: list(features[stage].shape[2:]) for stage in stages}


def _group_of(member: str) -> str:
  """Returns the name of a member's group."""
  return member.rpartition(".")[0]
