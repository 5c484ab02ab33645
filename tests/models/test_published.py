"""Every network against an independent implementation with the same weights, carried over by their published names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.run import pretrained
from tests.references import draw, modules

CASES = {f"{name}/{case}": value for name, module in modules.MODULES.items() for case, value in module.CASES.items()}


@pytest.mark.parametrize("case", CASES)
def test_output_is_the_references(golden, case):
  ours, _, side = CASES[case]
  recorded, model = golden("networks"), ours()
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 3)), train=False))
  shapes = pretrained.shapes(variables)
  assert sorted(shapes) == recorded[f"{case}/names"].tolist()
  variables = pretrained.from_published(draw.tensors(shapes), variables)
  logits = jax.jit(lambda variables, image: model.apply(variables, image, train=False).logits)(variables, draw.image(side))
  expected = recorded[f"{case}/logits"]
  assert np.abs(expected[0] - expected[1]).max() > 1e-2  # two images tell apart: not a constant
  np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()), rtol=0)
