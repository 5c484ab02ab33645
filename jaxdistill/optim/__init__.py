"""Optimisers and schedules by name, and what every recipe puts around them."""

from jaxdistill.optim.chain import (
  Chain,
  make_optimizer,
  make_schedule,
  parameter_names,
)

__all__ = ["Chain", "make_optimizer", "make_schedule", "parameter_names"]
