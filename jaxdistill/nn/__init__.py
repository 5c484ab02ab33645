"""Blocks that networks and methods build on."""

from jaxdistill.nn.adapt import logits_only
from jaxdistill.nn.conv import conv_norm, convolution, member_conv
from jaxdistill.nn.norm import batch_norm

__all__ = ["batch_norm", "conv_norm", "convolution", "logits_only", "member_conv"]
