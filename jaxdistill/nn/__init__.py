"""Blocks that networks and methods build on."""

from jaxdistill.nn.adapt import logits_only
from jaxdistill.nn.conv import batch_norm, conv_norm, convolution, member_conv

__all__ = ["batch_norm", "conv_norm", "convolution", "logits_only", "member_conv"]
