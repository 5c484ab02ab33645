"""The trained modules of FFSD: what they are, what each reads, and running them."""

import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core import rng
from jaxdistill.core.types import Outputs, PyTree
from jaxdistill.nn.conv import batch_norm, convolution, member_conv

Maps = dict[str, list[jax.Array]]
"""Member name -> its maps [B, H, W, D], one for each stage from shallow to deep."""


class Separable(nn.Module):
  """A depthwise 3x3 and a 1x1 convolution: the released code's map between maps.

  Each convolution is normalised and rectified.

  Attributes:
    features: channels of the result.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, D] to [B, H, W, features]."""
    channels = x.shape[-1]
    x = convolution(channels, 3, groups=channels)(x)
    x = nn.relu(batch_norm(train)(x))
    x = convolution(self.features, 1)(x)
    return nn.relu(batch_norm(train)(x))


class Fusion(nn.Module):
  """Fuses the students' concatenated maps and classifies the result.

  Attributes:
    features: channels of the fused map.
    num_classes: C.
  """

  features: int
  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """Returns (fused map [B, H, W, features], logits [B, C])."""
    # Initial weights and checkpoints depend on the name.
    fused = Separable(self.features, name="_Separable_0")(x, train)
    return fused, nn.Dense(self.num_classes)(fused.mean((1, 2)))


class Ladder(nn.Module):
  """The self-distillation module: turns the last map into those of shallower stages.

  Attributes:
    features: channels of these maps, shallow to deep.
  """

  features: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
    """Returns maps of twice, four times, ... the size of `x`, shallow to deep."""
    maps = []
    for features in reversed(self.features):
      # PyTorch's ConvTranspose2d(kernel 3, stride 2, padding 1, output_padding 1).
      x = nn.Conv(
        features,
        kernel_size=(3, 3),
        input_dilation=(2, 2),
        padding=((1, 2), (1, 2)),
        use_bias=False,
        conv_general_dilated=member_conv,
      )(x)
      x = nn.relu(batch_norm(train)(x))
      maps.append(x)
    return maps[::-1]


def train_module(
  module: nn.Module, params: PyTree, stats: PyTree, x: jax.Array
) -> tuple[Any, PyTree]:
  """Runs a module on the batch's statistics: (output, new running statistics)."""
  variables = {"params": params, "batch_stats": stats}
  output, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
  return output, new["batch_stats"]


def run_module(module: nn.Module, params: PyTree, stats: PyTree, x: jax.Array) -> Any:
  """Runs a module on its running statistics."""
  return module.apply({"params": params, "batch_stats": stats}, x, train=False)


class Roles(NamedTuple):
  """Who leads, and which maps are compared.

  Attributes:
    leader: name of the leading member.
    students: names of all others, the common students.
    stages: names of the feature maps from shallow to deep.
  """

  leader: str
  students: tuple[str, ...]
  stages: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Part:
  """A module of the method, and the map it reads in a step.

  Attributes:
    module: one of the above.
    x: [B, H, W, D].
  """

  module: nn.Module
  x: jax.Array


def make_parts(roles: Roles, maps: Maps, num_classes: int) -> dict[str, Any]:
  """Returns the modules, in the tree in which their parameters are kept.

  Args:
    roles: of the members.
    maps: of all members; only what "transfer" reads stays attached.
    num_classes: C.

  Returns:
    {"fusion": Part, "transfer": Part, "self": member name -> Part}. The first student
    has no ladder, and no member has one where there is a single stage.
  """
  detached = jax.lax.stop_gradient(maps)
  leader_map = maps[roles.leader][-1]
  students_maps = [detached[name][-1] for name in roles.students]
  joined = jnp.concatenate(students_maps, axis=-1)
  ladders = {}
  if len(roles.stages) > 1:
    for name in (*roles.students[1:], roles.leader):
      features = tuple(values.shape[-1] for values in maps[name][:-1])
      ladders[name] = Part(Ladder(features), detached[name][-1])
  return {
    "fusion": Part(Fusion(leader_map.shape[-1], num_classes), joined),
    "transfer": Part(Separable(joined.shape[-1]), leader_map),
    "self": ladders,
  }


def init_parts(key: jax.Array, parts: dict[str, Any]) -> tuple[PyTree, PyTree]:
  """Initialises the modules: (params, batch statistics), trees like `parts`."""

  def init(path, part: Part) -> PyTree:
    part_key = rng.stream(key, jax.tree_util.keystr(path))
    return part.module.init(part_key, part.x, train=False)

  variables = jax.tree_util.tree_map_with_path(init, parts)

  def select(collection: str) -> PyTree:
    return jax.tree.map(
      lambda part: part[collection], variables, is_leaf=lambda node: "params" in node
    )

  return select("params"), select("batch_stats")


def train_parts(parts: dict[str, Any], params: PyTree, stats: PyTree) -> dict[str, Any]:
  """Runs all modules on the batch's statistics: a tree of (output, new statistics)."""

  def train(part: Part, params: PyTree, stats: PyTree) -> tuple[Any, PyTree]:
    return train_module(part.module, params, stats, part.x)

  return jax.tree.map(train, parts, params, stats)


def member_maps(outputs: Outputs, stages: tuple[str, ...]) -> Maps:
  """Returns every member's maps in float32."""
  by_stage = [outputs.features(stage) for stage in stages]
  maps = {}
  for name in outputs.members:
    maps[name] = [features[name].astype(jnp.float32) for features in by_stage]
  return maps
