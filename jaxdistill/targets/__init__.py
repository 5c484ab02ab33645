"""Teachers made from a cohort: who teaches whom, and with which targets."""

from jaxdistill.targets.contest import teaching_weights, winner
from jaxdistill.targets.kdcl import (
  kdcl_general_weights,
  kdcl_linear,
  kdcl_min_logit,
  kdcl_naive,
  kdcl_optimal_weights,
  kdcl_weights_from_errors,
)
from jaxdistill.targets.past import accuracy_weighted, progressive

__all__ = [
  "accuracy_weighted",
  "kdcl_general_weights",
  "kdcl_linear",
  "kdcl_min_logit",
  "kdcl_naive",
  "kdcl_optimal_weights",
  "kdcl_weights_from_errors",
  "progressive",
  "teaching_weights",
  "winner",
]
