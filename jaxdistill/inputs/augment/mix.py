"""Mixing two images of a batch, for all members alike."""

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core.types import Mix, Mixture
from jaxdistill.inputs.draws import beta_weight, interval

_UNMIXED, _MIXUP, _CUTMIX = range(3)


def mix(
  *,
  mixup: float = 0.8,
  cutmix: float = 1.0,
  switch: float = 0.5,
  probability: float = 1.0,
) -> Mix:
  """Returns mixup or CutMix of every batch, and of its labels, for all members.

  Each image is mixed with the one at its place from the batch's end, as timm pairs
  them: the batch is shuffled, and devices exchange images in pairs only. One draw for
  the batch decides which of the two it is, the weight and the box; they are the same
  for all members, also where each has augmentations of its own.

  Args:
    mixup: c of Beta(c, c), the weight's distribution in mixup; 0 leaves mixup out.
    cutmix: c of Beta(c, c), from which CutMix draws the fraction of the area outside
      the box; the weight is the fraction that was really kept. 0 leaves CutMix out.
    switch: probability of CutMix where there are both.
    probability: that a batch is mixed at all.

  Raises:
    ConfigError: for values out of range, or if neither of the two is left.

  Reference:
    H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz: mixup: Beyond Empirical Risk
      Minimization. ICLR 2018.
    S. Yun, D. Han, S. J. Oh, S. Chun, J. Choe, Y. Yoo: CutMix: Regularization Strategy
      to Train Strong Classifiers with Localizable Features. ICCV 2019.
    Defaults are those of DeiT (Touvron et al., ICML 2021).
  """
  errors.require_not_negative(mixup=mixup, cutmix=cutmix)
  errors.require_probability(switch=switch, probability=probability)
  errors.require(
    bool(mixup or cutmix), "mixup and cutmix are both 0: take mix out of augment.ops"
  )

  def draw_kind(key: jax.Array) -> jax.Array:
    mixed_key, switch_key = jax.random.split(key)
    kind = jnp.int32(_CUTMIX if cutmix else _MIXUP)
    if mixup and cutmix:
      is_cutmix = jax.random.bernoulli(switch_key, switch)
      kind = jnp.where(is_cutmix, _CUTMIX, _MIXUP)
    is_mixed = jax.random.bernoulli(mixed_key, probability)
    return jnp.where(is_mixed, kind, _UNMIXED)

  def keep(key: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    del key
    return image, jnp.float32(1)

  def blend(key: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight = beta_weight(key, mixup or 1.0)
    return weight * image + (1 - weight) * _partners(image), weight

  def splice(key: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    area_key, row_key, column_key = jax.random.split(key, 3)
    *_, height, width, _ = image.shape
    side = jnp.sqrt(1 - beta_weight(area_key, cutmix or 1.0))
    rows = interval(row_key, side, height)
    columns = interval(column_key, side, width)
    box = rows[:, None] & columns[None, :]
    spliced = jnp.where(box[None, None, :, :, None], _partners(image), image)
    return spliced, 1 - jnp.mean(box, dtype=jnp.float32)

  def apply(key: jax.Array, image: jax.Array, /) -> tuple[jax.Array, Mixture]:
    kind_key, strength_key = jax.random.split(key)
    kind = draw_kind(kind_key)
    # A real branch: the key belongs to the batch, so only what is drawn runs.
    mixed, weight = jax.lax.switch(kind, (keep, blend, splice), strength_key, image)
    own = jnp.arange(image.shape[1], dtype=jnp.int32)
    mixture = Mixture(
      permutation=jnp.where(kind == _UNMIXED, own, own[::-1]),
      weight=weight,
      label_weight=weight,
    )
    return mixed, mixture

  return Mix(apply)


def _partners(image: jax.Array) -> jax.Array:
  """Returns the image that each one is mixed with, [1 or M, B, H, W, 3]."""
  return image[:, ::-1]
