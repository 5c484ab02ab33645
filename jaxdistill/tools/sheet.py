"""Draws what every perturbation, or every augmentation, does to images.

python -m jaxdistill perturbations --out=sheet.png
python -m jaxdistill augmentations --out=sheet.png
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdistill.core import registry
from jaxdistill.core.types import AugmentOp, Op, Perturbed
from jaxdistill.data import Dataset, Split
from jaxdistill.errors import require, run_command
from jaxdistill.inputs.augment import RECIPES
from jaxdistill.inputs.augment.pool import make_augment
from jaxdistill.inputs.normalize import to_float
from jaxdistill.inputs.perturb import unmixed

_GAP = 6
_TILE = 96

# Side of CIFAR's images.
_DIGIT = 32


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
      label = label.replace("\n", " ") + f"\n{float(result.weight):.0%} original"
    # Noise of random erasing leaves the range of pixels.
    pixels = jnp.clip(jnp.round(result.image * 255), 0, 255)
    rows[label] = np.asarray(pixels).astype(np.uint8)
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


def _read(path: str) -> Dataset:
  """Returns the data set of an npz file, or scikit-learn's digits, enlarged."""
  if path:
    return registry.resolve("data", "npz", path=path)
  dataset = registry.resolve("data", "digits")
  return dataset._replace(train=_enlarged(dataset.train), test=_enlarged(dataset.test))


def _enlarged(split: Split) -> Split:
  """Returns a split of few pixels in the size that default strengths are made for.

  Of 8 pixels, cutout leaves nothing, and padding by 4 moves half of them out of sight.
  """
  size = (_DIGIT, _DIGIT)
  images = []
  for pixels in split.image:
    image = Image.fromarray(np.asarray(pixels))
    images.append(np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
  return split._replace(image=np.stack(images))


def perturbations(dataset: Dataset) -> dict[str, Op]:
  """Returns all perturbations at their default strengths."""
  del dataset
  ops = {}
  for name in registry.list_available("perturb"):
    ops[name] = registry.resolve("perturb", name)
  return ops


def augmentations(dataset: Dataset) -> dict[str, Op]:
  """Returns all augmentations at their default strengths, and all recipes.

  Args:
    dataset: whose colours and size they have.
  """
  ops = {}
  for name in registry.list_available("augment"):
    ops[name] = _as_op({name: _augmentation(dataset, name, {})})
  for recipe, strengths in RECIPES.items():
    pool = {}
    for name, own in strengths.items():
      pool[name] = _augmentation(dataset, name, own)
    if pool:
      ops[f"recipe\n{recipe}"] = _as_op(pool)
  return ops


def _augmentation(
  dataset: Dataset, name: str, strengths: Mapping[str, Any]
) -> AugmentOp:
  """Returns an augmentation for the images of a data set."""
  size = dataset.test.shape[:2]
  of_data = {"mean": dataset.mean, "std": dataset.std, "size": size}
  given = {}
  for argument, value in of_data.items():
    if registry.takes("augment", name, argument):
      given[argument] = value
  return registry.resolve("augment", name, **given, **strengths)


def _as_op(pool: Mapping[str, AugmentOp]) -> Op:
  """Returns what a pool of augmentations does as if it were a perturbation."""
  augmentation = make_augment(pool)

  def op(key: jax.Array, image: jax.Array, /) -> Perturbed:
    augmented = augmentation.augment(key, image)
    if not augmentation.mix:
      return unmixed(augmented)
    mixed, mixture = augmentation.mix.apply(key, augmented[None])
    return Perturbed(mixed[0], mixture.permutation, mixture.weight)

  return op


SHEETS = {"perturbations": perturbations, "augmentations": augmentations}
"""Command -> what it draws."""


def _write(command: str, out: str, npz: str, count: int, seed: int) -> None:
  """Writes the sheet of all operations at their default strengths."""
  require(count >= 1, f"--count must be at least 1, got {count}")
  dataset = _read(npz)
  first = dataset.train.take(np.arange(min(count, len(dataset.train.label))))
  # Both are read whole.
  assert isinstance(first, Split)
  sheet = contact_sheet(first.image, SHEETS[command](dataset), jax.random.key(seed))
  sheet.save(out)
  print(f"wrote {out}")


def main(command: str, argv: Sequence[str]) -> int:
  """Runs the command `perturbations` or `augmentations`; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog=f"python -m jaxdistill {command}",
    description=f"Draw what all {command} do to images, at their default strengths.",
    epilog=f"example: python -m jaxdistill {command} --out=sheet.png",
  )
  parser.add_argument(
    "--out", default=f"{command}.png", help="file to write; default: %(default)s"
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
  return run_command(
    lambda: _write(
      command, out=flags.out, npz=flags.npz, count=flags.count, seed=flags.seed
    )
  )
