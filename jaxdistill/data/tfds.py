"""Any image classification set that tensorflow_datasets has prepared."""

import os
from pathlib import Path

import numpy as np

from jaxdistill.core.foreign import expand
from jaxdistill.data import Dataset
from jaxdistill.data._records import ArrayRecords, TfRecords
from jaxdistill.data._streamed import Options, Part, check_options, checked_streamed
from jaxdistill.data._tfds import prepared_versions, read_classes, read_split_info
from jaxdistill.errors import DataError, require


def tfds(
  *,
  set: str = "",
  dir: str = "",
  train_split: str = "train",
  test_split: str = "test",
  size: str = "",
  crop: str = "random",
  resize: int = 0,
  test_size: str = "",
  test_resize: int = 0,
  interpolation: str = "bilinear",
  statistics: str = "sample",
  on_error: str = "raise",
  max_faulty: float = 0.01,
  threads: int = 0,
) -> Dataset:
  """Returns a set that tensorflow_datasets has prepared, read when it is needed.

  It needs the features `image` and `label`, in TFRecord or ArrayRecord files. Nothing
  is ever downloaded, and no code of the directory is run.

  Args:
    set: its name, such as oxford_flowers102; with its config where it has some:
      name/config.
    dir: local directory of prepared sets; empty for $TFDS_DATA_DIR, else
      ~/tensorflow_datasets. The newest version of the set is read.
    train_split: name of the training split.
    test_split: name of the split that evaluation covers.
    size: of training images as they are read, such as 224 or 256x128 (height x width);
      empty leaves all images as they are stored, and then they must agree in size.
    crop: "random" for another region in every epoch, of 8 to 100 % of the area and a
      ratio of 3/4 to 4/3, resized; "centre" for the middle. It needs a `size`.
    resize: shorter side of training images before a centre crop; 0 for the smaller side
      of `size`.
    test_size: of test images, what the network sees; empty for `size`.
    test_resize: shorter side of test images before their centre crop; 0 for the smaller
      side of `test_size` times 256/224.
    interpolation: "bilinear" or "bicubic", both antialiased.
    statistics: "sample" measures mean and standard deviation for the normalisation on
      2,000 training images at most, "imagenet" takes those of ImageNet.
    on_error: "raise" stops at an image that cannot be read; "skip" reads the next
      intact image of its class for training, and leaves it out of evaluation.
    max_faulty: fraction of the images that may be skipped; ten may always be.
    threads: that read and decode; 0 for one on each processor.

  Returns:
    The data set, in the order of its files.

  Raises:
    ConfigError: if no set is named, or keys do not fit each other.
    DataError: if it is not prepared or damaged.
  """
  require(bool(set), "set must name a data set, such as oxford_flowers102")
  options = Options(
    size=size,
    crop=crop,
    resize=resize,
    test_size=test_size,
    test_resize=test_resize,
    interpolation=interpolation,
    statistics=statistics,
    on_error=on_error,
    max_faulty=max_faulty,
    threads=threads,
  )
  check_options(options)

  version = find_prepared(set, dir)
  train = read_part(version, train_split)
  test = read_part(version, test_split)
  classes = read_classes(version)
  return checked_streamed(
    set,
    train=train,
    test=test,
    num_classes=classes.count,
    options=options,
    where=str(version),
    class_names=classes.names,
  )


def find_prepared(name: str, dir: str) -> Path:
  """Returns the directory of a set's newest version.

  Args:
    name: of the set, perhaps with its config.
    dir: directory of prepared sets; empty for the usual one.

  Raises:
    DataError: if there is none.
  """
  root = expand(dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
  versions = prepared_versions(root / name)
  if not versions:
    raise DataError(
      f"{root / name} has no prepared version of the data set: run `tfds build {name} "
      f"--data_dir={root}` (pip install tensorflow-datasets), or set data.dir"
    )
  return versions[0]


def read_part(version: Path, split: str) -> Part:
  """Returns all examples of a split.

  Args:
    version: directory of one version.
    split: its name.

  Raises:
    DataError: if there is no such split, or a file is damaged.
  """
  info = read_split_info(version / "dataset_info.json", split)
  # They say what the images and labels are called, which the records do not.
  read_classes(version)
  if info.file_format == "array_record":
    source = ArrayRecords(info.shards)
  else:
    source = TfRecords(info.shards)
  return Part(source=source, rows=np.arange(len(source)), label=source.labels)
