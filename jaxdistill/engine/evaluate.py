"""Exact evaluation over a whole split: members, and predictions of the method."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from jaxdistill.core.method import GroupSpec, Method, variables_of
from jaxdistill.core.types import Group, Outputs, TrainState
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import active_members, forward, member_names
from jaxdistill.engine.measures import MEASURES
from jaxdistill.engine.resident import Resident
from jaxdistill.inputs.normalize import Channels, normalize, to_float

Row = dict[str, float]
"""Measure -> value."""


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


def padded_batches(
  num_examples: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (index i32[B], mask f32[B]) that cover every example once.

  The last batch is padded with examples whose mask is 0.
  """
  for start in range(0, num_examples, batch_size):
    index = np.arange(start, start + batch_size)
    mask = index < num_examples
    yield np.minimum(index, num_examples - 1).astype(np.int32), mask.astype(np.float32)


def make_eval_step(
  specs: Sequence[GroupSpec],
  method: Method,
  *,
  mean: Channels,
  std: Channels,
  mesh: Mesh,
) -> Callable:
  """Returns the jitted function that measures one batch of a resident split.

  Args:
    specs: the groups, in member order.
    method: its predictions are measured beside the members.
    mean: of each channel, for all members or for each.
    std: standard deviation of each channel, likewise.
    mesh: device mesh.

  Returns:
    (cohort, method state, split, index i32[B]) -> name -> measure -> f32[B, ...], for
    every member and every prediction of the method.
  """
  names = member_names(specs)
  run = make_forward(specs, mean=mean, std=std, evaluated=True)

  def eval_step(cohort, method_state, split: Resident, index):
    index = sharding.constrain_rows(mesh, index)
    image, label = split.take(index)
    outputs = run(cohort, image)
    scores = {}
    for m, name in enumerate(names):
      scores[name] = jnp.where(outputs.alive[m], outputs.logits[m], jnp.nan)
    modules = variables_of(method_state.modules, evaluated=True)
    # Logarithms of probabilities are logits of the same distribution.
    scores |= method.predict(modules, method_state.memory, outputs)
    measured = {}
    for name, score in scores.items():
      measured[name] = {m.name: m.per_example(score, label) for m in MEASURES}
    return measured

  # The host reads all of it.
  return jax.jit(eval_step, out_shardings=sharding.replicated(mesh))


def compile_eval(
  eval_step: Callable, state: TrainState, split: Resident, batch_size: int
) -> Callable:
  """Compiles `eval_step` for a split and a batch size, ahead of its first call."""
  index = np.zeros(batch_size, np.int32)
  return eval_step.lower(state.cohort, state.method, split, index).compile()


def evaluate(
  eval_step: Callable,
  state: TrainState,
  split: Resident,
  *,
  num_examples: int,
  batch_size: int,
) -> dict[str, Row]:
  """Measures a whole split; the remainder is padded, and every example counts once.

  Args:
    eval_step: from `make_eval_step`, or `compile_eval`.
    state: train state.
    split: on the devices.
    num_examples: N.
    batch_size: examples of a batch, a multiple of the number of devices.

  Returns:
    name -> measure -> value, see `measures.MEASURES`; names in member order, then the
    method's predictions.
  """
  parts = []
  for index, _ in padded_batches(num_examples, batch_size):
    parts.append(eval_step(state.cohort, state.method, split, index))
  parts = jax.device_get(parts)
  values = jax.tree.map(lambda *rows: np.concatenate(rows)[:num_examples], *parts)
  return {name: _summarize(row) for name, row in values.items()}


def _summarize(values: Mapping[str, np.ndarray]) -> Row:
  """Reduces the values of a whole split to one number a measure."""
  return {measure.name: measure.reduce(values[measure.name]) for measure in MEASURES}
