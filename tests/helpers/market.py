"""A small set of persons in the layout of Market-1501."""

from pathlib import Path

import numpy as np
from PIL import Image

CAMERAS = (1, 2, 3)


def write(
  root: Path,
  *,
  persons: int = 4,
  images: int = 2,
  shape: tuple[int, int] = (32, 16),
  seed: int = 0,
) -> Path:
  """Writes persons to train on, and as many others to be searched.

  A person is the stripes of two garments. Every camera has colours and a brightness of
  its own, so that two persons by one camera look more alike than one by two.

  Args:
    root: folder to make.
    persons: in either half.
    images: of each person by each camera.
    shape: height and width of the files.
    seed: of everything random.

  Returns:
    The folder.
  """
  rng = np.random.default_rng(seed)
  for folder in ("bounding_box_train", "query", "bounding_box_test"):
    (root / folder).mkdir(parents=True)
    (root / folder / "Thumbs.db").write_bytes(b"left by a file manager")
  casts = rng.uniform(0.35, 1, (len(CAMERAS), 3))
  for person in range(2 * persons):
    trained = person < persons
    # Odd identities are trained on here; in the original they are mixed too.
    identity = 2 * (person % persons) + (1 if trained else 2)
    clothes = rng.uniform(size=(2, 3))
    for camera, cast in zip(CAMERAS, casts, strict=True):
      for number in range(images):
        picture = _draw(rng, shape, clothes, cast)
        name = f"{identity:04d}_c{camera}s1_{number:06d}_01.jpg"
        folder = "bounding_box_train"
        if not trained:
          folder = "query" if number == 0 else "bounding_box_test"
        save(root / folder / name, picture)
  for name in ("-1_c1s1_000001_01.jpg", "0000_c2s1_000001_01.jpg"):
    clothes = rng.uniform(size=(2, 3))
    picture = _draw(rng, shape, clothes, casts[0])
    save(root / "bounding_box_test" / name, picture)
  return root


def save(path: Path, picture: np.ndarray) -> None:
  """Writes uint8[H, W, 3] as a JPEG file."""
  Image.fromarray(picture).save(path, "JPEG", quality=95)


def _draw(
  rng: np.random.Generator,
  shape: tuple[int, int],
  clothes: np.ndarray,
  cast: np.ndarray,
) -> np.ndarray:
  """Draws a person: two garments, each with stripes of an angle and a width.

  Args:
    rng: of where the person stands, the light and the noise.
    shape: height and width.
    clothes: f[2, 3] angle, width and contrast of either garment, in [0, 1].
    cast: f[3] of the camera.
  """
  height, width = shape
  rows, columns = np.mgrid[:height, :width]
  shade = np.empty(shape)
  for half, (angle, period, contrast) in enumerate(clothes):
    direction = np.pi * angle
    along = columns * np.cos(direction) + rows * np.sin(direction)
    phase = rng.uniform(0, 2 * np.pi)
    waves = np.sin(2 * np.pi * along / (3 + 5 * period) + phase)
    garment = rows >= height // 2 if half else rows < height // 2
    shade[garment] = (0.5 + (0.25 + 0.2 * contrast) * waves)[garment]
  light = rng.uniform(0.7, 1)
  picture = shade[..., None] * cast * light + rng.normal(0, 0.03, (*shape, 3))
  return np.clip(255 * picture, 0, 255).astype(np.uint8)
