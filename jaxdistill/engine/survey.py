"""Passes of the whole cohort over a split between epochs.

They are for methods whose targets or weights come from one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from typing import NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from jaxdistill.core.method import GroupSpec, Method, Survey
from jaxdistill.core.types import Batch, PyTree, TrainState
from jaxdistill.engine import sharding
from jaxdistill.engine.compiler import compiler_options
from jaxdistill.engine.evaluate import make_forward
from jaxdistill.engine.resident import Delivered, Part, Resident
from jaxdistill.inputs.normalize import Channels


class Covered(Protocol):
  """A split that can be covered once: a `Resident`, or one that is read."""

  def parts(self, batch_size: int, /) -> Iterable[Part]:
    """Returns batches that cover every example once."""
    ...


class _Compiled(NamedTuple):
  """The jitted functions of a survey."""

  start: Callable
  collect: Callable
  finish: Callable


class Surveyor:
  """Makes a method's surveys; each is compiled when it is first due."""

  def __init__(
    self,
    specs: Sequence[GroupSpec],
    method: Method,
    *,
    mean: Channels,
    std: Channels,
    mesh: Mesh,
    batch_size: int,
  ):
    """Prepares the surveys of a method.

    Args:
      specs: the groups, in member order.
      method: its `surveys` are made.
      mean: of each channel, for all members or for each.
      std: standard deviation of each channel, likewise.
      mesh: device mesh.
      batch_size: examples of a batch, a multiple of the number of devices.
    """
    self._surveys = method.surveys
    self._mesh = mesh
    self._batch_size = batch_size
    self._forward = make_forward(specs, mean=mean, std=std)
    self._compiled: dict[int, _Compiled] = {}

  def due(self, epoch: int) -> bool:
    """Tells whether any survey is due before an epoch."""
    return any(survey.due(epoch) for survey in self._surveys)

  def run(
    self, state: TrainState, splits: Mapping[str, Covered], epoch: int
  ) -> TrainState:
    """Makes the surveys that are due before `epoch`, one after the other.

    Args:
      state: train state; its method's memory is given up.
      splits: name -> split.
      epoch: from 0.

    Returns:
      The state with the method's new memory.
    """
    for number, survey in enumerate(self._surveys):
      if survey.due(epoch):
        memory = self._run(number, survey, state, splits[survey.split])
        method = dataclasses.replace(state.method, memory=memory)
        state = dataclasses.replace(state, method=method)
    return state

  def _run(
    self,
    number: int,
    survey: Survey,
    state: TrainState,
    split: Covered,
  ) -> PyTree:
    """Makes one survey; returns the method's new memory."""
    memory = state.method.memory
    if number not in self._compiled:
      self._compiled[number] = self._prepare(survey, memory)
    start, collect, finish = self._compiled[number]
    collected = start(memory)
    for part, index, mask in split.parts(self._batch_size):
      collected = collect(state.cohort, memory, collected, part, index, mask)
      if isinstance(part, Delivered):
        # Else the images of all batches might wait on the devices.
        jax.block_until_ready(collected)
    return finish(memory, collected)

  def _prepare(self, survey: Survey, memory: PyTree) -> _Compiled:
    """Returns the jitted functions of a survey; tables stay split over the devices."""
    memory_sharding = sharding.state_sharding(self._mesh, memory)
    collected = jax.eval_shape(survey.start, memory)
    collected_sharding = sharding.state_sharding(self._mesh, collected)

    def collect(cohort, memory, collected, split: Resident | Delivered, index, mask):
      index, mask = sharding.constrain_rows(self._mesh, (index, mask))
      image, label = split.take(index)
      batch = Batch(image=image, label=label, index=index, mask=mask)
      outputs = self._forward(cohort, batch.image)
      return survey.collect(collected, memory, outputs, batch)

    return _Compiled(
      start=jax.jit(survey.start, out_shardings=collected_sharding),
      collect=jax.jit(
        collect,
        donate_argnums=2,
        out_shardings=collected_sharding,
        compiler_options=compiler_options(self._mesh),
      ),
      finish=jax.jit(survey.finish, out_shardings=memory_sharding),
    )
