"""Files that are malformed on purpose: whoever wrote them knew the format.

Each function of `KINDS` writes one of them, drawn at random, over an intact data set of
the layout that it names, in a folder of its own.
"""

import gzip
import io
import json
import os
from pathlib import Path
import pickle
import socket
import struct
import tarfile
import warnings
import zipfile

import numpy as np

from tests.helpers import data_files

# Values that a reader may not expect in the place of others.
ODD = (
  None,
  True,
  -1,
  0,
  0.5,
  2**31,
  2**63,
  2**70,
  -(2**70),
  float("nan"),
  float("inf"),
  "",
  "x",
  "\x1b[2J\n",
  "../../x",
  "x" * 5000,
  "\ud800",
  b"",
  b"\xff\x00",
  [],
  [[]],
  [None],
  [1, [2, [3]]],
  {},
  {"x": 1},
)
NAMES = (
  "",
  "x" * 300,
  "../x",
  "/etc/passwd",
  "a\x00b",
  "a\nb",
  "\x1b[2J",
  "\udcff",
  "e\u0301",
  "-",
  "images_train",
  "images_train.npy/",
)


# Those that can be written to a zip file.
ZIP_NAMES = [name for name in NAMES if name and name.isascii()]


def pick(rng, values):
  return values[int(rng.integers(len(values)))]


# Places: what stands where a file or a folder should ----------------------------------


def _socket(path):
  """Binds a socket; its path has at most a hundred characters."""
  here = os.getcwd()
  os.chdir(path.parent)
  try:
    with socket.socket(socket.AF_UNIX) as server:
      server.bind(path.name)
  finally:
    os.chdir(here)


def _no_permission(path):
  path.write_bytes(b"x")
  path.chmod(0)


PLACES = {
  "pipe": os.mkfifo,
  "socket": _socket,
  "folder": Path.mkdir,
  "file": lambda path: path.write_bytes(b"x"),
  "empty": lambda path: path.write_bytes(b""),
  "no permission": _no_permission,
  "zeros": lambda path: path.symlink_to("/dev/zero"),
  "null": lambda path: path.symlink_to("/dev/null"),
  "loop": lambda path: path.symlink_to(path.name),
  "dangling": lambda path: path.symlink_to("nowhere"),
  "parent": lambda path: path.symlink_to(".."),
}


def replace(path: Path, rng) -> str:
  """Puts something else in the place of a file or a folder; returns what."""
  aside = path.with_name("aside")
  path.rename(aside)
  kind = pick(rng, list(PLACES))
  PLACES[kind](path)
  return kind


# Arrays: npz --------------------------------------------------------------------------

DTYPES = (
  "|u1",
  "<u2",
  ">i8",
  "<f8",
  "|O",
  "|S0",
  "|S99999999999",
  "|V3",
  "<U2147483647",
  "<M8[s]",
  "<c16",
  "?",
  "q9",
  "",
  "u1,u1",
  [("a", "|u1")],
  [("a" * 5000, "|u1", (3,))],
  [("a", "|O")],
  [("a", [("b", "<i4")])],
  {"x": 1},
  5,
  None,
)
SHAPES = (
  (data_files.TRAIN, 32, 32, 3),
  (data_files.TRAIN,),
  (),
  (0,),
  (-1,),
  (-40, -32, 32, 3),
  (40, -1, 32, 3),
  (2**62, 2**62),
  (2**31,),
  (1,) * 33,
  (1,) * 70,
  (40, 0, 0, 3),
  (2.5,),
  ("x",),
  (True, 40),
  5,
  None,
  [40, 32, 32, 3],
)
HEADERS = (
  b"",
  b"{",
  b"{}",
  b"{'descr': '|u1', 'fortran_order': False}",
  b"{'descr': '|u1', 'fortran_order': 2, 'shape': (1,)}",
  b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'x': 1}",
  b"{'descr': '|u1', 'fortran_order': False, 'shape': (40L,)}",
  b"__import__('os').system('true')",
  b"(" * 500,
  b"-" * 9000 + b"1",
  b"[" * 90 + b"]" * 90,
  b"'''",
  b"\\\n",
  b"\xff\xfe\x00",
  b"0" * 9000,
  b"1" * 9000,
  b"{1: " * 200,
  b"  x\n y",
  b" " * 20000,
)


def npy(header: bytes, data: bytes, version=(1, 0)) -> bytes:
  size = struct.pack("<H" if version == (1, 0) else "<I", len(header) % 65536)
  return b"\x93NUMPY" + bytes(version) + size + header + data


def _some_array(rng, like: np.ndarray) -> bytes:
  """Returns an npy file whose header is not that of the array."""
  data = like.tobytes()
  version = pick(rng, [(1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])
  if rng.integers(3) == 0:
    return npy(pick(rng, HEADERS), data, version)
  fields = {
    "descr": pick(rng, [*DTYPES, like.dtype.str]),
    "fortran_order": bool(rng.integers(2)),
    "shape": pick(rng, [*SHAPES, like.shape]),
  }
  size = pick(rng, [0, 1, len(data) // 2, len(data), len(data) + 1])
  return npy(repr(fields).encode() + b"\n", (data + b"x")[:size], version)


def _intact(array: np.ndarray) -> bytes:
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def write_npz(path: Path, files: dict[str, bytes], compression=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, content in files.items():
      archive.writestr(f"{name}.npy", content)


def npz_headers(rng, root: Path, arrays) -> None:
  files = {name: _intact(array) for name, array in arrays.items()}
  name = pick(rng, list(arrays))
  files[name] = _some_array(rng, arrays[name])
  write_npz(root / "cifar100.npz", files)


def npz_values(rng, root: Path, arrays) -> None:
  """Writes arrays of numpy's that make no data set."""
  size = data_files.TRAIN
  labels = arrays["labels_train"]
  odd_labels = (
    np.full(size, 2**63, np.uint64),
    np.full(size, -1),
    np.full(size, 2**31),
    np.full(size, np.nan),
    np.full(size, 1e300),
    labels + 0.5,
    labels.astype(np.complex64),
    labels.astype("M8[s]"),
    labels.astype(str),
    labels[:, None],
    labels[:-1],
    np.int64(3),
    labels > 3,
    labels.astype([("x" * 400, "i4")]),
    np.zeros((size, 0), int),
    np.zeros((1,) * 20, int),
  )
  images = arrays["images_train"]
  odd_images = (
    images / 255,
    images.astype(np.int8),
    images[..., 0],
    images[..., :2],
    images[:, :31],
    images[:0],
    images.astype(str),
    images.view([("r" * 400, "u1"), ("g", "u1"), ("b", "u1")]),
    np.uint8(3),
    np.zeros((size, 0, 32, 3), np.uint8),
  )
  odd_names = (
    np.array(["a"]),
    np.array(["\n"] * 100),
    np.array([""] * 100),
    np.array([b"a"] * 100),
    np.array("a"),
    np.arange(100),
    np.array(["x" * 500] * 100),
    np.array(["\x1b[2J"] * 100),
    np.full(100, 0x7FFFFFFF, np.uint32).view("<U1"),
    np.full(100, 0xD800, np.uint32).view("<U1"),
  )
  changes = {
    "labels_train": odd_labels,
    "images_train": odd_images,
    "class_names": odd_names,
  }
  name = pick(rng, list(changes))
  np.savez(root / "cifar100.npz", **{**arrays, name: pick(rng, changes[name])})


def npz_members(rng, root: Path, arrays) -> None:
  """Writes a zip file with members that np.savez would not write."""
  path = root / "cifar100.npz"
  files = {name: _intact(array) for name, array in arrays.items()}
  compressions = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
  kind = int(rng.integers(8))
  if kind == 0:
    compressions = [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
  write_npz(path, files, pick(rng, compressions))
  name = pick(rng, list(arrays))
  if kind == 1:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "a") as file:
      file.writestr(f"{name}.npy", _some_array(rng, arrays[name]))
  elif kind == 2:
    files.pop(name)
    write_npz(path, files)
    with zipfile.ZipFile(path, "a") as archive:
      archive.writestr(f"{name}.npy/", b"")
  elif kind == 3:
    with zipfile.ZipFile(path, "a") as archive:
      archive.writestr(pick(rng, ZIP_NAMES), b"x")
  elif kind > 3:
    _lie_in_zip(rng, path, kind)


def _lie_in_zip(rng, path: Path, kind: int) -> None:
  """Changes a field of a local or central header, or of the end."""
  content = bytearray(path.read_bytes())
  signature = pick(rng, [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"])
  starts = []
  start = content.find(signature)
  while start >= 0:
    starts.append(start)
    start = content.find(signature, start + 1)
  start = pick(rng, starts) + 4
  if kind == 4:
    # Encrypted.
    flags = {b"PK\x03\x04": 2, b"PK\x01\x02": 4}.get(signature, 4)
    content[start + flags] |= 1
  else:
    field = start + int(rng.integers(0, 40))
    value = pick(rng, [b"\xff" * 4, b"\xff" * 2, b"\x00" * 4, b"\x7f", rng.bytes(4)])
    content[field : field + len(value)] = value
  path.write_bytes(content)


# Archives -----------------------------------------------------------------------------

MEMBER_TYPES = (
  tarfile.REGTYPE,
  tarfile.AREGTYPE,
  tarfile.LNKTYPE,
  tarfile.SYMTYPE,
  tarfile.CHRTYPE,
  tarfile.BLKTYPE,
  tarfile.DIRTYPE,
  tarfile.FIFOTYPE,
  tarfile.CONTTYPE,
  tarfile.GNUTYPE_LONGNAME,
  tarfile.GNUTYPE_LONGLINK,
  tarfile.GNUTYPE_SPARSE,
  tarfile.XHDTYPE,
  tarfile.XGLTYPE,
  tarfile.SOLARIS_XHDTYPE,
  b"Q",
  b"\xff",
)
SIZES = (b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"\xff" * 12)
PAX = (
  b"20 path=../../../xx\n",
  b"0 x=\n",
  b"9999999999 path=x\n",
  b"-5 path=x\n",
  b"x path=x\n",
  b"30 GNU.sparse.map=1,2,3,4,5,6\n",
  b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
  b"24 GNU.sparse.size=-100\n",
  b"19 size=9999999999\n",
  b"11 size=-5\n",
  b"12 size=nan\n",
  b"22 hdrcharset=BINARY\n",
  b"\xff\xfe",
  b"1" * 5000,
)


def _odd_member(rng, folder: str) -> bytes:
  """Returns the blocks of a member that an original archive does not have."""
  kind = pick(rng, MEMBER_TYPES)
  names = [f"{folder}/train.bin", f"{folder}/x", f"{folder}/{'x' * 90}", *NAMES[2:]]
  content = pick(rng, PAX)
  header = bytearray(512)
  name = pick(rng, names).encode("utf-8", "surrogateescape")[:99]
  header[: len(name)] = name
  header[100:108] = b"0000644\0"
  header[124:136] = b"%011o\0" % len(content)
  if rng.integers(3) == 0:
    header[124:136] = pick(rng, SIZES)
  header[136:148] = b"00000000000\0"
  header[156:157] = kind
  header[157:161] = b"link"
  header[257:265] = pick(rng, [tarfile.POSIX_MAGIC, tarfile.GNU_MAGIC, bytes(8)])
  if kind == tarfile.GNUTYPE_SPARSE:
    header[386:504] = rng.bytes(118)
  header[148:156] = b" " * 8
  checksum = sum(header)
  if rng.integers(8) == 0:
    checksum += 1
  header[148:156] = b"%06o\0 " % checksum
  return bytes(header) + content + bytes(-len(content) % 512)


def tar_members(rng, root: Path, arrays) -> None:
  folder = data_files.write_folder(root, "cifar100", arrays, "binary")
  packed = io.BytesIO()
  with tarfile.open(fileobj=packed, mode="w") as archive:
    archive.add(folder, folder.name)
  content = packed.getvalue()
  name = folder.name
  data_files.pack(folder)
  odd = b"".join(_odd_member(rng, name) for _ in range(int(rng.integers(1, 4))))
  place = pick(rng, [0, 512, len(content.rstrip(b"\0")) // 512 * 512 + 512])
  path = root / "cifar-100-binary.tar.gz"
  path.write_bytes(gzip.compress(content[:place] + odd + content[place:], 1))


# Pickles ------------------------------------------------------------------------------


def pickled_values(rng, root: Path, arrays) -> None:
  folder = data_files.write_folder(root, "cifar100", arrays, "python")
  path = folder / pick(rng, ["train", "test"])
  contents = pickle.loads(path.read_bytes())
  key = pick(rng, [b"data", b"fine_labels", b"filenames", "data", b"x"])
  kind = int(rng.integers(6))
  if kind == 0:
    contents.pop(key, None)
  elif kind == 1:
    contents[key] = pick(rng, ODD)
  elif kind == 2:
    contents[b"fine_labels"] = [pick(rng, ODD)] * len(contents[b"fine_labels"])
  elif kind == 3:
    contents[b"fine_labels"] = [int(rng.integers(-(2**40), 2**40))]
  elif kind == 4:
    dtype = pick(rng, ["<u2", "i1", "?", "S1", "O", "u1,u1", "M8[s]", "c8", "V1"])
    contents[b"data"] = np.zeros((2, 3072), dtype)
  else:
    contents = pick(rng, ODD)
  protocol = int(rng.integers(6))
  path.write_bytes(pickle.dumps(contents, protocol))


# Class names --------------------------------------------------------------------------


def class_names(rng, root: Path, arrays) -> None:
  version = pick(rng, ["binary", "python"])
  folder = data_files.write_folder(root, "cifar100", arrays, version)
  path = folder / data_files.NAMES_FILES["cifar100", version]
  texts = (b"", b"\xff\xfe", b"\0", b"apple\n" * 100, b"x" * 10**6, b"\n" * 1000)
  if version == "binary":
    path.write_bytes(pick(rng, texts))
    return
  names = pick(rng, [*ODD, [b"apple"] * 100, [pick(rng, ODD)] * 100])
  key = pick(rng, [b"fine_label_names", b"x"])
  path.write_bytes(pickle.dumps({key: names}, int(rng.integers(5))))


# Tables -------------------------------------------------------------------------------


def change_value(rng, value):
  """Returns JSON with one value changed, removed or added, anywhere in it."""
  if isinstance(value, dict) and value and rng.integers(4):
    key = pick(rng, list(value))
    changed = {**value, key: change_value(rng, value[key])}
    if rng.integers(6) == 0:
      changed.pop(key)
    return changed
  if isinstance(value, list) and value and rng.integers(4):
    place = int(rng.integers(len(value)))
    return [*value[:place], change_value(rng, value[place]), *value[place + 1 :]]
  while isinstance(odd := pick(rng, ODD), bytes):
    pass
  return odd


CLASSES = (
  "os.system",
  "tensorflow_datasets.core.features.audio_feature.Audio",
  "tensorflow_datasets.core.features.text_feature.Text",
  "tensorflow_datasets.core.features.image_feature.Image",
  "no_dots",
  "x" * 1000,
)


def tfds_tables(rng, root: Path, arrays) -> None:
  """Changes the tables of what `tfds` has written before, in `root`."""
  del arrays
  folder = root / "cifar100" / "3.0.2"
  path = folder / pick(rng, ["features.json", "dataset_info.json"])
  text = path.read_text()
  kind = int(rng.integers(6))
  if kind == 0:
    where = int(rng.integers(len(text)))
    path.write_text(text[:where] + pick(rng, ["{", "]", ",", '"', "NaN", "1e999"]))
  elif kind == 1:
    known = ["text_feature.Text", "image_feature.Image", "features_dict.FeaturesDict"]
    name = f"tensorflow_datasets.core.features.{pick(rng, known)}"
    path.write_text(text.replace(name, pick(rng, CLASSES)))
  elif kind == 2:
    templates = ["../{SPLIT}", "{SPLIT:>99999999999}", "{SPLIT.__class__}", "/dev/zero"]
    default = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    path.write_text(text.replace(default, pick(rng, templates)))
  elif kind == 3:
    path.write_text("[" * 100_000)
  else:
    path.write_text(json.dumps(change_value(rng, json.loads(text))))


# All of them --------------------------------------------------------------------------

KINDS = {
  "npz headers": npz_headers,
  "npz values": npz_values,
  "npz members": npz_members,
  "tar members": tar_members,
  "pickled values": pickled_values,
  "class names": class_names,
  "tfds tables": tfds_tables,
}
