"""Distillation losses as plain functions of arrays, one value per example.

None of them takes a mean over the batch or stops a gradient: the caller decides both,
except that `dmfl` detaches its targets. All compute in float32, whatever they are
given, and are finite for whatever is finite: logits and features beyond 1e15 count as
1e15, see `bounded`. They need nothing but jax and optax, so any JAX code can import
them.

A loss of one's own is a function from arrays to one value per example, [B] or [...].
"""

from jaxdistill.losses._bounds import LARGEST, bounded
from jaxdistill.losses.features import (
  attention_map,
  attention_transfer,
  average_pool,
  byot_hint,
  diversity,
  diversity_target,
  dmfl,
  feature_l2,
)
from jaxdistill.losses.logits import (
  cross_entropy,
  kl_divergence,
  pairwise_kl,
  soft_cross_entropy,
)

__all__ = [
  "LARGEST",
  "attention_map",
  "attention_transfer",
  "average_pool",
  "bounded",
  "byot_hint",
  "cross_entropy",
  "diversity",
  "diversity_target",
  "dmfl",
  "feature_l2",
  "kl_divergence",
  "pairwise_kl",
  "soft_cross_entropy",
]
