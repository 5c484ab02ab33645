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
    D. Shi, X. Diao, X. Chen, C. M. John: Competitive Distillation: A Simple Learning
      Strategy for Improving Visual Classification, equation 4.
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
    tie: for "winner_only", what a member does whose loss equals the lowest: "strict",
      it has no teacher, or "first_only", only the lowest index counts as the winner and
      the others learn from it.

  Returns:
    f32[M, M]; row i sums to one, or to zero for a member without a teacher.

  Raises:
    ValueError: for another `rule` or `tie`.

  Reference:
    Shi et al.: Competitive Distillation, equations 4 and 5.
  """
  if rule == "winner_only":
    return _from_winner(member_loss, tie)
  if rule == "all_better":
    weights = _is_better(member_loss).astype(jnp.float32)
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1)
  raise ValueError(f"rule must be winner_only or all_better, got {rule!r}")


def _from_winner(member_loss: jax.Array, tie: str) -> jax.Array:
  """Returns f32[M, M], 1 where member i learns from the winner j."""
  members = jnp.arange(member_loss.size)
  best = winner(member_loss)
  if tie == "strict":
    learns = _is_better(member_loss)
  elif tie == "first_only":
    learns = _both_finite(member_loss) & (members[:, None] != best)
  else:
    raise ValueError(f"tie must be strict or first_only, got {tie!r}")
  return (learns & (members[None, :] == best)).astype(jnp.float32)


def _is_better(member_loss: jax.Array) -> jax.Array:
  """Tells where member j (column) has a lower loss than member i (row): bool[M, M]."""
  loss = jnp.where(jnp.isfinite(member_loss), member_loss, jnp.inf)
  return _both_finite(member_loss) & (loss[None, :] < loss[:, None])


def _both_finite(member_loss: jax.Array) -> jax.Array:
  """Tells which pairs of members have finite losses: bool[M, M]."""
  finite = jnp.isfinite(member_loss)
  return finite[:, None] & finite[None, :]
