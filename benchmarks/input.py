"""Times reading images from files beside plain decoding with tf.data.

    python benchmarks/input.py
    python benchmarks/input.py --images=2000 --rounds=7 --size=224
    python benchmarks/input.py --dir=/data/imagenet/train

Reads the same JPEG files in turns in one process, so that a noisy machine slows all of
them alike: as the library does for training (random resized crop) and for evaluation
(centre crop), and with the tf.data that a tutorial shows: read, decode all of the
image, resize, batch. Without `--dir` the files are cut at random out of scikit-learn's
two photographs, about 500x375 pixels each as ImageNet's are, and lie in a temporary
folder. The files are in the page cache: what is timed is the processor's work, by the
clock and in processor time of all threads, which other programs disturb less. Also
prints how far the resident memory has grown since the first round.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
import statistics
import tempfile
import time
from typing import NamedTuple

from absl import app, flags
import numpy as np
from PIL import Image

from jaxdistill.data import Request
from jaxdistill.data._decode import Reading
from jaxdistill.data._files import Files, list_images
from jaxdistill.data._pipeline import TfReader
from jaxdistill.data._tensorflow import import_tensorflow

_IMAGES = flags.DEFINE_integer("images", 1500, "Files of a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of each variant.")
_SIZE = flags.DEFINE_integer("size", 224, "Side of the images that are read.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images of a batch.")
_DIR = flags.DEFINE_string("dir", "", "Folder of JPEG files to read instead.")
_THREADS = flags.DEFINE_integer("threads", 0, "Threads of the library; 0: by itself.")

PLAIN = "plain tf.data, as tutorials resize"
BASELINES = (PLAIN, "plain tf.data, antialiased")


def write_images(folder: Path, count: int) -> None:
  """Writes JPEG files of about 500x375 pixels and 100 kB."""
  from sklearn.datasets import load_sample_images

  photographs = [Image.fromarray(image) for image in load_sample_images().images]
  random = np.random.default_rng(0)
  for number in range(count):
    photograph = photographs[number % len(photographs)]
    width = int(random.integers(460, 540))
    height = int(random.integers(340, 410))
    left = int(random.integers(0, photograph.width - width))
    top = int(random.integers(0, photograph.height - height))
    image = photograph.crop((left, top, left + width, top + height))
    image.save(folder / f"{number:05d}.jpg", quality=90)


def own(files: Files, crop: str) -> Callable[[], Iterator[np.ndarray]]:
  """Returns what reads all files once, as the library does."""
  reading = Reading(
    height=_SIZE.value,
    width=_SIZE.value,
    crop=crop,
    resize=round(_SIZE.value * 256 / 224),
  )
  reader = TfReader(files, reading, threads=_THREADS.value)
  rows = np.arange(len(files))

  def read() -> Iterator[np.ndarray]:
    requests = []
    for start in range(0, len(files), _BATCH.value):
      index = rows[start : start + _BATCH.value]
      requests.append(Request(index=index, draw=index))
    for batch in reader.batches(requests):
      yield batch.image

  return read


def plain(files: Files, antialias: bool) -> Callable[[], Iterator[np.ndarray]]:
  """Returns what reads all files once, as a tutorial of tf.data does."""
  tf = import_tensorflow()

  def load(path):
    pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    size = [_SIZE.value, _SIZE.value]
    pixels = tf.image.resize(pixels, size, antialias=antialias)
    return tf.cast(pixels, tf.uint8)

  dataset = tf.data.Dataset.from_tensor_slices(files.paths(range(len(files))))
  dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
  dataset = dataset.batch(_BATCH.value).prefetch(tf.data.AUTOTUNE)
  return dataset.as_numpy_iterator


def resident_bytes() -> int:
  """Returns the memory that this process holds."""
  pages = Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * 4096


class Speed(NamedTuple):
  """How fast a round was.

  Attributes:
    by_clock: images in a second.
    by_processor: images in a second of processor time.
  """

  by_clock: float
  by_processor: float


def measure(read: Callable[[], Iterator[np.ndarray]]) -> Speed:
  start = time.perf_counter()
  processor_start = time.process_time()
  count = 0
  for batch in read():
    count += len(batch)
  return Speed(
    by_clock=count / (time.perf_counter() - start),
    by_processor=count / (time.process_time() - processor_start),
  )


def ratio_to_plain(speeds: dict[str, list[Speed]], name: str, field: str) -> float:
  """Returns the median over the rounds of a variant's speed to that of the first."""
  ratios = []
  for one, other in zip(speeds[name], speeds[PLAIN], strict=True):
    ratios.append(getattr(one, field) / getattr(other, field))
  return statistics.median(ratios)


def main(_):
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(_DIR.value or temporary)
    if not _DIR.value:
      write_images(folder, _IMAGES.value)
    files = Files(folder, list_images(folder, follow_links=True)[: _IMAGES.value])
    variants = {
      BASELINES[0]: plain(files, antialias=False),
      BASELINES[1]: plain(files, antialias=True),
      "jaxdistill, random crop": own(files, "random"),
      "jaxdistill, centre crop": own(files, "centre"),
    }
    speeds: dict[str, list[Speed]] = {name: [] for name in variants}
    # The first round of each traces its graph.
    for read in variants.values():
      measure(read)
    memory = resident_bytes()
    for _ in range(_ROUNDS.value):
      for name, read in variants.items():
        speeds[name].append(measure(read))
    grown = (resident_bytes() - memory) / 2**20

  print(f"{len(files)} files, {_SIZE.value} pixels, {_ROUNDS.value} rounds, medians")
  print(f"{'':36s} images/s  of plain  images/processor s  of plain")
  for name, measured in speeds.items():
    by_clock = statistics.median(speed.by_clock for speed in measured)
    by_processor = statistics.median(speed.by_processor for speed in measured)
    print(
      f"{name:36s} {by_clock:8.0f} {ratio_to_plain(speeds, name, 'by_clock'):9.2f} "
      f"{by_processor:19.0f} {ratio_to_plain(speeds, name, 'by_processor'):9.2f}"
    )
  print(f"memory grew by {grown:.0f} MiB")


if __name__ == "__main__":
  app.run(main)
