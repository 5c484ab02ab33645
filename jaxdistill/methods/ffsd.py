"""FFSD: a leader learns from the fused features of common students that are kept diverse."""

from collections.abc import Sequence
import functools
import itertools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdistill import losses
from jaxdistill.core import rng
from jaxdistill.core.method import Method, mean_ensemble
from jaxdistill.core.types import Objective, Outputs, PyTree
from jaxdistill.errors import (
  require,
  require_choice,
  require_not_negative,
  require_positive,
)
from jaxdistill.nn.conv import batch_norm, convolution, member_conv


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
  fusion_weight_decay: float = 1e-5,
  self_learning_rate: float = 1e-3,
  self_weight_decay: float = 1e-4,
) -> Method:
  """Trains common students 1..n, a fusion of their last maps F^M, and a leader that learns from the fusion.

      student i   CE + mean_{j != i} T^2 KL(p_j || p_i) + diversity_weight (D_i + sum_m d(A_i^m, A(R_i(t_i))^m)), i > 1
      fusion f    CE + T^2 KL(p_e || p_f), with z_e the students' mean logits
      leader 0    CE + T^2 KL(p_f || p_0) + fusion_weight (d(A_0^M, A_f) + d(A(s(F_0^M)), A_e))
                     + fusion_weight sum_m d(A_0^m, A(R_0(F_f))^m)
      R_i         self_weight sum_m (d(A(R_i(F_i^M))^m, A_i^m) + d(R_i(F_i^M)^m, F_i^m)), i != 1

  A is attention, the squared map over its channels, d a distance of maps of unit norm.
  D_i pulls A_i^M to where student i - 1 does not look, and t_i is that target as a map.
  R_i, the self-distillation module, turns the last map into those of the shallower
  stages m < M; s gives the leader's map the size of all students' together, F_e. All
  that crosses members or modules is detached, and R_i is used as it was before the
  step, in evaluation mode. The three weights rise over `ramp_epochs` with exp(-5 (1 - e
  / ramp_epochs)^2), e from 1. The fusion's labels are those of the first student, which
  matters only where members see different images. One stage has no R_i.

  Args:
    leader: name of the leading member, the only one deployed; "" is the last. All
      others are common students.
    stages: names of the feature maps from shallow to deep; () is all of "stage1",
      "stage2", ... that members have.
    temperature: T > 0.
    diversity_weight: weight of the students' diversity.
    fusion_weight: weight of the leader's feature terms.
    self_weight: weight of the self-distillation modules' own loss.
    ramp_epochs: epochs until the weights are reached; 0 for at once.
    variant: "released", as the authors' code, or "paper".
    fusion_weight_decay: weight decay of the fusion.
    self_learning_rate: Adam's learning rate for the self-distillation modules; it
      follows the run's schedule.
    self_weight_decay: their weight decay.

  Raises:
    ConfigError: for values out of range, and at initialisation for a cohort or stages
      that do not suit.

  Reference:
    S. Li, M. Lin, Y. Wang, Y. Wu, Y. Tian, L. Shao, R. Ji: Distilling a Powerful
      Student Model via Online
    Knowledge Distillation. IEEE TNNLS 2022, equations 2 to 14.
  Differs from the paper: "released" takes d as a mean of squares, not a norm; the mean
  over peers, not the sum; fusion_weight, not self_weight, for the leader's shallow
  stages; and makes the diverse attention from the normalised one, not scaled again, so
  that D_i is in the hundreds. "paper" undoes all four. The column "Ens" of the paper's
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
    fusion_weight_decay=fusion_weight_decay,
    self_weight_decay=self_weight_decay,
  )
  weights = dict(diversity=diversity_weight, fusion=fusion_weight, self=self_weight)
  return Method(
    loss=functools.partial(
      _loss, leader, tuple(stages), variant, temperature, weights, ramp_epochs
    ),
    init=functools.partial(_init, leader, tuple(stages)),
    predict=functools.partial(_predict, leader, tuple(stages)),
    tx=lambda recipe: optax.multi_transform(
      {
        "fusion": recipe(weight_decay=fusion_weight_decay),
        "transfer": recipe(),
        "self": recipe(
          name="adam", learning_rate=self_learning_rate, weight_decay=self_weight_decay
        ),
      },
      lambda params: {part: part for part in params},
    ),
    exported=lambda names: (leader or names[-1],),
    min_members=3,
    symmetric=False,
  )


class _Separable(nn.Module):
  """A depthwise 3x3 and a 1x1 convolution, each normalised and rectified: the released code's map of maps."""

  features: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.relu(batch_norm(train)(convolution(x.shape[-1], 3, groups=x.shape[-1])(x)))
    return nn.relu(batch_norm(train)(convolution(self.features, 1)(x)))


class _Fusion(nn.Module):
  """Fuses the students' concatenated maps and classifies the result: (map, logits)."""

  features: int
  num_classes: int

  @nn.compact
  def __call__(self, x, train):
    fused = _Separable(self.features)(x, train)
    return fused, nn.Dense(self.num_classes)(fused.mean((1, 2)))


class _Ladder(nn.Module):
  """Turns the last map into those of the shallower stages, `features` channels each, shallow to deep."""

  features: tuple[int, ...]

  @nn.compact
  def __call__(self, x, train):
    maps = []
    for features in reversed(self.features):
      # PyTorch's ConvTranspose2d(kernel 3, stride 2, padding 1, output_padding 1).
      x = nn.Conv(
        features,
        (3, 3),
        input_dilation=(2, 2),
        padding=((1, 2), (1, 2)),
        use_bias=False,
        conv_general_dilated=member_conv,
      )(x)
      x = nn.relu(batch_norm(train)(x))
      maps.append(x)
    return maps[::-1]


class _Roles(NamedTuple):
  """Who leads, who is a common student, and the names of the stages from shallow to deep."""

  leader: str
  students: tuple[str, ...]
  stages: tuple[str, ...]


def _roles(leader: str, stages: tuple[str, ...], outputs: Outputs) -> _Roles:
  """Resolves the defaults of `leader` and `stages`."""
  lead = leader or outputs.members[-1]
  if not stages:
    shared = set.intersection(
      *(set(output.features) for output in outputs.groups.values())
    )
    numbered = [
      name for name in shared if name.startswith("stage") and name[5:].isdecimal()
    ]
    stages = tuple(sorted(numbered, key=lambda name: int(name[5:])))
  return _Roles(lead, tuple(name for name in outputs.members if name != lead), stages)


def _maps(outputs: Outputs, stages: tuple[str, ...]) -> dict[str, list[jax.Array]]:
  """Returns every member's maps [B, H, W, D], one for each stage."""
  return {
    name: [outputs.features(s)[name].astype(jnp.float32) for s in stages]
    for name in outputs.members
  }


def _modules(
  roles: _Roles, maps: dict[str, list], num_classes: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the modules, in the tree their parameters are kept in, and what each reads: only "transfer" attached."""
  held, lead = jax.lax.stop_gradient(maps), maps[roles.leader][-1]
  joined = jnp.concatenate([held[name][-1] for name in roles.students], axis=-1)
  climbing = (*roles.students[1:], roles.leader) if len(roles.stages) > 1 else ()
  modules = {
    "fusion": _Fusion(lead.shape[-1], num_classes),
    "transfer": _Separable(joined.shape[-1]),
    "self": {
      name: _Ladder(tuple(x.shape[-1] for x in maps[name][:-1])) for name in climbing
    },
  }
  return modules, {
    "fusion": joined,
    "transfer": lead,
    "self": {name: held[name][-1] for name in climbing},
  }


def _require_suitable(roles: _Roles, outputs: Outputs) -> None:
  """Raises ConfigError unless the members' maps have the sizes that the method needs."""
  require(
    roles.leader in outputs.members,
    f"leader {roles.leader!r} is no member: members are {', '.join(outputs.members)}",
  )
  require(
    bool(roles.stages),
    "the members share no map stage1, stage2, ...: name their maps in method.stages",
  )
  sizes = {}
  for group, output in outputs.groups.items():
    for stage in roles.stages:
      known = [
        name for name, feature in output.features.items() if len(feature.shape) == 5
      ]
      require(
        stage in known,
        f"method.stages: {stage!r} is no feature map of {group}: it has {', '.join(known)}",
      )
    sizes[group] = [list(output.features[stage].shape[2:]) for stage in roles.stages]
    for (shallow, first), (deep, second) in itertools.pairwise(
      zip(roles.stages, sizes[group])
    ):
      require(
        first[:2] == [2 * n for n in second[:2]],
        f"method.stages: {deep} must have half the height and width of {shallow}, but they are {second[:2]} "
        f"and {first[:2]} in {group}: name stages that halve them",
      )
  reference = roles.students[0].rpartition(".")[0]
  for name in outputs.members:
    group = name.rpartition(".")[0]
    for stage, size, other in zip(roles.stages, sizes[reference], sizes[group]):
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


def _init(
  leader: str, stages: tuple[str, ...], key: jax.Array, setup
) -> tuple[PyTree, PyTree]:
  roles = _roles(leader, stages, setup.outputs)
  _require_suitable(roles, setup.outputs)
  shapes = jax.eval_shape(lambda outputs: _maps(outputs, roles.stages), setup.outputs)
  maps = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  make = lambda path, module, x: module.init(
    rng.stream(key, jax.tree_util.keystr(path)), x, train=False
  )
  variables = jax.tree_util.tree_map_with_path(
    make, *_modules(roles, maps, setup.num_classes)
  )
  part = lambda name: jax.tree.map(
    lambda v: v[name], variables, is_leaf=lambda v: "params" in v
  )
  return part("params"), part("batch_stats")


def _train(
  module: nn.Module, params: PyTree, stats: PyTree, x: jax.Array
) -> tuple[Any, PyTree]:
  """Runs a module on the batch's statistics; returns its output and its new running statistics."""
  output, new = module.apply(
    {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
  )
  return output, new["batch_stats"]


def _run(module: nn.Module, params: PyTree, stats: PyTree, x: jax.Array) -> Any:
  return module.apply({"params": params, "batch_stats": stats}, x, train=False)


def _predict(
  leader: str, stages: tuple[str, ...], params, memory, outputs: Outputs
) -> dict[str, jax.Array]:
  roles = _roles(leader, stages, outputs)
  modules, inputs = _modules(
    roles, _maps(outputs, roles.stages), outputs.logits.shape[-1]
  )
  _, logits = _run(
    modules["fusion"], params["fusion"], memory["fusion"], inputs["fusion"]
  )
  return {**mean_ensemble(params, memory, outputs), "fusion": jax.nn.softmax(logits)}


def _ramp(epoch, length: float):
  """Share of the full weights in `epoch`, counted from 1."""
  return (
    jnp.exp(-5 * (1 - jnp.minimum(epoch / length, 1.0)) ** 2)
    if length
    else jnp.float32(1)
  )


def _root(squared: jax.Array) -> jax.Array:
  # The root's slope at zero is infinite; where its argument is clipped it is zero.
  return jnp.sqrt(jnp.maximum(squared, 1e-24))


def _attention_distance(
  student: jax.Array, teacher: jax.Array, variant: str
) -> jax.Array:
  squared = losses.attention_transfer(student, teacher)
  return (
    squared if variant == "released" else _root(squared * student[0, :, :, 0].size)
  ).mean()


def _map_distance(student: jax.Array, teacher: jax.Array, variant: str) -> jax.Array:
  squared = losses.feature_l2(student, teacher, "normalized")
  return (squared / student[0].size if variant == "released" else _root(squared)).mean()


def _diversity(
  features: jax.Array, previous: jax.Array, variant: str
) -> tuple[jax.Array, jax.Array]:
  """Returns how far a student's attention is from where the previous one does not look, and that target as a map."""
  if variant == "released":
    return losses.diversity(features, previous).mean(), losses.diversity_target(
      previous
    )
  # Equations 7 and 8 as printed.
  own, attention = (
    jnp.sum(x**2, axis=-1).reshape(x.shape[0], -1) for x in (features, previous)
  )
  half = _root(jnp.sum(attention**2, axis=1, keepdims=True)) / 2
  rank = max(attention.shape[1] // 3, 1) - 1
  threshold = jnp.sort(attention, axis=1)[:, rank : rank + 1]
  shifted = (half - attention) * jnp.sign(attention - threshold) + half
  # The paper leaves open how attention becomes a map: as in the released code, spread
  # evenly over the channels.
  change = ((shifted - attention) / previous.shape[-1]).reshape(*previous.shape[:3], 1)
  return _root(losses.feature_l2(own, shifted, "normalized")).mean(), previous + change


def _logit_terms(
  outputs: Outputs,
  fusion_logits: jax.Array,
  target: jax.Array,
  lead: int,
  temperature: float,
  variant: str,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns (CE f32[M], KL f32[M], CE of the fusion f32[], KL of the fusion f32[])."""
  order = jnp.arange(outputs.alive.size)
  common = order != lead
  teaching = common & outputs.alive
  peers = (
    common[:, None] & teaching[None, :] & (order[:, None] != order[None, :])
  ).astype(jnp.float32)
  teachers = jax.lax.stop_gradient(outputs.logits)
  pairs = losses.pairwise_kl(outputs.logits, teachers, temperature).mean(axis=-1)
  kl = (peers * pairs).sum(axis=1) / (
    jnp.maximum(peers.sum(axis=1), 1) if variant == "released" else 1
  )
  led = losses.kl_divergence(
    outputs.logits[lead], jax.lax.stop_gradient(fusion_logits), temperature
  ).mean()
  mean = jnp.where(teaching[:, None, None], teachers, 0).sum(axis=0) / jnp.maximum(
    teaching.sum(), 1
  )
  fusion_kl = jnp.where(
    teaching.any(), losses.kl_divergence(fusion_logits, mean, temperature).mean(), 0
  )
  first = 1 if lead == 0 else 0
  return (
    losses.soft_cross_entropy(outputs.logits, target).mean(axis=1),
    jnp.where(common, kl, led),
    losses.soft_cross_entropy(fusion_logits, target[first]).mean(),
    fusion_kl,
  )


def _loss(
  leader: str,
  stages: tuple[str, ...],
  variant: str,
  temperature: float,
  weights: dict[str, float],
  ramp_epochs: float,
  step,
) -> Objective:
  params, memory, outputs, batch, views, context = step
  roles, members = _roles(leader, stages, outputs), outputs.members
  lead, maps = members.index(roles.leader), _maps(outputs, roles.stages)
  held, alive = jax.lax.stop_gradient(maps), dict(zip(members, outputs.alive))
  modules, inputs = _modules(roles, maps, outputs.logits.shape[-1])
  trained = jax.tree.map(_train, modules, params, memory, inputs)
  (fused, fusion_logits), fusion_stats = trained["fusion"]
  near = functools.partial(_attention_distance, variant=variant)
  ce, kl, fusion_ce, fusion_kl = _logit_terms(
    outputs, fusion_logits, views.target, lead, temperature, variant
  )

  def shallow(name, top):
    """Distance of a member's shallower stages from what its module makes of the map `top`."""
    if not modules["self"]:
      return jnp.float32(0)
    wanted = jax.lax.stop_gradient(
      _run(modules["self"][name], params["self"][name], memory["self"][name], top)
    )
    return sum(map(near, maps[name][:-1], wanted))

  terms = {roles.students[0]: jnp.float32(0)}
  for previous, name in itertools.pairwise(roles.students):
    distance, target = _diversity(maps[name][-1], held[previous][-1], variant)
    terms[name] = jnp.where(alive[previous], distance + shallow(name, target), 0)
  top, guide = maps[roles.leader][-1], jax.lax.stop_gradient(fused)
  restored, transfer_stats = trained["transfer"]
  terms[roles.leader] = near(top, guide) + near(restored, inputs["fusion"])
  extra = {name: weights["diversity"] * term for name, term in terms.items()}
  extra[roles.leader] = weights["fusion"] * terms[roles.leader] + weights[
    "fusion" if variant == "released" else "self"
  ] * shallow(roles.leader, guide)

  own = jnp.float32(0)
  for name, (made, _) in trained["self"].items():
    pairs = list(zip(made, held[name]))
    own += jnp.where(
      alive[name], sum(near(*pair) + _map_distance(*pair, variant) for pair in pairs), 0
    )
  # The zeros that stand for a dead member's maps must not move running statistics.
  keep = lambda name, new, old: jax.tree.map(
    lambda n, o: jnp.where(alive[name], n, o), new, old
  )
  stats = {
    "fusion": fusion_stats,
    "transfer": keep(roles.leader, transfer_stats, memory["transfer"]),
    "self": {
      name: keep(name, new, memory["self"][name])
      for name, (_, new) in trained["self"].items()
    },
  }
  ramp = _ramp(context.epoch + 1, ramp_epochs)
  stack = lambda values: jnp.stack([values[name] for name in members])
  return Objective(
    ce + kl + ramp * stack(extra),
    fusion_ce + fusion_kl + ramp * weights["self"] * own,
    {"kl": kl, "attention": stack(terms), "fusion_ce": fusion_ce, "self": own},
    stats,
  )
