"""Networks against independent implementations with the same weights.

Weights are carried over by their published names.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.run import pretrained
from tests.references import draw, modules

CASES = modules.cases()


def test_every_recorded_case_has_its_reference_and_the_other_way_round(golden):
  # A network without a reference is no error, a reference that was lost is one.
  recorded = {key.rpartition("/")[0] for key in golden("networks")}
  assert recorded == set(CASES)


def test_references_are_of_listed_networks():
  families = {name.split(".")[0] for name in registry.list_available("models")}
  assert set(modules.MODULES) <= families


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_output_is_the_references(golden, case):
  model = CASES[case].ours()
  side = CASES[case].side
  recorded = golden("networks")

  def init():
    return model.init(jax.random.key(0), jnp.zeros((1, side, side, 3)), train=False)

  structure = jax.eval_shape(init)
  shapes = pretrained.shapes(structure)
  assert sorted(shapes) == recorded[f"{case}/names"].tolist()

  @jax.jit
  def logits(variables, image):
    return model.apply(variables, image, train=False).logits

  variables = pretrained.from_published(draw.tensors(shapes), structure)
  found = logits(variables, draw.image(side))
  expected = recorded[f"{case}/logits"]
  # Two images tell apart: not a constant.
  assert np.abs(expected[0] - expected[1]).max() > 1e-2
  limit = 1e-4 * max(1, np.abs(expected).max())
  np.testing.assert_allclose(found, expected, atol=limit, rtol=0)
