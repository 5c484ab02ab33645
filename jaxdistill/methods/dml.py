"""Deep Mutual Learning: every member matches the predictions of every other one."""

import jax
import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.errors import require_choice, require_not_negative, require_positive
from jaxdistill.protocol import Method
from jaxdistill.types import Objective


def dml(*, weight: float = 1.0, temperature: float = 1.0, reduce: str = "mean",
        target: str = "pairwise") -> Method:
  """Trains L_i = CE(z_i, y) + weight * reduce_{j != i} T^2 KL(p_j || p_i), each target detached.

  The order of updates is a property of the step (`update_order`): "simultaneous", or "sequential" as in the
  paper's algorithm 1.

  Args:
    weight: factor of the mutual term, at least 0.
    temperature: T > 0.
    reduce: "mean" over the peers (the paper), or their "sum" (the released TensorFlow code).
    target: "pairwise", one KL for each peer, or "mean_logits", a single KL to the mean of the peers' logits.

  Raises:
    ConfigError: for values out of range.

  Reference:
    Y. Zhang, T. Xiang, T. Hospedales, H. Lu: Deep Mutual Learning. CVPR 2018, equations 5 to 9.
  Differs from the released code: both members see the same batch, and the KL has no epsilon in its logarithms.
  """
  require_not_negative(weight=weight)
  require_positive(temperature=temperature)
  require_choice(reduce=(reduce, ("mean", "sum")), target=(target, ("pairwise", "mean_logits")))

  def loss(params, memory, outputs, batch, views, context):
    del params, batch, context
    ce = losses.soft_cross_entropy(outputs.logits, views.target).mean(axis=1)
    # A member whose logits are not finite is nobody's peer, and has none.
    peers = (outputs.alive[:, None] & outputs.alive[None, :] & ~jnp.eye(ce.size, dtype=bool)).astype(jnp.float32)
    count = jnp.maximum(peers.sum(axis=1), 1)
    teachers = jax.lax.stop_gradient(outputs.logits)
    if target == "pairwise":
      pairs = losses.kl_divergence(outputs.logits[:, None], teachers[None], temperature).mean(axis=-1)
      kl = (peers * pairs).sum(axis=1) / (count if reduce == "mean" else 1)
    else:
      mean_of_others = jnp.einsum("ij,jbc->ibc", peers, teachers, precision="highest") / count[:, None, None]
      kl = losses.kl_divergence(outputs.logits, mean_of_others, temperature).mean(axis=1)
      kl = jnp.where(peers.any(axis=1), kl, 0)
    return Objective(ce + weight * kl, jnp.float32(0), {"kl": kl}, memory)

  return Method(loss=loss, min_members=2)
