"""Folders of image files, intact and odd; all of them real files."""

import io
import os
from pathlib import Path
import struct
import zlib

import numpy as np
from PIL import Image


def picture(seed: int = 0, height: int = 24, width: int = 20) -> Image.Image:
  """An image that is smooth, as JPEG likes it, and another one for each seed."""
  random = np.random.default_rng(seed)
  coarse = random.integers(0, 256, (3, 2, 3), np.uint8)
  return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def _png_chunk(name: bytes, data: bytes) -> bytes:
  checksum = struct.pack(">I", zlib.crc32(name + data))
  return struct.pack(">I", len(data)) + name + data + checksum


def png_that_claims(height: int, width: int) -> bytes:
  """A PNG file with a header of any size, and hardly any pixels."""
  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + _png_chunk(b"IHDR", header)
    + _png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    + _png_chunk(b"IEND", b"")
  )


def jpeg_that_claims(height: int, width: int) -> bytes:
  content = bytearray(encoded(picture()))
  start = content.index(b"\xff\xc0") + 5
  content[start : start + 4] = struct.pack(">HH", height, width)
  return bytes(content)


def animation() -> bytes:
  return encoded(picture(1), "GIF", save_all=True, append_images=[picture(2)])


def sixteen_bits() -> bytes:
  """A grey PNG of 16 bits, whose upper eight are 0 to 255."""
  levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 255
  return encoded(Image.fromarray(levels), "PNG")


FAULTY = {
  "truncated JPEG": (encoded(picture())[:300], "cannot be decoded"),
  "truncated PNG": (encoded(picture(), "PNG")[:300], "cannot be decoded"),
  "text": (b"this is no image", "it is no image"),
  "empty file": (b"", "it is empty"),
  "animation": (animation(), "animated"),
  "floating point": (
    encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
    "floating-point",
  ),
  "huge PNG": (png_that_claims(30_000, 30_000), "pixels"),
  "large PNG": (png_that_claims(9000, 9000), "9000x9000, more than 67108864 pixels"),
  "huge JPEG": (jpeg_that_claims(65_000, 65_000), "pixels"),
}
"""What is no image that can be used -> its content, and a part of the reason."""

UNUSUAL = {
  "PNG": encoded(picture(), "PNG"),
  "grey": encoded(picture().convert("L")),
  "CMYK": encoded(picture().convert("CMYK")),
  "palette": encoded(picture().convert("P"), "PNG"),
  "alpha": encoded(picture().convert("RGBA"), "PNG"),
  "two colours": encoded(picture().convert("1"), "PNG"),
  "16 bits": sixteen_bits(),
  "WebP": encoded(picture(), "WEBP"),
  "BMP": encoded(picture(), "BMP"),
  "one frame": encoded(picture(), "GIF"),
}
"""Images that can be used, whatever their names say."""


def write_folder(
  root: Path,
  classes: tuple[str, ...] = ("cat", "dog"),
  train: int = 4,
  test: int = 2,
  size: tuple[int, int] = (24, 20),
) -> Path:
  """Writes `train` and `val`, so many images in each class; returns the folder."""
  seed = 0
  for split, count in (("train", train), ("val", test)):
    for name in classes:
      folder = root / split / name
      folder.mkdir(parents=True)
      for number in range(count):
        seed += 1
        content = encoded(picture(seed, *size))
        (folder / f"{number:03d}.jpg").write_bytes(content)
  return root


def contents(folder: Path) -> dict[str, bytes]:
  """Path below a folder -> content, of all files."""
  found = {}
  for path in sorted(folder.rglob("*")):
    if path.is_file():
      found[os.fspath(path.relative_to(folder))] = path.read_bytes()
  return found
