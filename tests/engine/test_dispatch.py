"""How many steps a dispatch may run, and what it does with the data set."""

import re

import jax
import numpy as np
import pytest

from jaxdistill.core.types import MethodState, TrainState
from jaxdistill.engine import sharding
from jaxdistill.engine.dispatch import common_period, make_dispatch
from jaxdistill.engine.resident import Resident, put_resident
from tests.helpers import toy


@pytest.mark.parametrize(
  "periods, limit, expected",
  [
    ((390, 39, 78000), 100, 39),
    ((390, 390, 780), 100, 78),
    ((7, 5), 100, 1),
    ((390, 390, 0), 1, 1),
    ((30, 60, 0), 20, 15),
  ],
)
def test_common_period(periods, limit, expected):
  assert common_period(periods, limit) == expected


def test_a_resident_split_gives_the_images_it_was_made_of():
  image, label = toy.data()
  split = Resident.flatten(image, label)
  index = np.array([5, 0, 5, 63])
  taken_image, taken_label = split.take(index)
  np.testing.assert_array_equal(taken_image, image[index])
  np.testing.assert_array_equal(taken_label, label[index])


def test_nothing_but_the_gather_of_a_batch_reads_the_data_set():
  """What reads all of it might copy it, in every dispatch."""

  def train_step(state, batch):
    assert batch.image.shape == (toy.BATCH, *toy.SHAPE)
    return state, {"brightness": batch.image.mean()}

  mesh = sharding.make_mesh(1)
  split = put_resident(mesh, *toy.data())
  dispatch = make_dispatch(
    train_step,
    mesh,
    batch_size=toy.BATCH,
    steps_per_epoch=toy.STEPS_PER_EPOCH,
    steps_per_dispatch=1,
  )
  state = TrainState(
    step=np.int32(0), key=jax.random.key(0), cohort={}, method=MethodState({}, ())
  )
  order = np.arange(toy.EXAMPLES, dtype=np.int32)
  program = dispatch.lower(state, split, order).as_text()
  data_set = f"tensor<{toy.EXAMPLES}x{np.prod(toy.SHAPE)}xui8>"
  readers = [line for line in program.splitlines() if data_set in line]
  operations = {
    re.search(r"func\.func|stablehlo\.\w+|call", line)[0] for line in readers
  }
  assert operations <= {"func.func", "call", "stablehlo.gather"}
  assert "stablehlo.gather" in operations
