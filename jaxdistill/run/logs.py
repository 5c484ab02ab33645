"""A run's metrics on disk.

`metrics.jsonl` is the record, `metrics.csv` and TensorBoard are made from it.
"""

from collections.abc import Mapping
import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import tensorboardX


def read_metrics(path: Path) -> list[dict[str, Any]]:
  """Reads the lines of a `metrics.jsonl`, but for a last one cut off by a crash."""
  if not path.exists():
    return []
  with open(path) as file:
    return [json.loads(line) for line in file if line.endswith("\n")]


class MetricLog:
  """Writes metric lines; after a resume each step stands there exactly once.

  A line is {"step", "epoch", "split", "<metric>/<member>": value, ...}. Values that are
  not finite are null.
  """

  def __init__(self, workdir: Path, step: int):
    """Opens the log and cuts it back to `step`, the step of the restored checkpoint."""
    self._jsonl = workdir / "metrics.jsonl"
    self._csv = workdir / "metrics.csv"
    lines = [line for line in read_metrics(self._jsonl) if line["step"] <= step]
    temporary = workdir / "metrics.jsonl.tmp"
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(temporary, self._jsonl)
    self._file = open(self._jsonl, "a")
    self._columns: list[str] = []
    if lines:
      self._rewrite_csv()
    # TensorBoard hides what it was told of later steps before.
    purge_step = step + 1 if step else None
    self._board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=purge_step
    )

  def write(
    self, step: int, epoch: float, split: str, values: Mapping[str, float]
  ) -> None:
    """Appends one line to every file and flushes it."""
    line: dict[str, Any] = {"step": step, "epoch": round(epoch, 6), "split": split}
    for key, value in values.items():
      line[key] = value if math.isfinite(value) else None
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    if line.keys() <= set(self._columns):
      with open(self._csv, "a", newline="") as file:
        csv.DictWriter(file, self._columns).writerow(line)
    else:
      self._rewrite_csv()
    for key, value in values.items():
      # TensorBoard would complain on the terminal about every other value.
      if math.isfinite(value):
        self._board.add_scalar(f"{split}/{key}", value, step)
    self._board.flush()

  def _rewrite_csv(self) -> None:
    """Writes the table anew with one column for every key there is."""
    lines = read_metrics(self._jsonl)
    self._columns = list(dict.fromkeys(key for line in lines for key in line))
    with open(self._csv, "w", newline="") as file:
      writer = csv.DictWriter(file, self._columns)
      writer.writeheader()
      writer.writerows(lines)

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    self._board.close()
