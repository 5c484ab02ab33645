"""Targets made of earlier predictions, against released code and a paper's equation."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import losses, targets

VALUE = {"rtol": 2e-5, "atol": 1e-6}
GRAD = {"rtol": 1e-4, "atol": 1e-6}


def test_progressive_targets_match_ps_kd(golden):
  g = golden("12_pskd")
  soft = targets.progressive(g["labels"], g["prev_probs"], g["alpha"])

  def mean_loss(logits):
    return losses.soft_cross_entropy(logits, soft).mean()

  value, grad = jax.value_and_grad(mean_loss)(g["logits"])
  np.testing.assert_allclose(value, g["loss_out"], **VALUE)
  np.testing.assert_allclose(grad, g["grad"], **GRAD)


def test_accuracy_weighted_matches_its_equation(golden):
  g = golden("14_md_reference")
  soft = targets.accuracy_weighted(jax.nn.softmax(g["z_teachers"] / 3), g["val_acc"])
  np.testing.assert_allclose(soft, g["Se"], **VALUE)
  student = jax.nn.log_softmax(g["z_student"] / 3)
  kl = jnp.sum(soft * (jnp.log(soft) - student), axis=1)
  np.testing.assert_allclose(kl.mean(), g["kl"], **VALUE)


def test_accuracy_weighted_without_accuracy_is_the_mean():
  probs = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
  soft = targets.accuracy_weighted(probs, jnp.zeros(2))
  np.testing.assert_array_equal(soft, [[0.5, 0.5]])
