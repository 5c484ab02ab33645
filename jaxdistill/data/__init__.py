"""Data sets: a file for each, and the checked host arrays that they load.

A data set of one's own is a function with keyword-only arguments, annotated with
`-> Dataset`, in any module that can be imported; it returns `checked(...)`.
"""

from jaxdistill.data._dataset import (
  Dataset,
  Split,
  channel_statistics,
  checked,
  hold_out,
)

__all__ = ["Dataset", "Split", "channel_statistics", "checked", "hold_out"]
