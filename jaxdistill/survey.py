"""Passes of the whole cohort over a split between epochs, for methods whose targets or weights come from one."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxdistill import evaluate, sharding
from jaxdistill.protocol import GroupSpec, Method, Survey
from jaxdistill.types import Batch, TrainState


class Surveyor:
  """Makes a method's surveys; each is compiled when it is first due."""

  def __init__(self, specs: Sequence[GroupSpec], method: Method, *, mean, std, mesh: Any, batch_size: int):
    """Prepares the surveys of a method.

    Args:
      specs: the groups, in member order.
      method: its `surveys` are made.
      mean, std: per-channel statistics in [0, 1].
      mesh: device mesh.
      batch_size: examples of a batch, a multiple of the number of devices.
    """
    self._surveys, self._mesh, self._batch_size = method.surveys, mesh, batch_size
    self._forward = evaluate.make_forward(specs, mean, std)
    self._functions: dict[int, tuple[Callable, ...]] = {}

  def due(self, epoch: int) -> bool:
    """Tells whether any survey is due before an epoch."""
    return any(survey.due(epoch) for survey in self._surveys)

  def run(self, state: TrainState, splits: dict[str, tuple], epoch: int) -> TrainState:
    """Makes the surveys that are due before `epoch`, one after the other.

    Args:
      state: train state; its method's memory is given up.
      splits: name -> (image uint8[N, H, W, 3], label i32[N]) on the devices.
      epoch: from 0.

    Returns:
      The state with the method's new memory.
    """
    for number, survey in enumerate(self._surveys):
      if survey.due(epoch):
        memory = self._run(number, survey, state, *splits[survey.split])
        state = state.replace(method=state.method.replace(memory=memory))
    return state

  def _run(self, number: int, survey: Survey, state: TrainState, image, label):
    memory = state.method.memory
    if number not in self._functions:
      placed = sharding.state_sharding(self._mesh, memory)
      collected = sharding.state_sharding(self._mesh, jax.eval_shape(survey.start, memory))
      self._functions[number] = (
          jax.jit(survey.start, out_shardings=collected),
          jax.jit(self._make_collect(survey), donate_argnums=2, out_shardings=collected),
          jax.jit(survey.finish, out_shardings=placed))
    start, collect, finish = self._functions[number]
    collected = start(memory)
    for index, mask in evaluate.padded_batches(len(label), self._batch_size):
      collected = collect(state.cohort, memory, collected, image, label, index, mask)
    return finish(memory, collected)

  def _make_collect(self, survey: Survey) -> Callable:
    def collect(cohort, memory, collected, image, label, index, mask):
      index, mask = sharding.constrain_rows(self._mesh, (index, mask))
      image, label = image[index], label[index]
      return survey.collect(collected, memory, self._forward(cohort, image), Batch(image, label, index, mask))
    return collect
