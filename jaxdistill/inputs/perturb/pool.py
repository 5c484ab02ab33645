"""Draws one operation and one member per perturbed step, and mixes labels where images are mixed."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdistill import errors
from jaxdistill.core import rng
from jaxdistill.core.types import Op, Perturb, Perturbation
from jaxdistill.inputs.perturb._pixels import unmixed


def make_perturb(
  ops: Sequence[Op],
  *,
  num_members: int,
  every: int = 10,
  member: str = "uniform",
  label_mix: bool = True,
) -> Perturb:
  """Makes the stochastic perturbation: now and then, one member sees the batch through one operation.

  Args:
    ops: the pool; none perturbs never.
    num_members: M.
    every: steps from one perturbed step to the next; step 0 is the first. The paper
      perturbs in each iteration, its released code in every tenth.
    member: "uniform" draws the member, "round_robin" takes one after the other.
    label_mix: whether labels are mixed where images are.

  Returns:
    perturb(key, step, image) -> (image f32[B, H, W, 3] of the perturbed member,
    Perturbation), from the images that all members share, f32[B, H, W, 3] or [1, B, H,
    W, 3], or from its own of f32[M, B, H, W, 3]. The key is the run's or the step's;
    the step is folded into it here. Other steps run no operation.

  Raises:
    ConfigError: for a number that is not above 0, or an unknown way to choose the
      member.

  Reference: "Competitive Distillation", section 3.2, Eq. 6.
  """
  errors.require_positive(**{"num_members": num_members, "perturb.every": every})
  errors.require_choice(**{"perturb.member": (member, ("uniform", "round_robin"))})

  def perturb(key, step, image):
    key = jax.random.fold_in(key, step)
    active = jnp.logical_and(step % every == 0, bool(ops))
    op = jnp.where(
      active, jax.random.randint(rng.stream(key, "op"), (), 0, max(len(ops), 1)), -1
    )
    if member == "uniform":
      who = jax.random.randint(rng.stream(key, "member"), (), 0, num_members)
    else:
      who = jnp.asarray(step // every % num_members, jnp.int32)
    if image.ndim == 5:
      image = image[who if image.shape[0] > 1 else 0]
    # Not vmapped, so the branch is a real one and only the operation drawn runs.
    branches = [lambda key, image: unmixed(image), *ops]
    result = jax.lax.switch(op + 1, branches, rng.stream(key, "strength"), image)
    weight = result.weight if label_mix else jnp.ones_like(result.weight)
    return result.image, Perturbation(
      jnp.where(active, who, -1), op, result.permutation, weight
    )

  return perturb
