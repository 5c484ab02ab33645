"""Draws what every perturbation does to images.

python -m jaxdistill perturbations --out=sheet.png
"""

import argparse
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdistill.core import registry
from jaxdistill.core.types import Op
from jaxdistill.errors import require, run_command
from jaxdistill.inputs.normalize import to_float

_GAP = 6
_TILE = 96


def contact_sheet(
  images: np.ndarray, ops: Mapping[str, Op], key: jax.Array, scale: int | None = None
) -> Image.Image:
  """Draws the images in the first row and below it one row per operation.

  Args:
    images: uint8[n, H, W, 3].
    ops: name -> operation. Rows of operations that mix images also say the original's
      weight.
    key: what all operations draw from.
    scale: whole factor by which pixels are enlarged; None makes tiles of about 96
      pixels.

  Returns:
    The sheet, in RGB.
  """
  rows = {"original": images}
  for row, (name, op) in enumerate(ops.items()):
    result = jax.jit(op)(jax.random.fold_in(key, row), to_float(jnp.asarray(images)))
    label = name
    if result.weight < 1:
      label += f"\n{float(result.weight):.0%} original"
    rows[label] = np.asarray(jnp.round(result.image * 255)).astype(np.uint8)
  return _draw(rows, scale or max(1, _TILE // images.shape[1]))


def _draw(rows: Mapping[str, np.ndarray], scale: int) -> Image.Image:
  """Draws rows of images, each with a label of one or two lines."""
  count, height, width, _ = next(iter(rows.values())).shape
  font = ImageFont.load_default(size=16)
  lines = [line for label in rows for line in label.split("\n")]
  left = 2 * _GAP + max(int(font.getlength(line)) for line in lines)
  tile_width = width * scale + _GAP
  tile_height = max(height * scale, 40) + _GAP
  size = (left + count * tile_width, _GAP + len(rows) * tile_height)
  sheet = Image.new("RGB", size, "white")
  draw = ImageDraw.Draw(sheet)
  for row, (label, tiles) in enumerate(rows.items()):
    top = _GAP + row * tile_height
    draw.text((_GAP, top), label, fill="black", font=font)
    for column, pixels in enumerate(tiles):
      # Nearest neighbour: any other enlargement would blur what is to be seen.
      tile = Image.fromarray(pixels).resize(
        (width * scale, height * scale), Image.Resampling.NEAREST
      )
      sheet.paste(tile, (left + column * tile_width, top))
  return sheet


def _images(path: str) -> np.ndarray:
  """Returns the training images of an npz file, or scikit-learn's digits."""
  if path:
    return registry.resolve("data", "npz", path=path).train.image
  return registry.resolve("data", "digits").train.image


def _write(out: str, npz: str, count: int, seed: int) -> None:
  """Writes the sheet of all operations at their default strengths."""
  require(count >= 1, f"--count must be at least 1, got {count}")
  ops = {
    name: registry.resolve("perturb", name)
    for name in registry.list_available("perturb")
  }
  sheet = contact_sheet(_images(npz)[:count], ops, jax.random.key(seed))
  sheet.save(out)
  print(f"wrote {out}")


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill perturbations",
    description="Draw what every perturbation does to images, at its default strength.",
    epilog="example: python -m jaxdistill perturbations --out=sheet.png",
  )
  parser.add_argument(
    "--out", default="perturbations.png", help="file to write; default: %(default)s"
  )
  parser.add_argument(
    "--npz",
    default="",
    help="take the training images of this file instead of scikit-learn's digits",
  )
  parser.add_argument(
    "--count", type=int, default=8, help="number of images; default: %(default)s"
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="of all draws; default: %(default)s"
  )
  flags = parser.parse_args(argv)
  return run_command(lambda: _write(flags.out, flags.npz, flags.count, flags.seed))
