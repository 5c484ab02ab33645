"""What a method returns is checked before anything is compiled."""

import jax
import jax.numpy as jnp
import pytest

from jaxdistill.core.method import Method
from jaxdistill.core.types import Objective
from jaxdistill.engine.train_step import init_state
from jaxdistill.errors import ConfigError
from tests.helpers import toy

EACH = jnp.zeros(3)


def init(objective):
  """Initialises a run of a method that returns this."""
  method = Method(
    loss=lambda step: objective,
    init=lambda key, setup: ({"net": ({}, {"mean": jnp.zeros(2)})}, jnp.zeros(4)),
  )

  def start():
    return init_state(
      0,
      toy.cohort("mixed"),
      method,
      lambda owner: toy.optimizer(),
      image_shape=toy.SHAPE,
      num_classes=toy.CLASSES,
      num_examples=toy.EXAMPLES,
      clock=toy.CLOCK,
    )

  return jax.eval_shape(start)


@pytest.mark.parametrize(
  "objective, message",
  [
    (Objective(member=jnp.zeros((3, 2))), r"Objective.member has the shape \[3, 2\]"),
    (Objective(member=jnp.zeros(())), r"Objective.member has the shape \[\]"),
    (Objective(member=EACH, shared=jnp.zeros(1)), r"Objective.shared has .* \[1\]"),
    (
      Objective(member=EACH, metrics={"kl": jnp.zeros(2)}),
      r"the metric 'kl' has the shape \[2\], it must be \[\] or \[3\]",
    ),
    (Objective(member=EACH, stats={"new": {}}), "Objective.stats: 'new' owns no"),
    (
      Objective(member=EACH, stats={"net": {"mean": jnp.zeros(3)}}),
      "Objective.stats of net must keep",
    ),
    (Objective(member=EACH, memory=jnp.zeros(5)), "Objective.memory must keep"),
  ],
)
def test_what_no_method_may_return_is_refused(objective, message):
  with pytest.raises(ConfigError, match=f"method: {message}"):
    init(objective)


def test_one_number_or_one_a_member_is_accepted():
  metrics = {"one": jnp.zeros(()), "each": EACH}
  state = init(Objective(member=EACH, shared=0.0, metrics=metrics, memory=jnp.ones(4)))
  assert state.method.memory.shape == (4,)
