"""Classifies image files by a trained network.

python -m jaxdistill predict runs/digits/members/convnet.0/best photos/ a.png
"""

import argparse
from collections.abc import Iterator, Sequence
import json
import os
from pathlib import Path
import sys
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from jaxdistill.errors import DataError, require_positive, run_command
from jaxdistill.run.member import Member, load
from jaxdistill.run.pictures import read_picture
from jaxdistill.tools._sizes import parse_size

# That of input that cannot be used.
_SOME_FAILED = DataError.exit_code


def find_images(paths: Sequence[str]) -> list[Path]:
  """Returns the files that are named, and the images in the folders that are.

  Files in folders, and in folders in them, come in the order of their names; those
  whose ending is none of an image that Pillow reads are left out. Links to folders are
  not followed.

  Raises:
    DataError: for a folder without images.
  """
  found = []
  for path in paths:
    if not os.path.isdir(path):
      found.append(Path(path))
      continue
    inside = _images_in(Path(path))
    if not inside:
      raise DataError(f"{path}: there is no image in this folder: name another")
    found += inside
  return found


def _images_in(folder: Path) -> list[Path]:
  """Returns the images in a folder and the folders in it, sorted."""
  endings = set()
  for ending, kind in Image.registered_extensions().items():
    if kind in Image.OPEN:
      endings.add(ending)
  found = []
  for place, _, names in os.walk(folder):
    for name in names:
      if Path(name).suffix.lower() in endings:
        found.append(Path(place) / name)
  return sorted(found)


class Pictures:
  """Reads files into batches of one size, and remembers those that are no images.

  Attributes:
    failed: number of files that could not be read.
  """

  def __init__(self, files: Sequence[Path], size: tuple[int, int], batch: int):
    """Names the files; nothing is read yet."""
    self._files = files
    self._size = size
    self._batch = batch
    self.failed = 0

  def __iter__(self) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yields (files, uint8[batch, H, W, 3]); rows after the files' are black."""
    images = np.zeros((self._batch, *self._size, 3), np.uint8)
    files: list[Path] = []
    for file in self._files:
      try:
        images[len(files)] = read_picture(file, *self._size)
      except DataError as error:
        print(f"jaxdistill: {error}", file=sys.stderr)
        self.failed += 1
        continue
      files.append(file)
      if len(files) == self._batch:
        yield files, images
        # The last one may still be on its way to the device.
        images = np.zeros_like(images)
        files = []
    if files:
      yield files, images


def predict(
  member: Member, pictures: Pictures, top: int
) -> Iterator[tuple[Path, list[tuple[str | int, float]]]]:
  """Yields every file that is an image with its most probable classes."""
  for files, images in pictures:
    rows = member.predict(images, top=top)
    # The last batch may be filled up.
    yield from zip(files, rows, strict=False)


def _as_text(file: Path, classes: Sequence[tuple[str | int, float]]) -> str:
  lines = [str(file)]
  for name, probability in classes:
    lines.append(f"  {100 * probability:6.2f} %  {name}")
  return "\n".join(lines)


def _as_record(
  file: Path, classes: Sequence[tuple[str | int, float]]
) -> dict[str, Any]:
  top = []
  for name, probability in classes:
    top.append({"class": name, "probability": probability})
  return {"file": str(file), "top": top}


def _run(flags: argparse.Namespace) -> int:
  """Classifies what the command line names; returns the exit code."""
  require_positive(**{"--top": flags.top, "--batch": flags.batch})
  size = parse_size(flags.size)
  files = find_images(flags.files)
  member = load(flags.member, trust_code=flags.trust_code)
  pictures = Pictures(
    files, member.image_size(size), batch=min(flags.batch, len(files))
  )
  predictions = predict(member, pictures, flags.top)
  # On a terminal, the lines show how far it is.
  silent = not sys.stderr.isatty() or (sys.stdout.isatty() and not flags.json)
  shown = track(
    predictions,
    description="Classifying",
    total=len(files),
    console=Console(stderr=True),
    transient=True,
    disable=silent,
  )
  if flags.json:
    records = [_as_record(file, classes) for file, classes in shown]
    print(json.dumps(records, indent=1, ensure_ascii=False))
  else:
    for file, classes in shown:
      print(_as_text(file, classes))
  return _SOME_FAILED if pictures.failed else 0


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxdistill predict",
    description="Classify image files. Images of any size are resized and cropped in "
    "the middle to the size that the network was trained on.",
    epilog="example: python -m jaxdistill predict runs/digits/members/convnet.0/best "
    "photos/ --top=3 --json. Exit code 2 if a file was no image; the others are done.",
  )
  parser.add_argument(
    "member",
    metavar="MEMBER",
    help="members/<member>/best or last of a run, or an exported safetensors file",
  )
  parser.add_argument(
    "files", nargs="+", metavar="FILE", help="an image, or a folder of images"
  )
  parser.add_argument(
    "--top", type=int, default=5, help="classes of each image; default: %(default)s"
  )
  parser.add_argument(
    "--json",
    action="store_true",
    help='print a list of {"file", "top": [{"class", "probability"}, ...]}',
  )
  parser.add_argument(
    "--batch", type=int, default=64, help="images at a time; default: %(default)s"
  )
  parser.add_argument(
    "--size",
    default="",
    metavar="HxW",
    help="size that images are brought to; default: that of the training",
  )
  parser.add_argument(
    "--trust-code",
    action="store_true",
    help="import the module of a network of your own",
  )
  flags = parser.parse_args(argv)
  return run_command(lambda: _run(flags))
