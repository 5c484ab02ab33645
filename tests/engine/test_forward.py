"""Whose outputs count: those of finite weights, small enough to be compared."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core.method import GroupSpec, mean_ensemble
from jaxdistill.core.types import ModelOutput, Outputs
from jaxdistill.engine.cohort import forward
from jaxdistill.engine.measures import MEASURES
from tests.helpers import toy


class Scaled(nn.Module):
  """Logits that say nothing of what is not used: a weight, and a statistic."""

  @nn.compact
  def __call__(self, x, train):
    scale = self.param("scale", nn.initializers.ones, ())
    self.param("unused", nn.initializers.ones, (2,))
    self.variable("batch_stats", "mean", jnp.zeros, (2,))
    return ModelOutput(scale * jnp.arange(5.0)[None] * jnp.ones((len(x), 1)), {})


def outputs_of(scale=1.0, unused=1.0, mean=0.0):
  """Outputs of a regular member and of one with these variables."""
  specs = (GroupSpec("net", Scaled(), 2, toy.optimizer()),)
  params = {
    "scale": jnp.array([1.0, scale]),
    "unused": jnp.array([[1.0, 1.0], [1.0, unused]]),
  }
  stats = {"batch_stats": {"mean": jnp.array([[0.0, 0.0], [mean, 0.0]])}}
  images = jnp.zeros((2, 3, 1, 1, 3))
  variables = {"net": (params, stats)}
  return forward(specs, variables, images, jax.random.key(0), train=False)[0]


@pytest.mark.parametrize(
  "variables",
  [{"unused": np.nan}, {"unused": -np.inf}, {"mean": np.inf}, {"scale": 3e37}],
)
def test_finite_logits_of_weights_that_are_not_finite_do_not_count(variables):
  outputs = outputs_of(**variables)
  assert outputs.alive.tolist() == [True, False]
  np.testing.assert_array_equal(outputs.logits[1], 0)
  assert outputs.logits[0].any()


def test_large_logits_count_while_they_can_be_compared():
  assert outputs_of(scale=1e14).alive.all()


def test_features_out_of_range_become_zeros_and_are_named():
  values = jnp.ones((3, 2, 4)).at[1, 0, 2].set(1e16).at[2, 1, 1].set(jnp.nan)
  outputs = Outputs(
    logits=jnp.zeros((3, 2, 5)),
    alive=jnp.ones(3, bool),
    groups={"net": ModelOutput(None, {"pooled": values, "stem": values})},
  )
  bounded, fits = outputs.within_range("pooled")
  assert fits.tolist() == [True, False, False]
  np.testing.assert_array_equal(bounded.groups["net"].features["pooled"][1:], 0)
  np.testing.assert_array_equal(bounded.groups["net"].features["pooled"][0], 1)
  assert bounded.groups["net"].features["stem"] is values


def test_an_ensemble_that_is_sure_keeps_the_order_of_all_classes():
  """Probabilities of e^-300 underflow; their logarithms still rank the classes."""
  logits = jnp.array([[[0.0, -300, -310, -320, -330, -340, -350]]])
  outputs = Outputs(logits.repeat(2, 0), jnp.ones(2, bool), {})
  predicted = mean_ensemble({}, {}, outputs)["ensemble"]
  np.testing.assert_allclose(predicted, logits[0], rtol=1e-6)
  measures = {measure.name: measure for measure in MEASURES}

  def value(name, label):
    return float(measures[name].per_example(predicted, jnp.array([label]))[0])

  assert [value("top5", label) for label in range(7)] == [1, 1, 1, 1, 1, 0, 0]
  assert value("nll", 6) == pytest.approx(350)


def test_an_ensemble_of_nobody_predicts_nothing():
  outputs = Outputs(jnp.zeros((2, 3, 5)), jnp.zeros(2, bool), {})
  assert np.isnan(mean_ensemble({}, {}, outputs)["ensemble"]).all()
