"""From a batch to what every member sees of it: augment, perturb one member, normalise, mix labels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdistill.core import rng
from jaxdistill.core.types import Augment, Batch, MakeViews, Perturb, Views
from jaxdistill.inputs.augment import normalize


def make_views(
  augment: Augment,
  perturb: Perturb,
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  members: Sequence[str],
  num_classes: int,
  space: str = "pixel",
  per_member: bool = False,
  smoothing: float = 0.0,
) -> MakeViews:
  """Returns the function that prepares a step's inputs on the device.

  One member may see its images perturbed.

  Args:
    augment: (key, image) -> f32[B, H, W, 3] in [0, 1].
    perturb: see `make_perturb`.
    mean: per-channel mean in [0, 1].
    std: per-channel standard deviation in [0, 1].
    members: names of all M members.
    num_classes: C.
    space: "pixel", perturb before normalisation, or "normalized", after it, as the
      released code of Competitive Distillation does (its clamp to [0, 1] included).
    per_member: every member sees the batch under an augmentation of its own, the
      invariant collaborative learning of Guo et al. (CVPR 2020, section 3.2), instead
      of all under the same.
    smoothing: share of the label distribution that is spread evenly over all classes
      (Szegedy et al., CVPR 2016, section 7).

  Returns:
    (key, step, batch) -> (Views, clean images f32[M or 1, B, H, W, 3] normalised).
  """

  def views(key: jax.Array, step: jax.Array, batch: Batch) -> tuple[Views, jax.Array]:
    augment_key = rng.stream(key, "augment")
    if per_member:
      keys = jnp.stack([rng.stream(augment_key, name) for name in members])
      image = jax.vmap(augment, (0, None))(keys, batch.image)
    else:
      image = augment(augment_key, batch.image)[None]
    standardize = lambda x: normalize(x, mean, std)
    if space == "normalized":
      clean = standardize(image)
      perturbed, perturbation = perturb(rng.stream(key, "perturb"), step, clean)
    else:
      perturbed, perturbation = perturb(rng.stream(key, "perturb"), step, image)
      clean, perturbed = standardize(image), standardize(perturbed)
    chosen = perturbation.is_perturbed(len(members))[:, None, None]
    target = jax.nn.one_hot(batch.label, num_classes)
    mixed = perturbation.mix(target)
    images = jnp.where(chosen[..., None, None], perturbed[None], clean)
    target = jnp.where(chosen, mixed[None], target[None])
    target = (1 - smoothing) * target + smoothing / num_classes if smoothing else target
    return Views(images, target, perturbation, smoothing), clean

  return views
