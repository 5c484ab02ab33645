"""From a batch to what each member sees: augment, mix, perturb one, normalise."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp

from jaxdistill.core import rng
from jaxdistill.core.types import Augment, Batch, MakeViews, Mix, Perturb, Views
from jaxdistill.inputs.normalize import Channels, normalize


def make_views(
  augment: Augment,
  perturb: Perturb,
  *,
  mean: Channels,
  std: Channels,
  members: Sequence[str],
  num_classes: int,
  mix: Mix | None = None,
  space: str = "pixel",
  per_member: bool = False,
  smoothing: float = 0.0,
) -> MakeViews:
  """Returns the function that prepares a step's inputs on the device.

  One member may see its images perturbed.

  Args:
    augment: see `make_augment`; its result is f32[B, H, W, 3].
    perturb: see `make_perturb`.
    mean: per-channel mean in [0, 1], of all members or of each.
    std: per-channel standard deviation in [0, 1], of all members or of each.
    members: names of all M members.
    num_classes: C.
    mix: mixes the augmented images of all members, with the same draw for each.
    space: "pixel", perturb before normalisation, or "normalized", after it, as the
      released code of Competitive Distillation does (its clamp to [0, 1] included).
    per_member: augment each image independently for every member, the invariant
      collaborative learning of Guo et al. (CVPR 2020, section 3.2), instead of alike
      for all.
    smoothing: probability that is spread evenly over all classes in every target
      (Szegedy et al., CVPR 2016, section 7).

  Returns:
    (key, step, batch) -> (Views, clean images f32[M or 1, B, H, W, 3], normalised).
  """
  standardize = functools.partial(normalize, mean=mean, std=std)

  def augmented(key: jax.Array, image: jax.Array) -> jax.Array:
    """Returns f32[1, B, H, W, 3] for all members, or [M, B, H, W, 3], one for each."""
    if not per_member:
      return augment(key, image)[None]
    keys = jnp.stack([rng.stream(key, name) for name in members])
    return jax.vmap(augment, (0, None))(keys, image)

  def smoothed(target: jax.Array) -> jax.Array:
    if not smoothing:
      return target
    return (1 - smoothing) * target + smoothing / num_classes

  def views(
    key: jax.Array, step: jax.Array, batch: Batch, /
  ) -> tuple[Views, jax.Array]:
    image = augmented(rng.stream(key, "augment"), batch.image)
    mixture = None
    if mix:
      image, mixture = mix.apply(rng.stream(key, "mix"), image)
    perturb_key = rng.stream(key, "perturb")
    if space == "normalized":
      clean = standardize(image)
      own, perturbation = perturb(perturb_key, step, clean)
      perturbed = own[None]
    else:
      own, perturbation = perturb(perturb_key, step, image)
      clean = standardize(image)
      perturbed = standardize(own[None])

    # Only for the member that was drawn; its labels change with its images.
    chosen = perturbation.is_perturbed(len(members))[:, None, None]
    images = jnp.where(chosen[..., None, None], perturbed, clean)
    label = batch.label
    if mixture is None:
      shared = jax.nn.one_hot(label, num_classes)
      own_target = perturbation.mix_labels(label, num_classes)
    else:
      shared = mixture.mix_labels(label, num_classes)
      own_target = perturbation.mix_mixed_labels(mixture, label, num_classes)
    target = jnp.where(chosen, own_target[None], shared[None])
    seen = Views(
      image=images,
      target=smoothed(target),
      perturbation=perturbation,
      mixture=mixture,
      smoothing=smoothing,
    )
    return seen, clean

  return views
