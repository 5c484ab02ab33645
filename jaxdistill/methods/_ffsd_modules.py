"""The trained modules of FFSD: what they are, what each reads, and running them."""

import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.core import rng
from jaxdistill.core.method import SHARED
from jaxdistill.core.types import Outputs, PyTree, Variables
from jaxdistill.nn.conv import convolution, member_conv
from jaxdistill.nn.norm import batch_norm

# Attention is the square of a map.
_LARGEST = losses.LARGEST**0.5

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


Parts = dict[str, dict[str, Part]]
"""Owner -> name -> module."""


def make_parts(roles: Roles, maps: Maps, num_classes: int) -> Parts:
  """Returns the modules, by the owners of their parameters.

  Args:
    roles: of the members.
    maps: of all members; only what "transfer" reads stays attached.
    num_classes: C.

  Returns:
    The fusion, which is everybody's, the leader's "transfer", and a "ladder" for every
    member but the first student; for none where there is a single stage.
  """
  detached = jax.lax.stop_gradient(maps)
  leader_map = maps[roles.leader][-1]
  students_maps = [detached[name][-1] for name in roles.students]
  joined = jnp.concatenate(students_maps, axis=-1)
  parts = {
    SHARED: {"fusion": Part(Fusion(leader_map.shape[-1], num_classes), joined)},
    roles.leader: {"transfer": Part(Separable(joined.shape[-1]), leader_map)},
  }
  if len(roles.stages) == 1:
    return parts
  for name in (*roles.students[1:], roles.leader):
    features = tuple(values.shape[-1] for values in maps[name][:-1])
    ladder = Part(Ladder(features), detached[name][-1])
    parts[name] = {**parts.get(name, {}), "ladder": ladder}
  return parts


def init_parts(key: jax.Array, parts: Parts) -> Variables:
  """Initialises the modules: owner -> (params, batch statistics)."""
  variables = {}
  for owner, own_parts in parts.items():
    params = {}
    stats = {}
    for name, part in own_parts.items():
      part_key = rng.stream(key, f"{owner}.{name}")
      made = part.module.init(part_key, part.x, train=False)
      params[name] = made["params"]
      stats[name] = made["batch_stats"]
    variables[owner] = (params, stats)
  return variables


class Trained(NamedTuple):
  """What the modules return when they run on the batch's statistics.

  Attributes:
    output: owner -> name -> output.
    stats: owner -> name -> new running statistics.
  """

  output: dict[str, dict[str, Any]]
  stats: dict[str, PyTree]


def train_parts(parts: Parts, modules: Variables) -> Trained:
  """Runs all modules on the batch's statistics."""
  outputs = {}
  new_stats = {}
  for owner, own_parts in parts.items():
    params, stats = modules[owner]
    outputs[owner] = {}
    new_stats[owner] = {}
    for name, part in own_parts.items():
      outputs[owner][name], new_stats[owner][name] = train_module(
        part.module, params[name], stats[name], part.x
      )
  return Trained(outputs, new_stats)


def run_part(
  parts: Parts,
  modules: Variables,
  owner: str,
  name: str,
  x: jax.Array | None = None,
) -> Any:
  """Runs a module on its running statistics.

  Args:
    parts: from `make_parts`.
    modules: from `init_parts`.
    owner: of the module.
    name: of the module.
    x: what it reads, if not what it reads in a step.
  """
  part = parts[owner][name]
  params, stats = modules[owner]
  if x is None:
    x = part.x
  return run_module(part.module, params[name], stats[name], x)


def member_maps(outputs: Outputs, stages: tuple[str, ...]) -> tuple[Maps, jax.Array]:
  """Returns every member's maps in float32, and whose are within range, bool[M].

  Maps that are not are zeros.
  """
  fits = jnp.ones(outputs.alive.shape, bool)
  maps = {name: [] for name in outputs.members}
  for stage in stages:
    bounded, fit = outputs.within_range(stage, _LARGEST)
    fits &= fit
    for name, values in bounded.features(stage).items():
      maps[name].append(values)
  return maps, fits
