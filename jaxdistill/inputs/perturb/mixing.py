"""Perturbations that mix two images of a batch."""

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Op, Perturbed
from jaxdistill.inputs.perturb import _pixels as pixels
from jaxdistill.inputs.perturb._pixels import own_index


def mixup(*, concentration: float = 1.0) -> Op:
  """Makes image fusion: the batch and a permutation of itself, blended with one weight.

  Args:
    concentration: c of the weight's distribution Beta(c, c).

  Returns:
    The operation; `weight` is the share of the original image.

  Raises:
    ConfigError: unless the concentration is above 0.

  Reference: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
  """
  errors.require_positive(concentration=concentration)

  def op(key, image):
    weight_key, partner_key = jax.random.split(key)
    weight = pixels.beta_share(weight_key, concentration)
    permutation = jax.random.permutation(partner_key, own_index(image))
    return Perturbed(
      weight * image + (1 - weight) * image[permutation], permutation, weight
    )

  return op


def cutmix(*, concentration: float = 1.0) -> Op:
  """Makes splicing: one box of every image is replaced by that of its partner.

  Args:
    concentration: c of Beta(c, c), from which the share of the area outside the box is
      drawn. The box is centred anywhere, so part of it may fall off the image.

  Returns:
    The operation; `weight` is the share of the area that was really kept.

  Raises:
    ConfigError: unless the concentration is above 0.

  Reference: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers
  with Localizable Features", ICCV 2019, section 3.1.
  """
  errors.require_positive(concentration=concentration)

  def op(key, image):
    share_key, row_key, col_key, partner_key = jax.random.split(key, 4)
    side = jnp.sqrt(1 - pixels.beta_share(share_key, concentration))
    rows = pixels.span(row_key, side, image.shape[1])
    cols = pixels.span(col_key, side, image.shape[2])
    box = rows[:, None] & cols[None, :]
    permutation = jax.random.permutation(partner_key, own_index(image))
    spliced = jnp.where(box[None, :, :, None], image[permutation], image)
    return Perturbed(spliced, permutation, 1 - jnp.mean(box, dtype=jnp.float32))

  return op
