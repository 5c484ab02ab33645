"""Exact evaluation over a whole split: members, and predictions of the method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from jaxdistill.core.method import GroupSpec, Predict, variables_of
from jaxdistill.core.types import Group, MethodState, Outputs, TrainState
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import active_members, forward, member_names
from jaxdistill.engine.compiler import jit_for_host
from jaxdistill.engine.measures import CLASSIFICATION, Row, Task
from jaxdistill.engine.resident import Delivered, Part, Resident
from jaxdistill.errors import DataError
from jaxdistill.inputs.normalize import Channels, normalize, to_float


class Evaluated(NamedTuple):
  """What an evaluation has measured.

  Attributes:
    rows: name -> measure -> value, those of the task; names in member order, then
      the method's predictions.
    count: number of the examples.
  """

  rows: dict[str, Row]
  count: int


def make_forward(
  specs: Sequence[GroupSpec], *, mean: Channels, std: Channels, evaluated: bool = False
) -> Callable[[Mapping[str, Group], jax.Array], Outputs]:
  """Returns the function that runs all members on the same images.

  It is (cohort, image uint8[B, H, W, 3]) -> Outputs, in evaluation mode.

  Args:
    specs: the groups, in member order.
    mean: of each channel, for all members or for each.
    std: standard deviation of each channel, likewise.
    evaluated: take the averaged weights, if there are any, instead of those in
      training.
  """
  num_members = len(member_names(specs))

  def run(cohort: Mapping[str, Group], image: jax.Array) -> Outputs:
    image = normalize(to_float(image)[None], mean, std)
    images = jnp.broadcast_to(image, (num_members, *image.shape[1:]))
    variables = variables_of(cohort, evaluated=evaluated)
    # Dropout is off: the key is not used.
    active = active_members(cohort)
    key = jax.random.key(0)
    return forward(specs, variables, images, key, train=False, active=active)[0]

  return run


class Scored(NamedTuple):
  """What all that is measured says of a batch.

  Attributes:
    outputs: forward pass of the members.
    scores: name -> logits f32[B, C] of every member and prediction, or the feature
      f32[B, D] of every member; NaN for a member that does not count.
  """

  outputs: Outputs
  scores: dict[str, jax.Array]


def make_scores(
  specs: Sequence[GroupSpec],
  predict: Predict | None,
  *,
  mean: Channels,
  std: Channels,
  feature: str = "",
) -> Callable[..., Scored]:
  """Returns the function that scores a batch of images.

  It is (cohort, method state, image uint8[B, H, W, 3] or f32 in [0, 1]) -> Scored.

  Args:
    specs: the groups, in member order.
    predict: predictions beside the members'; None for none.
    mean: of each channel, for all members or for each.
    std: standard deviation of each channel, likewise.
    feature: which one of the members is measured, and no prediction; "": their logits.
  """
  names = member_names(specs)
  run = make_forward(specs, mean=mean, std=std, evaluated=True)

  def score(
    cohort: Mapping[str, Group], method_state: MethodState, image: jax.Array
  ) -> Scored:
    outputs = run(cohort, image)
    scores = {}
    for m, name in enumerate(names):
      scores[name] = jnp.where(
        outputs.alive[m], _measured(outputs, m, feature), jnp.nan
      )
    if predict is not None and not feature:
      modules = variables_of(method_state.modules, evaluated=True)
      # Logarithms of probabilities are logits of the same distribution.
      scores |= predict(modules, method_state.memory, outputs)
    return Scored(outputs, scores)

  return score


def make_eval_step(
  specs: Sequence[GroupSpec],
  predict: Predict | None,
  *,
  mean: Channels,
  std: Channels,
  mesh: Mesh,
  task: Task = CLASSIFICATION,
) -> Callable:
  """Returns the jitted function that measures one batch of a split.

  Args:
    specs: the groups, in member order.
    predict: predictions that are measured beside the members; None for none.
    mean: of each channel, for all members or for each.
    std: standard deviation of each channel, likewise.
    mesh: device mesh.
    task: what is measured.

  Returns:
    (cohort, method state, split, index i32[B]) -> name -> what the task keeps of a
    batch, for every member and, where the task measures them, every prediction of the
    method.
  """
  score = make_scores(specs, predict, mean=mean, std=std, feature=task.feature)

  def eval_step(cohort, method_state, split: Resident | Delivered, index):
    index = sharding.constrain_rows(mesh, index)
    image, label = split.take(index)
    scores = score(cohort, method_state, image).scores
    return {name: task.per_batch(scored, label) for name, scored in scores.items()}

  return jit_for_host(eval_step, mesh)


def _measured(outputs: Outputs, m: int, feature: str) -> jax.Array:
  """Returns the feature of a member that is measured; its logits if that is ""."""
  if not feature:
    return outputs.logits[m]
  return outputs.features(feature)[outputs.members[m]]


def compile_eval(
  eval_step: Callable,
  state: TrainState,
  split: Resident | Delivered,
  batch_size: int,
) -> Callable:
  """Compiles `eval_step` for a split and a batch size, ahead of its first call.

  Args:
    eval_step: from `make_eval_step`.
    state: train state.
    split: on the devices; of a batch that will be read, the shapes.
    batch_size: examples of a batch.
  """
  index = np.zeros(batch_size, np.int32)
  return eval_step.lower(state.cohort, state.method, split, index).compile()


def evaluate(
  eval_step: Callable,
  state: TrainState,
  parts: Iterable[Part],
  mesh: Mesh,
  task: Task = CLASSIFICATION,
) -> Evaluated:
  """Measures the examples of all parts; each counts once, and padding does not.

  Args:
    eval_step: from `make_eval_step`, or `compile_eval`.
    state: train state.
    parts: the batches, each of a multiple of the number of devices.
    mesh: device mesh.
    task: what is measured, that of `eval_step`.

  Raises:
    DataError: if no example could be read.
  """
  values, count = collect(eval_step, state, parts, mesh)
  rows = {name: task.reduce(kept) for name, kept in values.items()}
  return Evaluated(rows=rows, count=count)


def collect(
  step: Callable,
  state: TrainState,
  parts: Iterable[Part],
  mesh: Mesh,
) -> tuple[Any, int]:
  """Returns what a step gives for the examples of all parts, and their number.

  Args:
    step: (cohort, method state, split, index) -> a pytree of arrays [B, ...].
    state: train state.
    parts: the batches, each of a multiple of the number of devices.
    mesh: device mesh.

  Returns:
    (the pytree, of host arrays [N, ...] without padding and without what could not be
    read; N).

  Raises:
    DataError: if no example could be read.
  """
  measured = []
  masks = []
  for split, index, mask in parts:
    measured.append(step(state.cohort, state.method, split, index))
    masks.append(sharding.gather_rows(mesh, mask))
    if isinstance(split, Delivered) and len(measured) > 1:
      # The images of a batch are given up when it has been measured.
      jax.block_until_ready(measured[-2])
  masks = jax.device_get(masks)
  is_measured = np.concatenate(masks) > 0
  if not is_measured.any():
    raise DataError("no image of a split that is evaluated can be read: see its files")
  measured = jax.device_get(measured)
  values = jax.tree.map(lambda *rows: np.concatenate(rows)[is_measured], *measured)
  return values, int(is_measured.sum())
