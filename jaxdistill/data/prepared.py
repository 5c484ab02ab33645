"""Images that `python -m jaxdistill prepare` has brought into ArrayRecord files."""

import numpy as np

from jaxdistill.core.foreign import expand
from jaxdistill.data import Dataset
from jaxdistill.data._streamed import Options, Part, check_options, checked_streamed
from jaxdistill.data.shards import Index, Records, read_index
from jaxdistill.errors import require


def prepared(
  *,
  dir: str = "",
  verify: bool = False,
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
  """Returns a prepared data set; images are read when they are needed.

  Args:
    dir: directory that `python -m jaxdistill prepare` has written.
    verify: read all files before the run, and compare their hashes with the index;
      their sizes and the numbers of their records are compared in any case.
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
    statistics: "sample" normalises by mean and standard deviation of all training
      images as they were prepared, "imagenet" by those of ImageNet.
    on_error: "raise" stops at an image that cannot be read; "skip" reads the next
      intact image of its class for training, and leaves it out of evaluation.
    max_faulty: fraction of the images that may be skipped; ten may always be.
    threads: that read and decode; 0 for one on each processor.

  Returns:
    The data set, in the order of class and file name.

  Raises:
    ConfigError: if no directory is named, or the keys do not fit each other.
    DataError: naming the file that is missing or damaged.
  """
  require(bool(dir), "dir must name a directory that `jaxdistill prepare` has written")
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
  root = expand(dir)
  index = read_index(root, verify=verify)
  mean = index.mean
  std = index.std
  if statistics != "sample":
    mean = None
    std = None
  return checked_streamed(
    root.resolve().name,
    train=_part(index, "train"),
    test=_part(index, "test"),
    num_classes=len(index.class_names),
    options=options,
    mean=mean,
    std=std,
    where=str(root),
    class_names=index.class_names,
  )


def _part(index: Index, split: str) -> Part:
  """Returns all examples of a split."""
  records = Records(index, split)
  return Part(
    source=records,
    rows=np.arange(len(records)),
    label=index.splits[split].table.label,
  )
