"""Perturbations that mix two images of a batch."""

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Op, Perturbed
from jaxdistill.inputs.draws import beta_weight, interval
from jaxdistill.inputs.perturb._results import own_index


def mixup(*, concentration: float = 1.0) -> Op:
  """Returns image fusion: the batch and a permutation of itself, blended.

  Args:
    concentration: c of the weight's distribution Beta(c, c).

  Returns:
    The operation; `weight` is that of the original images, one for the batch.

  Raises:
    ConfigError: unless the concentration is above 0.

  Reference:
    H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz: mixup: Beyond Empirical Risk
      Minimization. ICLR 2018.
  """
  errors.require_positive(concentration=concentration)

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    weight_key, partner_key = jax.random.split(key)
    weight = beta_weight(weight_key, concentration)
    permutation = jax.random.permutation(partner_key, own_index(image))
    blended = weight * image + (1 - weight) * image[permutation]
    return Perturbed(blended, permutation, weight)

  return op


def cutmix(*, concentration: float = 1.0) -> Op:
  """Returns splicing: one box of every image is replaced by that of its partner.

  Args:
    concentration: c of Beta(c, c), from which the fraction of the area outside the box
      is drawn. The box is centred anywhere, so part of it may fall off the image.

  Returns:
    The operation; `weight` is the fraction of the area that was really kept.

  Raises:
    ConfigError: unless the concentration is above 0.

  Reference:
    S. Yun, D. Han, S. J. Oh, S. Chun, J. Choe, Y. Yoo: CutMix: Regularization Strategy
      to Train Strong Classifiers with Localizable Features. ICCV 2019, section 3.1.
  """
  errors.require_positive(concentration=concentration)

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    area_key, row_key, column_key, partner_key = jax.random.split(key, 4)
    _, height, width, _ = image.shape
    side = jnp.sqrt(1 - beta_weight(area_key, concentration))
    rows = interval(row_key, side, height)
    columns = interval(column_key, side, width)
    box = rows[:, None] & columns[None, :]
    permutation = jax.random.permutation(partner_key, own_index(image))
    spliced = jnp.where(box[None, :, :, None], image[permutation], image)
    kept = 1 - jnp.mean(box, dtype=jnp.float32)
    return Perturbed(spliced, permutation, kept)

  return op
