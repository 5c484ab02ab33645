"""Data sets: a file for each, and the checked host arrays that they load."""

from jaxdistill.data._dataset import (
  Dataset,
  Split,
  channel_statistics,
  checked,
  hold_out,
)

__all__ = ["Dataset", "Split", "channel_statistics", "checked", "hold_out"]
