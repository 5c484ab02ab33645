"""Readers that data sets share: no code from a file is run, and no size it claims is believed unchecked."""

import io
import math
from pathlib import Path
import pickletools
import zipfile
import zlib

import numpy as np
from PIL import Image

from jaxdistill.errors import DataError

# The best ratio that deflate can reach is 1032; what claims more would fill the memory from a small file.
_MAX_DEFLATE_RATIO = 1100
# An example with a small image takes about 3 kB; a frame that claims far more is damaged.
_MAX_RECORD_BYTES = 2**16


def summary(error: Exception) -> str:
  """Returns the type and the first line of a foreign error, for a one-line message."""
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def read_npz_splits(train_path: Path, test_path: Path) -> tuple[tuple, tuple]:
  """Reads `images_train`, `labels_train`, `images_test` and `labels_test`, never unpickling.

  Args:
    train_path: npz file with the training arrays.
    test_path: npz file with the test arrays; it may be the same.

  Returns:
    ((images, labels) of the training split, the same of the test split), as they are stored.

  Raises:
    DataError: naming the file, the array and what the file holds.
  """
  return tuple(tuple(_read_npz(path, (f"images_{split}", f"labels_{split}")))
               for path, split in ((train_path, "train"), (test_path, "test")))


def _read_npz(path: Path, keys: tuple[str, ...]) -> list[np.ndarray]:
  if not path.is_file():
    raise DataError(f"{path}: there is no such file: correct the path to the npz file")
  try:
    with zipfile.ZipFile(path) as archive:
      held = [name.removesuffix(".npy") for name in archive.namelist()]
      missing = [key for key in keys if key not in held]
      if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}; it holds "
                        f"{', '.join(held[:12]) or 'nothing'}: rename its arrays")
      return [_read_npy(archive, f"{path}: {key}", archive.getinfo(f"{key}.npy")) for key in keys]
  except DataError:
    raise
  except (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError,
          KeyError, MemoryError) as error:
    raise DataError(f"{path} cannot be read as npz ({summary(error)}): copy or write it again") from error


def _read_npy(archive: zipfile.ZipFile, where: str, info: zipfile.ZipInfo) -> np.ndarray:
  """Reads one array, after comparing the size in its header with the size of the file."""
  if info.file_size > _MAX_DEFLATE_RATIO * info.compress_size + 4096:
    raise DataError(f"{where} claims {info.file_size} bytes from {info.compress_size} compressed ones: it is "
                    "damaged, write it again")
  with archive.open(info) as file:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # the others are for records with a thousand fields
      raise DataError(f"{where} is npy version {version}: write it again with np.savez, as a plain array")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
      raise DataError(f"{where} is an array of Python objects: bring all images to one shape and store one "
                      "plain array")
    if file.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
      raise DataError(f"{where} claims to be {dtype}{list(shape)} but holds {info.file_size - file.tell()} "
                      "bytes: it is damaged, write it again")
  with archive.open(info) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


class _Array:
  """An array between its construction and the opcode that fills it."""

  value: np.ndarray | None = None

  def fill(self, state) -> None:
    _, shape, dtype, column_major, raw = state
    if dtype not in ("u1", "|u1"):
      raise DataError("holds an array that is not of type uint8")
    self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if column_major else "C")


def _text(value) -> str:
  """Returns a string that Python 2 wrote as bytes."""
  return value.decode("latin-1") if isinstance(value, bytes) else value


# What a pickled dict of lists, strings and uint8 arrays refers to, and what stands for it here.
_CONSTRUCTORS = {
  "_codecs encode": lambda text, encoding: text.encode("latin-1"),
  "numpy dtype": lambda code, *_: _text(code),
  "numpy.core.multiarray _reconstruct": lambda *_: _Array(),
  "numpy._core.multiarray _reconstruct": lambda *_: _Array(),
}
_REFERENCES = ("numpy ndarray", *_CONSTRUCTORS)
_IGNORED = ("PROTO", "FRAME", "STOP")
_VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "UNICODE", "BINUNICODE",
           "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_PYTHON2_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_FRESH = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
          "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _reference(name) -> str:
  if name not in _REFERENCES:
    shown = name[:80] if isinstance(name, str) else type(name).__name__
    raise DataError(f"refers to {shown!r}, which no image file needs")
  return name


def _pairs(items: list) -> dict:
  # Hashing (or printing) tuples that share tuples takes exponential time.
  if not all(isinstance(key, (str, bytes)) for key in items[::2]):
    raise DataError("has a key that is no string")
  return dict(zip(items[::2], items[1::2], strict=True))


def _interpret(data: bytes):
  """Builds the value that the opcodes describe; calls nothing but the four functions above."""
  stack, marks, memo = [], [], {}

  def since_mark() -> list:
    start = marks.pop()
    items = stack[start:]
    del stack[start:]
    return items

  for opcode, argument, _ in pickletools.genops(data):
    name = opcode.name
    if name in _VALUES:
      stack.append(argument)
    elif name in _PYTHON2_STRINGS:
      stack.append(argument.encode("latin-1"))
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
      memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
      stack.append(memo[argument])
    elif name in _FRESH:
      stack.append(_FRESH[name]())
    elif name in _TUPLES:
      stack[-_TUPLES[name]:] = [tuple(stack[-_TUPLES[name]:])]
    elif name == "MARK":
      marks.append(len(stack))
    elif name in ("TUPLE", "LIST", "DICT"):
      stack.append({"TUPLE": tuple, "LIST": list, "DICT": _pairs}[name](since_mark()))
    elif name in ("APPEND", "APPENDS"):
      items = since_mark() if name == "APPENDS" else [stack.pop()]
      stack[-1].extend(items)
    elif name in ("SETITEM", "SETITEMS"):
      items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
      stack[-1].update(_pairs(items))
    elif name == "GLOBAL":
      stack.append(_reference(argument))
    elif name == "STACK_GLOBAL":
      stack[-2:] = [_reference(" ".join(stack[-2:]))]
    elif name == "REDUCE":
      arguments, function = stack.pop(), stack.pop()
      stack.append(_CONSTRUCTORS[_reference(function)](*arguments))
    elif name == "BUILD":
      state = stack.pop()
      if isinstance(stack[-1], _Array):
        stack[-1].fill(state)
    elif name not in _IGNORED:
      raise DataError(f"uses the opcode {name}, which no image file needs")
  return stack.pop()


def read_pickled_arrays(data: bytes, where: str) -> dict:
  """Reads a pickled dict of lists, strings and uint8 arrays without unpickling it.

  Unpickling runs whatever code the file asks for. This walks the opcodes instead, knows the few that such
  a dict needs (protocols 1 to 4, and 0 of Python 3), and refuses all others and every foreign reference.

  Args:
    data: content of the file.
    where: name of the file, for errors.

  Returns:
    The dict, keys as str.

  Raises:
    DataError: if the content is anything else, or damaged.
  """
  try:
    value = _interpret(data)
    return {_text(key): item.value if isinstance(item, _Array) else item for key, item in value.items()}
  except DataError as error:
    raise DataError(f"{where} {error}: refused, nothing in it was run; get the original file") from None
  except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
    raise DataError(f"{where} is no sound pickled batch ({summary(error)}): get the original file") from error


def _crc32c(records: list[bytes]) -> np.ndarray:
  """Computes the Castagnoli checksum of many records at once, one byte position after the other."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
  lengths = np.array([len(record) for record in records])
  padded = np.zeros((lengths.max(), len(records)), np.uint8)
  for column, record in enumerate(records):
    padded[:len(record), column] = np.frombuffer(record, np.uint8)
  crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
  for position, byte in enumerate(padded):
    crc = np.where(position < lengths, table[(crc ^ byte) & 0xFF] ^ (crc >> 8), crc)
  return ~crc


def _tfrecords(path: Path) -> list[bytes]:
  """Reads a TFRecord file: each frame is length, its checksum, the data, its checksum."""
  content, at, records, sums = path.read_bytes(), 0, [], []
  while at < len(content):
    length = int.from_bytes(content[at:at + 8], "little")
    end = at + 12 + length
    if length > _MAX_RECORD_BYTES or end + 4 > len(content):
      raise DataError(f"{path} is damaged or cut off in record {len(records)}: prepare it again")
    records.append(content[at + 12:end])
    sums.append(int.from_bytes(content[end:end + 4], "little"))
    at = end + 4
  for start in range(0, len(records), 1000):
    crc = _crc32c(records[start:start + 1000])
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    wrong = np.flatnonzero(masked != np.array(sums[start:start + 1000], np.uint32))
    if wrong.size:
      raise DataError(f"{path} has a wrong checksum in record {start + wrong[0]}: prepare it again")
  return records


def _tfds_examples(tfds, folder: Path, split: str) -> list[dict]:
  """Reads the examples of a prepared split, images still encoded, and checks their number."""
  builder = tfds.builder_from_directory(folder)
  info, decoders = builder.info.splits[split], {"image": tfds.decode.SkipDecoding()}
  if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
    examples = [builder.info.features.deserialize_example_np(record, decoders=decoders)
                for path in info.filepaths for record in _tfrecords(Path(path))]
  else:
    source = builder.as_data_source(split=split, decoders=decoders)
    examples = source.__getitems__(range(len(source)))
  if len(examples) != info.num_examples:
    raise DataError(f"{folder} declares {info.num_examples} {split} examples, but holds {len(examples)}: "
                    "prepare it again")
  return examples


def _decoded(data: bytes, shape: tuple[int, int, int], where: str) -> np.ndarray:
  try:
    with Image.open(io.BytesIO(data)) as image:
      # Before decoding: a header may claim an image of gigabytes.
      if (image.height, image.width) != shape[:2] or image.mode != "RGB":
        raise DataError(f"{where} is {image.height}x{image.width} of mode {image.mode}, not "
                        f"{shape[0]}x{shape[1]} of mode RGB: prepare it again")
      return np.asarray(image)
  except DataError:
    raise
  except Exception as error:  # each of Pillow's decoders raises types of its own
    raise DataError(f"{where} cannot be decoded ({summary(error)}): prepare it again") from error


def read_tfds_split(folder: Path, split: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
  """Reads `image` and `label` of a prepared tensorflow_datasets directory, without TensorFlow.

  Args:
    folder: the directory of one version, with dataset_info.json.
    split: "train" or "test".
    shape: (H, W, 3) that every image must have.

  Returns:
    (images uint8[N, H, W, 3], labels [N]), in the order of the feature `id` where there is one: preparing
    shuffles, and `id` remembers the row in the original files.

  Raises:
    DataError: if tensorflow_datasets is not installed, or the directory is damaged, naming the record.
  """
  try:
    import tensorflow_datasets as tfds  # takes a second, and is an optional dependency
  except ImportError as error:
    raise DataError(f"{folder} needs tensorflow_datasets ({summary(error)}): "
                    "run pip install 'jaxdistill[tfds]', or use the original archive") from error
  try:
    examples = _tfds_examples(tfds, folder, split)
    examples.sort(key=lambda example: example.get("id", b""))
    labels = np.array([example["label"] for example in examples])
    encoded = [example["image"] for example in examples]
  except DataError:
    raise
  except Exception as error:  # tfds, protobuf and array_record document no common type for a damaged file
    raise DataError(f"{folder}: {split} cannot be read ({summary(error)}): prepare it again") from error
  images = [_decoded(data, shape, f"{folder} {split} example {row}") for row, data in enumerate(encoded)]
  return np.stack(images) if images else np.empty((0, *shape), np.uint8), labels
