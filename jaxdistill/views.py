"""From a batch to what every member sees of it: augment, perturb one member, normalise, mix labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdistill import augment as augment_lib
from jaxdistill import pool, rng
from jaxdistill.types import Batch, Views


def make_views(augment: Callable, perturb: Callable, *, mean: tuple[float, ...], std: tuple[float, ...],
               num_members: int, num_classes: int, space: str = "pixel") -> Callable:
  """Returns the function that prepares a step's inputs on the device.

  All members see the same augmented images, but for the one that is perturbed.

  Args:
    augment: (key, image) -> f32[B, H, W, 3] in [0, 1].
    perturb: (key, step, image) -> (image, Perturbation).
    mean: per-channel mean in [0, 1].
    std: per-channel standard deviation in [0, 1].
    num_members: M.
    num_classes: C.
    space: "pixel", perturb before normalisation, or "normalized", after it, as the released code of
      Competitive Distillation does (its clamp to [0, 1] included).

  Returns:
    (key, step, batch) -> (Views, clean image f32[B, H, W, 3] normalised).
  """
  def views(key: jax.Array, step: jax.Array, batch: Batch) -> tuple[Views, jax.Array]:
    image = augment(rng.stream(key, "augment"), batch.image)
    normalize = lambda x: augment_lib.normalize(x, mean, std)
    if space == "normalized":
      clean = normalize(image)
      perturbed, perturbation = perturb(rng.stream(key, "perturb"), step, clean)
    else:
      perturbed, perturbation = perturb(rng.stream(key, "perturb"), step, image)
      clean, perturbed = normalize(image), normalize(perturbed)
    chosen = (jnp.arange(num_members) == perturbation.member)[:, None, None]
    target = jax.nn.one_hot(batch.label, num_classes)
    mixed = pool.mixed_target(target, perturbation)
    images = jnp.where(chosen[..., None, None], perturbed[None], clean[None])
    return Views(images, jnp.where(chosen, mixed[None], target[None]), perturbation), clean
  return views
