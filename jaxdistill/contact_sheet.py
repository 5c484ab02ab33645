"""Draws what every perturbation does to images: `python -m jaxdistill.contact_sheet --out=sheet.png`."""

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdistill import augment, registry
from jaxdistill.errors import run_command
from jaxdistill.pool import Op

_GAP = 6


def contact_sheet(images: np.ndarray, ops: dict[str, Op], key: jax.Array,
                  scale: int | None = None) -> Image.Image:
  """Draws the images in the first row and below it one row per operation.

  Args:
    images: uint8[n, H, W, 3].
    ops: name -> operation. Rows of operations that mix images also say the original's share.
    key: what all operations draw from.
    scale: whole factor by which pixels are enlarged; None makes tiles of about 96 pixels.

  Returns:
    The sheet, in RGB.
  """
  count, height, width, _ = images.shape
  scale = scale or max(1, 96 // height)
  rows = {"original": images}
  for row, (name, op) in enumerate(ops.items()):
    result = jax.jit(op)(jax.random.fold_in(key, row), augment.to_float(images))
    share = f"\n{float(result.weight):.0%} original" if result.weight < 1 else ""
    rows[name + share] = np.asarray(jnp.round(result.image * 255)).astype(np.uint8)
  font = ImageFont.load_default(size=16)
  left = 2 * _GAP + max(int(font.getlength(line)) for label in rows for line in label.split("\n"))
  tile_width, tile_height = width * scale + _GAP, max(height * scale, 40) + _GAP
  sheet = Image.new("RGB", (left + count * tile_width, _GAP + len(rows) * tile_height), "white")
  draw = ImageDraw.Draw(sheet)
  for row, (label, tiles) in enumerate(rows.items()):
    top = _GAP + row * tile_height
    draw.text((_GAP, top), label, fill="black", font=font)
    for col, tile in enumerate(tiles):
      # Nearest neighbour: any other enlargement would blur what is to be seen.
      tile = Image.fromarray(tile).resize((width * scale, height * scale), Image.Resampling.NEAREST)
      sheet.paste(tile, (left + col * tile_width, top))
  return sheet


def _images(path: str) -> np.ndarray:
  data = registry.resolve("data", "npz", path=path) if path else registry.resolve("data", "digits")
  return data.train.image


def main(argv):
  """Writes the sheet of all operations at their default strengths."""
  del argv
  images = _images(flags.FLAGS.npz)[:flags.FLAGS.count]
  ops = {name: registry.resolve("perturb", name) for name in registry.list_available("perturb")}
  contact_sheet(images, ops, jax.random.key(flags.FLAGS.seed)).save(flags.FLAGS.out)
  print(f"wrote {flags.FLAGS.out}")


if __name__ == "__main__":
  flags.DEFINE_string("out", "perturbations.png", "File to write.")
  flags.DEFINE_string("npz", "", "Take the training images of this file instead of scikit-learn's digits.")
  flags.DEFINE_integer("count", 8, "Number of images.", lower_bound=1)
  flags.DEFINE_integer("seed", 0, "Seed of all draws.")
  app.run(lambda argv: run_command(lambda: main(argv)))
