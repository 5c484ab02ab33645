"""Resident memory of a run whose images are streamed, beside a resident one.

    python benchmarks/memory.py
    python benchmarks/memory.py --resident_bytes=-1
    python benchmarks/memory.py --steps=4000 --every=500

Trains three tiny networks, independently, on scikit-learn's digits, which are written
as JPEG files of 32 pixels into a temporary folder, and prints the memory that the
process holds after every 500 steps. It starts itself anew with the settings of the C
library with which training runs on a CPU.
"""

import json
from pathlib import Path
import tempfile

from absl import app, flags
import numpy as np
from PIL import Image

from jaxdistill.run import kept_memory

_STEPS = flags.DEFINE_integer("steps", 2000, "Length of the run.")
_EVERY = flags.DEFINE_integer("every", 500, "Steps from one line to the next.")
_RESIDENT = flags.DEFINE_integer("resident_bytes", 0, "Key of the config.")

_SIDE = 32


def write_digits(root: Path) -> None:
  """Writes the digits as `data.name=folder` reads them."""
  from jaxdistill.data.digits import digits

  dataset = digits()
  for name, split in (("train", dataset.train), ("val", dataset.test)):
    for number, (image, label) in enumerate(zip(split.image, split.label, strict=True)):
      folder = root / name / str(label)
      folder.mkdir(parents=True, exist_ok=True)
      enlarged = Image.fromarray(np.asarray(image)).resize((_SIDE, _SIDE))
      enlarged.save(folder / f"{number:05d}.jpg", quality=95)


def resident_mib() -> float:
  """Returns the memory that this process holds."""
  pages = Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * 4096 / 2**20


class Watch:
  """Prints the memory when a line of training is new; never stops the run."""

  def __init__(self, workdir: Path):
    self._path = workdir / "metrics.jsonl"
    self._size = 0

  def __call__(self) -> bool:
    if not self._path.exists():
      return False
    size = self._path.stat().st_size
    if size != self._size:
      self._size = size
      last = json.loads(self._path.read_text().splitlines()[-1])
      print(f"{last['step']:6d} steps {resident_mib():8.1f} MiB", flush=True)
    return False


def main(_) -> None:
  # Imported late: it pulls in jax.
  import jaxdistill

  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary) / "digits"
    write_digits(folder)
    overrides = [
      "data.name=folder",
      f"data.dir={folder}",
      "cohort.convnet.width=4",
      "cohort.resnet8.model=small.convnet",
      "cohort.resnet8.width=4",
      "batch_size=32",
      f"steps={_STEPS.value}",
      f"resident_bytes={_RESIDENT.value}",
    ]
    for key in ("log_every", "eval_every", "checkpoint_every"):
      overrides.append(f"{key}={_EVERY.value} steps")
    config = jaxdistill.load_config("configs/digits_baselines.py", overrides)
    workdir = Path(temporary) / "run"
    summary = jaxdistill.train(config, workdir, stop=Watch(workdir), quiet=True)
    print(f"at the end   {resident_mib():8.1f} MiB")
    print(f"streamed: {summary.get('streamed')}, waiting: {summary.get('waiting')}")


if __name__ == "__main__":
  kept_memory.restart_with_it()
  app.run(main)
