"""Who teaches whom: functions of the members' losses."""

import jax
import jax.numpy as jnp


def winner(member_loss: jax.Array) -> jax.Array:
  """Returns the member with the lowest loss: the lowest index among equals.

  `jnp.argmin` would return the index of a NaN; here a loss that is not finite never
  wins.

  Args:
    member_loss: f32[M].

  Returns:
    i32[]; -1 if no loss is finite.

  Reference:
    Shi et al.: Competitive Distillation, equation 4.
  """
  finite = jnp.isfinite(member_loss)
  best = jnp.argmin(jnp.where(finite, member_loss, jnp.inf)).astype(jnp.int32)
  return jnp.where(finite.any(), best, -1)


def teaching_weights(
  member_loss: jax.Array, rule: str = "winner_only", tie: str = "strict"
) -> jax.Array:
  """Returns the weight with which member i learns from member j.

  A member whose loss is not finite neither teaches nor learns.

  Args:
    member_loss: f32[M].
    rule: "winner_only", every member learns from the winner (the paper), or
      "all_better", it learns from all members with a strictly lower loss, equally
      weighted (the released code).
    tie: what a member does whose loss equals the lowest: "strict", it learns from
      nobody, or "first_only", only the lowest index counts as the winner and the others
      learn from it ("winner_only").

  Returns:
    f32[M, M], row i sums to one, or to zero for a member that nobody teaches.

  Raises:
    ValueError: for another `rule` or `tie`.

  Reference:
    Shi et al.: Competitive Distillation, equations 4 and 5.
  """
  finite = jnp.isfinite(member_loss)
  loss = jnp.where(finite, member_loss, jnp.inf)
  learns = finite[:, None] & finite[None, :]
  better = learns & (loss[None, :] < loss[:, None])
  if rule == "winner_only":
    members = jnp.arange(loss.size)
    best = winner(member_loss)
    if tie == "first_only":
      better = learns & (members[:, None] != best)
    elif tie != "strict":
      raise ValueError(f"tie must be strict or first_only, got {tie!r}")
    return (better & (members[None, :] == best)).astype(jnp.float32)
  if rule != "all_better":
    raise ValueError(f"rule must be winner_only or all_better, got {rule!r}")
  weights = better.astype(jnp.float32)
  return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1)
