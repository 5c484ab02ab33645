"""An image classification data set: checked host arrays, or what is read from files."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxdistill.errors import DataError, reason, require, require_choice

Channels = tuple[float, float, float]
"""A number for each of the three colour channels."""

# A float64 copy of all of CIFAR, as a plain `std` makes it, takes more than a gigabyte.
_BLOCK = 1000

_MIN_STD = 1e-3

JUNK = -1
"""Identity of images that are neither right nor wrong for any query."""

DISTANCES = ("cosine", "euclidean")
"""Between the features of two images."""

# Labels are int32.
_MAX_CLASSES = 2**31 - 1

_MAX_NAME_CHARACTERS = 200


class Split(NamedTuple):
  """One split of a data set.

  Attributes:
    image: uint8[N, H, W, 3].
    label: int32[N]; the row is the example's stable index.
  """

  image: np.ndarray
  label: np.ndarray

  @property
  def shape(self) -> tuple[int, ...]:
    """(H, W, 3) of every image."""
    return self.image.shape[1:]

  def take(self, rows: np.ndarray) -> "Split":
    """Returns the examples of some rows, numbered anew.

    Args:
      rows: bool[N], or integers.
    """
    return Split(image=self.image[rows], label=self.label[rows])


class Request(NamedTuple):
  """A batch that a reader is to read.

  Attributes:
    index: i64[b] row of each example in what the reader reads.
    draw: i64[b] number of the draw of each example's random crop, where the reader
      crops at random: the same number crops alike.
  """

  index: np.ndarray
  draw: np.ndarray


class Images(NamedTuple):
  """A batch that was read.

  Attributes:
    image: uint8[b, H, W, 3], which is not written to any more.
    intact: bool[b] False where the example could not be read and was left out; its
      image is black. A training example cannot be left out: its reader reads another
      one in its place.
  """

  image: np.ndarray
  intact: np.ndarray


class Reader(Protocol):
  """Reads images when they are needed."""

  @property
  def digest(self) -> str:
    """Tells what is read from another set of files or another way to read them."""
    ...

  def batches(self, requests: Iterable[Request]) -> Iterator[Images]:
    """Yields the images of each request, in their order; reads ahead.

    Raises:
      DataError: naming the file that cannot be read.
    """
    ...

  def for_evaluation(self) -> "Reader":
    """Returns the reader of the same rows as test images are read.

    Without random crops, in the size of the test images.
    """
    ...


class Streamed(NamedTuple):
  """A split whose images are read when they are needed.

  Attributes:
    label: int32[N]; the row is the example's stable index.
    rows: i64[N] row of each example in what the reader reads.
    shape: (H, W, 3) of every image as it is read.
    reader: of the images.
    varies: whether an example is read in another way every time, as with random crops.
  """

  label: np.ndarray
  rows: np.ndarray
  shape: tuple[int, ...]
  reader: Reader
  varies: bool = False

  def take(self, rows: np.ndarray) -> "Streamed":
    """Returns the examples of some rows, numbered anew; nothing is read.

    Args:
      rows: bool[N], or integers.
    """
    return self._replace(label=self.label[rows], rows=self.rows[rows])

  def for_evaluation(self, shape: tuple[int, ...]) -> "Streamed":
    """Returns the same examples, read as test images are.

    Args:
      shape: (H, W, 3) of the test images.
    """
    reader = self.reader.for_evaluation()
    return self._replace(shape=shape, reader=reader, varies=False)


class Ranking(NamedTuple):
  """What a split is searched for: its queries among all its other images.

  The images that are searched are its gallery. No query is in it.

  Attributes:
    identity: i32[N] what an image shows; `JUNK` where it is neither right nor wrong.
    camera: i32[N] what took it. Images of a query's identity by its own camera do not
      count.
    is_query: bool[N] whether it is a query, else it is in the gallery.
    distance: between the features of two images: "cosine" or "euclidean".
  """

  identity: np.ndarray
  camera: np.ndarray
  is_query: np.ndarray
  distance: str = "cosine"


class Dataset(NamedTuple):
  """A data set.

  Attributes:
    name: what errors and summaries call it.
    train: training split.
    test: held-out split that evaluation covers completely. Where it is searched, its
      labels mean nothing.
    num_classes: C.
    mean: per-channel mean of the training pixels in [0, 1], for normalisation.
    std: per-channel standard deviation in [0, 1].
    holdout: examples taken out of the training split (see `hold_out`), or None.
    class_names: names of the C classes; empty where they are not known.
    stable_index: whether a row of the training split is the same example in every
      epoch, as methods with a table of the examples need.
    ranking: of the test split, where members are measured by what they find in it; None
      where they are measured by how they classify it.
  """

  name: str
  train: Split | Streamed
  test: Split | Streamed
  num_classes: int
  mean: Channels
  std: Channels
  holdout: Split | Streamed | None = None
  class_names: tuple[str, ...] = ()
  stable_index: bool = True
  ranking: Ranking | None = None


def checked(
  name: str,
  train: tuple[Any, Any],
  test: tuple[Any, Any],
  num_classes: int,
  mean: Channels | None = None,
  std: Channels | None = None,
  where: str = "",
  class_names: Sequence[str] = (),
  ranking: Ranking | None = None,
) -> Dataset:
  """Returns a data set, after checking shapes, types, counts and label ranges.

  Out-of-range labels have to be caught here: inside a compiled step they give a NaN
  loss with finite gradients, or silently mean the last class.

  Args:
    name: what summaries call the data set.
    train: (images uint8[N, H, W, 3], integer labels [N]).
    test: likewise.
    num_classes: C.
    mean: per-channel mean in [0, 1].
    std: per-channel standard deviation in [0, 1]; both are measured on the training
      split when one of them is None.
    where: file or folder that the arrays came from, for errors.
    class_names: names of the C classes, in the order of the labels; empty where they
      are not known.
    ranking: of the test split, if it is searched and not classified; labels of 0 do for
      its images.

  Returns:
    The data set, labels as int32.

  Raises:
    DataError: naming split, example, value and allowed range.
  """
  source = f"{name} ({where})" if where else name
  if not 0 < num_classes <= _MAX_CLASSES:
    raise DataError(
      f"{source}: {num_classes} classes: there must be 1 to {_MAX_CLASSES}: fix the "
      "labels or the number of classes"
    )
  train_split = _checked_split(f"{source} train", *train, num_classes)
  test_split = _checked_split(f"{source} test", *test, num_classes)
  train_shape = train_split.image.shape[1:]
  test_shape = test_split.image.shape[1:]
  if train_shape != test_shape:
    raise DataError(
      f"{source}: training images are {list(train_shape)}, test images "
      f"{list(test_shape)}: bring them to one shape"
    )
  check_class_names(source, class_names, num_classes)
  if ranking is not None:
    ranking = _checked_ranking(source, ranking, len(test_split.label))
  if mean is None or std is None:
    mean, std = channel_statistics(train_split.image)
  return Dataset(
    name=name,
    train=train_split,
    test=test_split,
    num_classes=num_classes,
    mean=mean,
    std=std,
    class_names=tuple(class_names),
    ranking=ranking,
  )


def _checked_ranking(source: str, ranking: Ranking, num_examples: int) -> Ranking:
  """Returns a ranking as arrays; raises DataError for one that does not fit."""
  require_choice(distance=(ranking.distance, DISTANCES))
  identity = np.asarray(ranking.identity)
  camera = np.asarray(ranking.camera)
  is_query = np.asarray(ranking.is_query)
  for name, values in (("identity", identity), ("camera", camera)):
    if values.shape != (num_examples,) or values.dtype.kind not in "iu":
      raise DataError(
        f"{source}: ranking.{name} is {values.dtype}{list(values.shape)}: give one "
        f"integer to each of the {num_examples} test images"
      )
  if is_query.shape != (num_examples,) or is_query.dtype != np.bool_:
    raise DataError(
      f"{source}: ranking.is_query is {is_query.dtype}{list(is_query.shape)}: give a "
      f"bool to each of the {num_examples} test images"
    )
  checked_one = Ranking(
    identity=identity.astype(np.int32),
    camera=camera.astype(np.int32),
    is_query=is_query,
    distance=ranking.distance,
  )
  _require_something_to_find(source, checked_one)
  return checked_one


def _require_something_to_find(source: str, ranking: Ranking) -> None:
  """Raises DataError unless at least one query has an image that is to be found."""
  in_gallery = ~ranking.is_query
  gallery = ranking.identity[in_gallery]
  cameras = ranking.camera[in_gallery]
  for row in np.flatnonzero(ranking.is_query):
    same = gallery == ranking.identity[row]
    found = same & (cameras != ranking.camera[row])
    if ranking.identity[row] != JUNK and found.any():
      return
  raise DataError(
    f"{source}: the gallery has no image of any query's identity by another camera, so "
    "that nothing can be found: check identities, cameras and queries"
  )


def check_class_names(
  source: str, class_names: Sequence[str], num_classes: int
) -> None:
  """Raises DataError unless there is a name for each class, or none at all.

  They are printed and stored with every member: a control character would reach the
  terminal.
  """
  if len(class_names) not in (0, num_classes):
    raise DataError(
      f"{source}: {len(class_names)} class names for {num_classes} classes: give one "
      "name to each class, or none"
    )
  for label, name in enumerate(class_names):
    is_text = isinstance(name, str) and name.isprintable() and name.strip()
    if not is_text or len(name) > _MAX_NAME_CHARACTERS:
      raise DataError(
        f"{source}: the name of class {label} is {name!r}: give a text of 1 to "
        f"{_MAX_NAME_CHARACTERS} printable characters"
      )


def _checked_split(name: str, images: Any, labels: Any, num_classes: int) -> Split:
  """Returns a split; raises DataError for images and labels that do not make one."""
  images = _one_array(name, images)
  labels = _as_array(name, labels)
  if labels.shape != images.shape[:1]:
    raise DataError(
      f"{name}: {images.shape[0]} images but labels of shape {list(labels.shape)}: "
      "give one label to each image"
    )
  if not images.size:
    raise DataError(f"{name}: there are no images in it")
  _require_integers(name, labels)

  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if wrong.size:
    row = wrong[0]
    raise DataError(
      f"{name}: label {labels[row]} of example {row} is outside 0..{num_classes - 1} "
      f"({wrong.size} such labels): fix the data or the number of classes"
    )
  return Split(image=np.ascontiguousarray(images), label=labels.astype(np.int32))


def _as_array(name: str, labels: Any) -> np.ndarray:
  """Returns labels as one array; a list may hold lists of several lengths."""
  try:
    return np.asarray(labels)
  except (ValueError, OverflowError, TypeError) as error:
    raise DataError(
      f"{name}: labels make no array ({reason(error)}): give one integer to each image"
    ) from error


def _one_array(name: str, images: Any) -> np.ndarray:
  """Returns images as one array; a list may hide images of several shapes."""
  if not isinstance(images, np.ndarray) or images.dtype == object:
    images = _stacked(name, images)
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
    raise DataError(
      f"{name}: images must be uint8[N, H, W, 3] in 0..255, got {images.dtype}"
      f"{list(images.shape)}: convert them first (repeat a gray channel three times)"
    )
  return images


def _stacked(name: str, images: Any) -> np.ndarray:
  """Stacks images of one shape."""
  try:
    images = list(images)
  except TypeError as error:
    raise DataError(
      f"{name}: images are {images!r}: give an array of uint8[N, H, W, 3]"
    ) from error
  if not images:
    return np.empty(0)
  first = np.shape(images[0])
  for row, image in enumerate(images):
    shape = np.shape(image)
    if shape != first:
      raise DataError(
        f"{name}: image {row} is {list(shape)} but image 0 is {list(first)}: bring all "
        "images to one shape"
      )
  return np.stack(images)


def _require_integers(name: str, labels: np.ndarray) -> None:
  """Raises DataError unless labels have an integer type, naming the first offender."""
  if np.issubdtype(labels.dtype, np.integer):
    return
  row = 0
  if np.issubdtype(labels.dtype, np.floating):
    row = int(np.argmax(labels != np.floor(labels)))
  raise DataError(
    f"{name}: labels must be integers, got {labels.dtype} (example {row}: "
    f"{labels[row]}): store class numbers as an integer type"
  )


def channel_statistics(
  images: np.ndarray | Iterable[np.ndarray],
) -> tuple[Channels, Channels]:
  """Measures per-channel mean and standard deviation.

  Args:
    images: uint8[N, H, W, 3], or several such arrays.

  Returns:
    mean and standard deviation of each channel, in [0, 1]; a constant channel gets
    1e-3, to divide by.
  """
  arrays = [images] if isinstance(images, np.ndarray) else images
  # Whole numbers: the sums are exact, whatever the number of images.
  total = np.zeros(3, np.int64)
  squares = np.zeros(3, np.int64)
  count = 0
  for array in arrays:
    for start in range(0, len(array), _BLOCK):
      pixels = array[start : start + _BLOCK].reshape(-1, 3).astype(np.int64)
      total += pixels.sum(axis=0)
      squares += (pixels * pixels).sum(axis=0)
      count += len(pixels)

  mean = total / count
  variance = np.maximum(squares / count - mean * mean, 0)
  std = np.maximum(np.sqrt(variance) / 255, _MIN_STD)
  return _as_channels(mean / 255), _as_channels(std)


def _as_channels(values: np.ndarray) -> Channels:
  """Returns three numbers as a tuple of plain floats."""
  red, green, blue = values.tolist()
  return red, green, blue


def hold_out(dataset: Dataset, amount: float, seed: int) -> Dataset:
  """Moves examples from the training split to `holdout`.

  They are drawn at random: a number of examples has equally many of each class, a
  fraction is that of each class. Where that leaves a remainder, the classes that give
  one more are drawn too. The remaining training examples keep their order and are
  numbered anew. Where images are read when they are needed, those held out are read as
  test images are.

  Args:
    dataset: the data set.
    amount: number of examples to take, or a fraction of them below 1; 0 takes none.
    seed: of the draw: the same seed takes the same examples.

  Returns:
    The data set with the two splits.

  Raises:
    ConfigError: if a class has too few examples to give its quota and keep one, or no
      example would be taken.
  """
  if not amount:
    return dataset
  rng = np.random.default_rng(seed)
  labels = dataset.train.label

  # How many examples each class gives.
  if amount < 1:
    counts = np.bincount(labels, minlength=dataset.num_classes)
    quotas = _fractions_of(counts, amount, rng)
  else:
    per_class, remainder = divmod(round(amount), dataset.num_classes)
    quotas = np.full(dataset.num_classes, per_class)
    quotas[rng.permutation(dataset.num_classes)[:remainder]] += 1
  require(
    quotas.sum() > 0,
    f"holdout {amount:g} takes none of the {len(labels)} training examples of "
    f"{dataset.name}: make it larger",
  )

  for label, quota in enumerate(quotas):
    available = np.count_nonzero(labels == label)
    require(
      quota == 0 or quota < available,
      f"holdout {amount:g} takes {quota} examples of class {label}, of which "
      f"{dataset.name} has {available} for training: make it smaller",
    )
  taken = _drawn(labels, quotas, rng)
  holdout = dataset.train.take(taken)
  if isinstance(holdout, Streamed):
    holdout = holdout.for_evaluation(dataset.test.shape)
  return dataset._replace(train=dataset.train.take(~taken), holdout=holdout)


def keep_few(dataset: Dataset, per_class: int, seed: int) -> Dataset:
  """Keeps so many training examples of each class, and leaves out the others.

  They are drawn at random, keep their order and are numbered anew.

  Args:
    dataset: the data set.
    per_class: examples of each class that are kept; 0 keeps all.
    seed: of the draw: the same seed keeps the same examples.

  Raises:
    ConfigError: if a class has fewer.
  """
  if not per_class:
    return dataset
  labels = dataset.train.label
  counts = np.bincount(labels, minlength=dataset.num_classes)
  fewest = int(counts.argmin())
  require(
    counts[fewest] >= per_class,
    f"examples_per_class is {per_class}, but {dataset.name} has {counts[fewest]} of "
    f"class {fewest} for training: make it smaller",
  )
  quotas = np.full(dataset.num_classes, per_class)
  kept = _drawn(labels, quotas, np.random.default_rng(seed))
  return dataset._replace(train=dataset.train.take(kept))


def _drawn(
  labels: np.ndarray, quotas: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Draws so many examples of each class.

  Args:
    labels: i32[N].
    quotas: i64[C], at most as many as there are of the class.
    rng: draws them.

  Returns:
    bool[N] whether an example is drawn.
  """
  drawn = np.zeros(len(labels), bool)
  for label, quota in enumerate(quotas):
    rows = np.flatnonzero(labels == label)
    drawn[rng.permutation(rows)[:quota]] = True
  return drawn


def _fractions_of(
  counts: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
  """Returns how many examples each class gives of a fraction: i64[C].

  Args:
    counts: i64[C] examples of each class.
    fraction: to be taken of all.
    rng: draws among classes to which rounding has done the same.
  """
  exact = fraction * counts
  quotas = np.floor(exact).astype(np.int64)
  left = round(fraction * counts.sum()) - quotas.sum()
  # Those that rounding has taken most from give one more, unless it is their last.
  drawn = rng.permutation(len(counts))
  nearest = drawn[np.argsort((quotas - exact)[drawn], kind="stable")]
  able = nearest[quotas[nearest] + 1 < counts[nearest]]
  quotas[able[:left]] += 1
  return quotas
