"""Records what the reference networks give for drawn weights.

    pip install torch torchvision timm
    python -m tests.references.record [module ...]

Run from the root of the repository. Writes tests/golden/networks.npz. With names of
modules, only their cases are recorded anew.
"""

from pathlib import Path
import sys

import numpy as np
import torch

from tests.references import draw, modules

FILE = Path(__file__).parent.parent / "golden" / "networks.npz"


def record(case):
  """Returns a reference's logits, and the names of its parameters and statistics."""
  model = case.reference().eval()
  shapes = {}
  for name, value in model.state_dict().items():
    if not name.endswith("num_batches_tracked"):
      shapes[name] = tuple(value.shape)
  drawn = draw.tensors(shapes)
  state = {name: torch.from_numpy(value) for name, value in drawn.items()}
  model.load_state_dict(state, strict=False)
  image = torch.from_numpy(draw.image(case.side)).permute(0, 3, 1, 2)
  with torch.no_grad():
    logits = model(image)
  return logits.numpy(), np.array(sorted(drawn))


def main():
  chosen = sys.argv[1:] or list(modules.MODULES)
  recorded = {}
  if FILE.exists():
    for key, value in np.load(FILE).items():
      if key.split("/")[0] not in chosen:
        recorded[key] = value
  for name, case in modules.cases().items():
    if name.split("/")[0] not in chosen:
      continue
    logits, names = record(case)
    recorded[f"{name}/logits"] = logits
    recorded[f"{name}/names"] = names
    largest = np.abs(logits).max()
    print(f"{name}: {len(names)} tensors, logits of size {largest:.3g}")
  np.savez_compressed(FILE, **recorded)


if __name__ == "__main__":
  main()
