"""What PyTorch makes of an exported file; needs neither JAX nor this package.

python in_torch.py FOLDER

Runs the PyTorch code of the model card in FOLDER there, gives its model the images of
images.npy (f32[B, 3, H, W]), and writes the logits to logits.npy.
"""

from pathlib import Path
import re
import sys

import numpy as np
import torch


def code_of(card):
  """Returns the first block of Python in a model card."""
  return re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)[1]


def main(folder):
  (card,) = Path(folder).glob("*.md")
  names = {}
  exec(code_of(card), names)
  images = torch.from_numpy(np.load("images.npy"))
  with torch.no_grad():
    logits = names["model"](images)
  np.save("logits.npy", logits.numpy())


if __name__ == "__main__":
  main(sys.argv[1])
