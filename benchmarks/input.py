"""Times reading images from files beside plain tf.data that does the same.

    python benchmarks/input.py
    python benchmarks/input.py --images=2000 --rounds=7 --size=224
    python benchmarks/input.py --dir=/data/imagenet/train

Reads the same JPEG files in turns in one process, so that a noisy machine slows all of
them alike: as the library does for training (random resized crop) and for evaluation
(centre crop), and with the few lines of tf.data that do the same work: decode what is
cropped, resize it with averaging; or decode, resize the shorter side with averaging,
cut out the middle. Besides, what a tutorial shows: decode all of the image and squash
it, without averaging, which leaves out pixels where it makes smaller.

Without `--dir` the files are cut at random out of scikit-learn's two photographs, about
500x375 pixels each as ImageNet's are, and lie in a temporary folder. The files are in
the page cache: what is timed is the processor's work, by the clock and in processor
time of all threads, which other programs disturb less. Also prints how far the resident
memory has grown since the first round.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any, NamedTuple

from absl import app, flags
import numpy as np
from PIL import Image

from jaxdistill.data import Request
from jaxdistill.data._decode import Reading, draw_candidates, random_region
from jaxdistill.data._files import Files, list_images
from jaxdistill.data._pipeline import TfReader
from jaxdistill.data._tensorflow import import_tensorflow

tf = import_tensorflow()

_IMAGES = flags.DEFINE_integer("images", 1500, "Files of a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of each variant.")
_SIZE = flags.DEFINE_integer("size", 224, "Side of the images that are read.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images of a batch.")
_DIR = flags.DEFINE_string("dir", "", "Folder of JPEG files to read instead.")
_THREADS = flags.DEFINE_integer("threads", 0, "Threads of the library; 0: by itself.")

TUTORIAL = "tf.data, as tutorials resize"


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
    height=_SIZE.value, width=_SIZE.value, crop=crop, resize=covering_side()
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


def covering_side() -> int:
  """Returns the shorter side of an image before the centre crop."""
  return round(_SIZE.value * 256 / 224)


def plain(
  files: Files, load: Callable[[Any, Any], Any]
) -> Callable[[], Iterator[np.ndarray]]:
  """Returns what reads all files once, with a plain pipeline of tf.data.

  Args:
    files: to read.
    load: (encoded image, region of a random crop) -> uint8[H, W, 3].
  """

  def read(path: Any, region: Any) -> Any:
    return load(tf.io.read_file(path), region)

  rows = range(len(files))
  slices = (files.paths(rows), regions(files))
  dataset = tf.data.Dataset.from_tensor_slices(slices)
  dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
  dataset = dataset.batch(_BATCH.value).prefetch(tf.data.AUTOTUNE)
  return dataset.as_numpy_iterator


def regions(files: Files) -> np.ndarray:
  """Returns the random crops that the library draws, i32[N, 4].

  The plain pipeline need not draw them, and decodes as many pixels.
  """
  reading = Reading(height=_SIZE.value, width=_SIZE.value, crop="random")
  drawn = []
  for row, candidates in enumerate(draw_candidates(np.arange(len(files)), reading)):
    (content,) = files.read([row])
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(content))
    region = random_region(tf, height, width, tf.constant(candidates), reading)
    drawn.append(region.numpy())
  return np.stack(drawn)


def squash(content: Any, _: Any) -> Any:
  """Brings all of an image to the size, without averaging."""
  pixels = tf.io.decode_jpeg(content, channels=3)
  pixels = tf.image.resize(pixels, [_SIZE.value, _SIZE.value])
  return tf.cast(pixels, tf.uint8)


def plain_random(content: Any, region: Any) -> Any:
  """A random resized crop, cut out at the decoder."""
  pixels = tf.io.decode_and_crop_jpeg(
    content, region, channels=3, dct_method="INTEGER_ACCURATE"
  )
  pixels = tf.image.resize(pixels, [_SIZE.value, _SIZE.value], antialias=True)
  return tf.cast(tf.round(pixels), tf.uint8)


def plain_centre(content: Any, _: Any) -> Any:
  """The middle of an image whose shorter side is resized."""
  pixels = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
  size = tf.shape(pixels)[:2]
  size = size * covering_side() // tf.reduce_min(size)
  pixels = tf.image.resize(pixels, size, antialias=True)
  top, left = tf.unstack((size - _SIZE.value) // 2)
  pixels = tf.image.crop_to_bounding_box(pixels, top, left, _SIZE.value, _SIZE.value)
  return tf.cast(tf.round(pixels), tf.uint8)


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
  batches = read()
  # What it takes to begin is not counted, nor is the first batch.
  next(batches)
  start = time.perf_counter()
  processor_start = time.process_time()
  count = 0
  for batch in batches:
    count += len(batch)
  return Speed(
    by_clock=count / (time.perf_counter() - start),
    by_processor=count / (time.process_time() - processor_start),
  )


def ratio(speeds: dict[str, list[Speed]], name: str, other: str, field: str) -> float:
  """Returns the median over the rounds of a variant's speed to that of another."""
  ratios = []
  for one, two in zip(speeds[name], speeds[other], strict=True):
    ratios.append(getattr(one, field) / getattr(two, field))
  return statistics.median(ratios)


def main(_):
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(_DIR.value or temporary)
    if not _DIR.value:
      write_images(folder, _IMAGES.value)
    files = Files(folder, list_images(folder, follow_links=True)[: _IMAGES.value])
    variants = {
      TUTORIAL: plain(files, squash),
      "tf.data, random crop": plain(files, plain_random),
      "jaxdistill, random crop": own(files, "random"),
      "tf.data, centre crop": plain(files, plain_centre),
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
  print(f"{'':26s} images/s  images/processor s")
  for name, measured in speeds.items():
    by_clock = statistics.median(speed.by_clock for speed in measured)
    by_processor = statistics.median(speed.by_processor for speed in measured)
    print(f"{name:26s} {by_clock:8.0f} {by_processor:19.0f}")

  print("jaxdistill beside          by the clock  by processor time")
  for crop in ("random crop", "centre crop"):
    for other in (f"tf.data, {crop}", TUTORIAL):
      by_clock = ratio(speeds, f"jaxdistill, {crop}", other, "by_clock")
      by_processor = ratio(speeds, f"jaxdistill, {crop}", other, "by_processor")
      print(f"{crop}, {other:30s} {by_clock:8.2f} {by_processor:8.2f}")
  print(f"memory grew by {grown:.0f} MiB")


if __name__ == "__main__":
  app.run(main)
