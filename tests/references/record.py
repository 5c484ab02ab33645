"""Records what the reference networks give for drawn weights: writes tests/golden/networks.npz.

    pip install torch torchvision timm
    python tests/references/record.py [module ...]

With names of modules, only their cases are recorded anew.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch

from tests.references import draw, modules

FILE = Path(__file__).parent.parent / "golden" / "networks.npz"


def record(reference, side):
  """Returns the logits of a reference network, and the names of its parameters and statistics."""
  model = reference().eval()
  state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
  drawn = draw.tensors({name: tuple(value.shape) for name, value in state.items()})
  model.load_state_dict({name: torch.from_numpy(value) for name, value in drawn.items()}, strict=False)
  with torch.no_grad():
    logits = model(torch.from_numpy(draw.image(side)).permute(0, 3, 1, 2))
  return logits.numpy(), np.array(sorted(drawn))


def main():
  chosen = sys.argv[1:] or list(modules.MODULES)
  recorded = dict(np.load(FILE)) if FILE.exists() else {}
  recorded = {key: value for key, value in recorded.items() if key.split("/")[0] not in chosen}
  for name in chosen:
    for case, (_, reference, side) in modules.MODULES[name].CASES.items():
      logits, names = record(reference, side)
      recorded |= {f"{name}/{case}/logits": logits, f"{name}/{case}/names": names}
      print(f"{name} {case}: {len(names)} tensors, logits of size {np.abs(logits).max():.3g}")
  np.savez_compressed(FILE, **recorded)


if __name__ == "__main__":
  main()
