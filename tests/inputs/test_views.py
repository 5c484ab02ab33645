"""Views of members whose networks know images under other statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core.types import Batch, Perturbation
from jaxdistill.inputs.normalize import to_float
from jaxdistill.inputs.views import make_views

MEAN = np.array([[0.5, 0.4, 0.3], [0.1, 0.2, 0.3]], np.float32)
STD = np.array([[0.2, 0.1, 0.5], [1.0, 0.5, 0.25]], np.float32)


@pytest.mark.parametrize("per_member", [False, True])
@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_each_member_sees_its_images_normalised_as_it_knows_them(
  rng, space, per_member
):
  image = rng.integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
  batch = Batch(image, np.zeros(4, int), np.arange(4), np.ones(4))
  unperturbed = Perturbation.none(4)
  perturbation = unperturbed.replace(member=jnp.int32(1), op=jnp.int32(0))

  def halve(key, step, image):
    # Of member 1, from one batch for all or from its own.
    return image[-1] / 2, perturbation

  @jax.jit
  def views(key, batch):
    return make_views(
      lambda key, image: to_float(image),
      halve,
      mean=MEAN.reshape(2, 1, 1, 1, 3),
      std=STD.reshape(2, 1, 1, 1, 3),
      members=["a", "b"],
      num_classes=2,
      space=space,
      per_member=per_member,
    )(key, 0, batch)

  seen, clean = views(jax.random.key(0), batch)
  pixels = image / 255
  first = (pixels - MEAN[0]) / STD[0]
  second = (pixels - MEAN[1]) / STD[1]
  halved = (pixels / 2 - MEAN[1]) / STD[1] if space == "pixel" else second / 2
  np.testing.assert_allclose(clean, [first, second], atol=1e-5)
  np.testing.assert_allclose(seen.image, [first, halved], atol=1e-5)
