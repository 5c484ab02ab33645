"""ImageNet of the challenge of 2012 (ILSVRC), from the files that its users have.

Nothing is ever downloaded.

Olga Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015.
"""

import os
from pathlib import Path

import numpy as np

from jaxdistill.core.foreign import expand
from jaxdistill.data import Dataset
from jaxdistill.data._files import Files, list_folders
from jaxdistill.data._streamed import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  Options,
  Part,
  check_options,
  checked_streamed,
)
from jaxdistill.data._tfds import prepared_versions, read_classes
from jaxdistill.data.folder import list_classes
from jaxdistill.data.tfds import read_part
from jaxdistill.errors import DataError

_PREPARED = "imagenet2012"
_NUM_CLASSES = 1000
_EXAMPLES = (1_281_167, 50_000)
_FOLDERS = ("train", "val")


def imagenet(
  *,
  dir: str = "",
  allow_partial: bool = False,
  follow_links: bool = False,
  size: str = "224",
  crop: str = "random",
  resize: int = 0,
  test_size: str = "",
  test_resize: int = 0,
  interpolation: str = "bilinear",
  on_error: str = "raise",
  max_faulty: float = 0.01,
  threads: int = 0,
) -> Dataset:
  """Returns ImageNet: 1,281,167 + 50,000 photographs in 1,000 classes.

  Args:
    dir: local directory; empty for $TFDS_DATA_DIR, else ~/tensorflow_datasets. It holds
      train/n01440764/*.JPEG and val/n01440764/*.JPEG, or imagenet2012/<version>/ as
      tensorflow_datasets prepares it.
    allow_partial: accept fewer images than the full set has, of all classes.
    follow_links: read what symbolic links in the folders lead to; False refuses them.
    size: of training images as they are read, such as 224 or 256x128 (height x width).
    crop: "random" for another region in every epoch, of 8 to 100 % of the area and a
      ratio of 3/4 to 4/3, resized; "centre" for the middle.
    resize: shorter side of training images before a centre crop; 0 for the smaller side
      of `size`.
    test_size: of test images, what the network sees; empty for `size`.
    test_resize: shorter side of test images before their centre crop; 0 for the smaller
      side of `test_size` times 256/224.
    interpolation: "bilinear" or "bicubic", both antialiased.
    on_error: "raise" stops at an image that cannot be read; "skip" reads the next
      intact image of its class for training, and leaves it out of evaluation.
    max_faulty: fraction of the images that may be skipped; ten may always be.
    threads: that read and decode; 0 for one on each processor.

  Returns:
    The data set, normalised by the statistics that everyone uses for it.

  Raises:
    ConfigError: if keys do not fit each other.
    DataError: if it is not there, incomplete or damaged.
  """
  options = Options(
    size=size,
    crop=crop,
    resize=resize,
    test_size=test_size,
    test_resize=test_resize,
    interpolation=interpolation,
    on_error=on_error,
    max_faulty=max_faulty,
    threads=threads,
  )
  check_options(options)

  root = expand(dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
  prepared = prepared_versions(root / _PREPARED)
  if os.path.isdir(root / "train"):
    where = root
    class_names, train, test = _from_folders(root, follow_links)
  elif prepared:
    where = prepared[0]
    class_names = read_classes(where).names
    train = read_part(where, "train")
    test = read_part(where, "validation")
  else:
    raise DataError(
      f"{root} has neither train/ and val/ nor {_PREPARED}/<version>/ of ImageNet: get "
      "it from image-net.org and set data.dir"
    )
  _require_complete(where, (len(train.label), len(test.label)), allow_partial)
  return checked_streamed(
    "imagenet",
    train=train,
    test=test,
    num_classes=_NUM_CLASSES,
    options=options,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    where=str(where),
    class_names=class_names,
  )


def _from_folders(root: Path, follow_links: bool) -> tuple[tuple[str, ...], Part, Part]:
  """Returns class names, training and test images of the two folders."""
  validation = root / "val"
  if os.path.isdir(validation) and not list_folders(validation, follow_links):
    raise DataError(
      f"{validation} has no folders: move its images into a folder for each class, as "
      "those of train/"
    )
  listed = list_classes(root / "train", follow_links)
  if len(listed.class_names) != _NUM_CLASSES:
    raise DataError(
      f"{root / 'train'} has {len(listed.class_names)} classes, ImageNet has "
      f"{_NUM_CLASSES}: use data.name=folder for a part of them"
    )
  listed_test = list_classes(validation, follow_links, listed.class_names)
  parts = []
  for name, images in zip(_FOLDERS, (listed, listed_test), strict=True):
    parts.append(
      Part(
        source=Files(root / name, images.names),
        rows=np.arange(len(images.names)),
        label=images.label,
      )
    )
  train, test = parts
  return listed.class_names, train, test


def _require_complete(
  where: Path, counts: tuple[int, int], allow_partial: bool
) -> None:
  """Raises DataError unless all images are there, or fewer are there and allowed."""
  num_train, num_test = counts
  full_train, full_test = _EXAMPLES
  if counts == _EXAMPLES:
    return
  if allow_partial and num_train <= full_train and num_test <= full_test:
    return
  raise DataError(
    f"{where} holds {num_train} training and {num_test} test images, ImageNet has "
    f"{full_train} and {full_test}: get the full set, or set data.allow_partial=True "
    "if a part is meant"
  )
