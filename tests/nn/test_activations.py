"""Non-linearities and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.nn.activations import relu6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu6_has_no_derivative_at_its_bounds(dtype):
  x = jnp.array([-1, 0, 0.5, 5.5, 6, 7, jnp.nan], dtype)
  clipped = relu6(x)
  assert clipped.dtype == dtype
  expected = jnp.array([0, 0, 0.5, 5.5, 6, 6, jnp.nan])
  np.testing.assert_array_equal(clipped.astype(jnp.float32), expected)
  gradient = jax.grad(lambda x: relu6(x).sum())(x[:-1])
  assert gradient.dtype == dtype
  np.testing.assert_array_equal(gradient.astype(jnp.float32), [0, 0, 1, 1, 0, 0])


def test_relu6_is_jaxs_away_from_its_bounds(rng):
  x = jnp.asarray(rng.normal(3, 4, 100), jnp.float32)
  np.testing.assert_array_equal(relu6(x), jax.nn.relu6(x))
  own = jax.grad(lambda x: jnp.square(relu6(x)).sum())(x)
  np.testing.assert_array_equal(
    own, jax.grad(lambda x: jnp.square(jax.nn.relu6(x)).sum())(x)
  )
