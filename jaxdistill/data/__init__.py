"""Data sets: a file for each; host arrays, or images that are read when needed.

A data set of one's own is a function with keyword-only arguments, annotated with
`-> Dataset`, in any module that can be imported; it returns `checked(...)`.
"""

from jaxdistill.data._dataset import (
  DISTANCES,
  JUNK,
  Dataset,
  Images,
  Ranking,
  Reader,
  Request,
  Split,
  Streamed,
  channel_statistics,
  checked,
  hold_out,
  keep_few,
)

__all__ = [
  "DISTANCES",
  "JUNK",
  "Dataset",
  "Images",
  "Ranking",
  "Reader",
  "Request",
  "Split",
  "Streamed",
  "channel_statistics",
  "checked",
  "hold_out",
  "keep_few",
]
