"""Draws one operation and one member per perturbed step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core import rng
from jaxdistill.core.types import Op, Perturb, Perturbation, Perturbed
from jaxdistill.inputs.perturb._results import unmixed

# The member and the operation of a step without perturbation.
_NONE = -1


def make_perturb(
  ops: Sequence[Op],
  *,
  num_members: int,
  every: int = 10,
  member: str = "uniform",
  label_mix: bool = True,
) -> Perturb:
  """Returns the stochastic perturbation.

  Now and then one member sees the batch through one operation.

  Args:
    ops: the pool; an empty one never perturbs.
    num_members: M.
    every: steps from one perturbed step to the next; step 0 is the first. The paper
      perturbs in each iteration, its released code in every tenth.
    member: "uniform" draws the member, "round_robin" takes one after the other.
    label_mix: whether labels are mixed where images are.

  Returns:
    perturb(key, step, image) -> (image f32[B, H, W, 3] of the perturbed member,
    Perturbation), from the images that all members see, f32[B, H, W, 3] or [1, B, H,
    W, 3], or from its own of f32[M, B, H, W, 3]. The key is the run's or the step's;
    the step is folded into it here. Other steps run no operation.

  Raises:
    ConfigError: for a number that is not above 0, or an unknown way to choose the
      member.

  Reference:
    D. Shi, X. Diao, X. Chen, C. M. John: Competitive Distillation: A Simple Learning
      Strategy for Improving Visual Classification, section 3.2, equation 6.
  """
  errors.require_positive(**{"num_members": num_members, "perturb.every": every})
  errors.require_choice(**{"perturb.member": (member, ("uniform", "round_robin"))})

  def draw_op(key: jax.Array, due: jax.Array) -> jax.Array:
    """Returns the position of the operation in the pool, i32[]."""
    position = jax.random.randint(rng.stream(key, "op"), (), 0, max(len(ops), 1))
    return jnp.where(due, position, _NONE)

  def draw_member(key: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the member that is perturbed if the step is due, i32[]."""
    if member == "uniform":
      return jax.random.randint(rng.stream(key, "member"), (), 0, num_members)
    return jnp.asarray(step // every % num_members, jnp.int32)

  def perturb(
    key: jax.Array, step: jax.Array, image: jax.Array, /
  ) -> tuple[jax.Array, Perturbation]:
    key = jax.random.fold_in(key, step)
    due = jnp.logical_and(step % every == 0, bool(ops))
    op = draw_op(key, due)
    chosen = draw_member(key, step)

    # Not vmapped, so the branch is a real one and only the operation drawn runs.
    branches = [_as_it_is, *ops]
    branch = op + 1
    strength_key = rng.stream(key, "strength")
    own_image = _image_of(chosen, image)
    result = jax.lax.switch(branch, branches, strength_key, own_image)

    label_weight = result.weight
    if not label_mix:
      label_weight = jnp.ones_like(label_weight)
    perturbation = Perturbation(
      member=jnp.where(due, chosen, _NONE),
      op=op,
      permutation=result.permutation,
      weight=result.weight,
      label_weight=label_weight,
    )
    return result.image, perturbation

  return perturb


def _as_it_is(key: jax.Array, image: jax.Array, /) -> Perturbed:
  """The operation of a step without perturbation."""
  del key
  return unmixed(image)


def _image_of(member: jax.Array, image: jax.Array) -> jax.Array:
  """Returns a member's images from one batch for all, or from one batch for each.

  Args:
    member: i32[].
    image: [B, H, W, 3] or [1, B, H, W, 3] for all, or [M, B, H, W, 3].

  Returns:
    [B, H, W, 3].
  """
  if image.ndim == 4:
    return image
  if image.shape[0] == 1:
    return image[0]
  return image[member]
