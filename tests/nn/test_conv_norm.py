"""The unit of convolution and batch normalisation, inside a network."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.nn import batch_norm, conv_norm, convolution

IMAGE = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype(np.float32)
# Arguments of the convolution: none, all but padding, and a padding of its own.
VARIANTS = [
  {},
  {"stride": 2, "groups": 2, "bias": True},
  {"padding": 0},
]


class Together(nn.Module):
  """The unit."""

  arguments: dict

  @nn.compact
  def __call__(self, x, train):
    return conv_norm(
      x,
      4,
      3,
      train=train,
      dtype=jnp.float32,
      names=("layer.conv", "layer.bn"),
      **self.arguments,
    )


class Apart(nn.Module):
  """The same, layer by layer."""

  arguments: dict

  @nn.compact
  def __call__(self, x, train):
    x = convolution(4, 3, name="layer.conv", **self.arguments)(x)
    return batch_norm(train, name="layer.bn")(x)


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_the_unit_is_its_two_layers_under_their_names(arguments, train):
  together = Together(arguments)
  apart = Apart(arguments)
  variables = together.init(jax.random.key(0), IMAGE, train=True)
  expected_variables = apart.init(jax.random.key(0), IMAGE, train=True)
  assert set(variables["params"]) == {"layer.conv", "layer.bn"}
  jax.tree.map(np.testing.assert_array_equal, variables, expected_variables)

  found = together.apply(variables, IMAGE, train=train, mutable=["batch_stats"])
  expected = apart.apply(variables, IMAGE, train=train, mutable=["batch_stats"])
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_computation_dtype_is_that_of_both_layers():
  class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
      names = ("conv", "bn")
      return conv_norm(x, 4, 3, train=True, dtype=jnp.bfloat16, names=names)

  output, variables = Half().init_with_output(jax.random.key(0), IMAGE)
  assert output.dtype == jnp.bfloat16
  for leaf in jax.tree.leaves(variables["params"]):
    assert leaf.dtype == jnp.float32
