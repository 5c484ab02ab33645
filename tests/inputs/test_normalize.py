"""From bytes to what networks see."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.inputs import normalize


def test_to_float():
  image = jnp.array([[0, 51, 255]], jnp.uint8)
  np.testing.assert_allclose(normalize.to_float(image), [[0, 0.2, 1]], rtol=1e-6)
  kept = jnp.array([[0.1, 0.2, 0.3]])
  np.testing.assert_array_equal(normalize.to_float(kept), kept)


@pytest.mark.parametrize("leading", [(), (2, 4), (3, 2, 4)])
def test_normalize(leading):
  image = jnp.broadcast_to(jnp.array([0.5, 0.6, 0.7]), leading + (5, 3))
  result = normalize.normalize(image, (0.5, 0.4, 0.2), (0.25, 0.1, 0.5))
  assert result.dtype == jnp.float32
  expected = np.broadcast_to([0.0, 2.0, 1.0], image.shape)
  np.testing.assert_allclose(result, expected, rtol=1e-5)
