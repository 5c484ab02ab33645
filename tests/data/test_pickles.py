"""CIFAR's python version is read without running anything that its files name."""

import os
import pickle

import numpy as np
import pytest

from jaxdistill.data._pickle import read_pickled_arrays
from jaxdistill.errors import DataError
from tests.helpers.data_files import (
  TEST,
  TRAIN,
  error_of,
  load,
  python2_pickle,
  write_folder,
)

NOT_INTACT = "no intact pickled batch"

# What is refused ----------------------------------------------------------------------


class Touch:
  """Creates a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("nested", [True, False])
def test_a_malicious_pickle_runs_nothing(tmp_path, arrays, protocol, nested):
  canary = tmp_path / "canary"
  folder = write_folder(tmp_path, "cifar100", arrays, "python", 2)
  evil = Touch(canary)
  bad = pickle.dumps({b"data": evil} if nested else evil, protocol)
  (folder / "train").write_bytes(bad)
  text = error_of(load, "cifar100", tmp_path)
  assert "system" in text
  assert str(folder / "train") in text
  assert "nothing in it was run" in text
  assert not canary.exists()
  pickle.loads(bad)
  assert canary.exists(), "the canary does not work"


def text_of(stream) -> str:
  """Returns what is said of a stream that is refused."""
  return error_of(read_pickled_arrays, stream, "the file")


@pytest.mark.parametrize(
  "stream, message",
  [
    (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray scalar"),
    (b"cnumpy.core.multiarray\nndarray\n.", "numpy.core.multiarray ndarray"),
    (b"cnumpy\nndarray.__reduce__\n.", "numpy ndarray.__reduce__"),
    (b"cnumpy\nload\n.", "numpy load"),
    (b"c_codecs\nlookup\n.", "_codecs lookup"),
    (b"cbuiltins\ngetattr\n.", "builtins getattr"),
    (b"c__builtin__\neval\n.", "__builtin__ eval"),
    (b"ccopy_reg\n_reconstructor\n.", "copy_reg _reconstructor"),
    (b"cjaxdistill.data._pickle\nos\n.", "jaxdistill.data._pickle os"),
    (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "numpy dtype.__init__"),
    (b"\x80\x04\x8c\x05numpy\x8c\x0bf2py.os.sys\x93.", "numpy f2py.os.sys"),
    (b"\x80\x04\x8c\x00\x8c\x00\x93.", "refers to ' '"),
  ],
)
def test_other_references_are_refused(stream, message):
  text = text_of(stream)
  assert message in text
  assert "which no image file needs: refused, nothing in it was run" in text


REFERENCE = b"cnumpy\ndtype\n"
ENCODE = b"c_codecs\nencode\n"


@pytest.mark.parametrize(
  "stream, message",
  [
    (b"\x80\x02cnumpy\ndtype\nq\x00)\x81.", "opcode NEWOBJ"),
    (b"\x80\x04cnumpy\ndtype\n)}\x92.", "opcode NEWOBJ_EX"),
    (b"\x80\x02\x82\x01.", "opcode EXT1"),
    (b"\x80\x02\x83\x01\x00.", "opcode EXT2"),
    (b"\x80\x02\x84\x01\x00\x00\x00.", "opcode EXT4"),
    (b"(S'id'\nios\nsystem\n.", "opcode INST"),
    (b"(cnumpy\ndtype\no.", "opcode OBJ"),
    (b"Pos\n.", "opcode PERSID"),
    (b"U\x01xQ.", "opcode BINPERSID"),
    (b"\x80\x02N0.", "opcode POP"),
    (b"\x80\x02\x8b\x01\x00\x00\x00\x01.", "opcode LONG4"),
    (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    (b"\x80\x04\x8f.", "opcode EMPTY_SET"),
    (b"\x80\x02}U\x04dataU\x04evilU\x01xbs.", "opcode BUILD on SHORT_BINSTRING"),
    (REFERENCE + b"}U\x04nameU\x01xsb.", "opcode BUILD on GLOBAL"),
    (b"]}b.", "opcode BUILD on EMPTY_LIST"),
    (b"]R.", NOT_INTACT),
    (b"]]R.", "refers to 'EMPTY_LIST'"),
    (b"U\x01x)R.", "refers to 'SHORT_BINSTRING'"),
    (REFERENCE + b"U\x02u1\x85R)R.", "refers to 'REDUCE'"),
    (REFERENCE + b"]R.", NOT_INTACT),
    (REFERENCE + b"]a.", NOT_INTACT),
    (b"cnumpy\nndarray\n)R.", NOT_INTACT),
    (b"}" + REFERENCE + b"Ns.", "key that is no string"),
    (b"}" + REFERENCE + b"U\x02u1\x85RNs.", NOT_INTACT),
    (ENCODE + b"X\x01\x00\x00\x00xX\x03\x00\x00\x00hex\x86R.", NOT_INTACT),
  ],
)
def test_other_opcodes_and_calls_are_refused(stream, message):
  assert message in text_of(stream)


@pytest.mark.parametrize(
  "stream",
  [
    b"\x80\x02}h\x07.",
    b"\x80\x02e.",
    b"\x80\x02]R.",
    b"\x80\x02K\x01.",
    b"\x80\x02}(U\x01xu.",
    b"(q\x00.",
    b"(}U\x01x(s.",
    b"K\x01(a.",
    b"}U\x01x.",
    b"\x80\x02}U\xff",
    b"}q\x00",
    b"",
    b"not a pickle at all",
    b"p-1\n.",
    b"Np-1\n.",
    b"I9_9x\n.",
  ],
)
def test_damaged_pickles_are_refused(stream):
  text = text_of(stream)
  assert NOT_INTACT in text or "place in the memo" in text


# Tuples that share tuples double with every level; hashing or printing them takes
# exponential time.
SHARED = b")" + b"q\x00h\x00\x86" * 60
# Hashing nested tuples overflows the C stack.
NESTED = b")" + b"\x85" * 10**6


@pytest.mark.parametrize(
  "stream, message",
  [
    (b"\x80\x02}(" + b")" + b"2\x86" * 40 + b"Nu.", "opcode DUP"),
    (b"\x80\x02}(" + SHARED + b"Nu.", "key that is no string"),
    (b"\x80\x02}" + SHARED + b"Ns.", "key that is no string"),
    (b"\x80\x02(" + SHARED + b"Nd.", "key that is no string"),
    (b"\x80\x02}" + NESTED + b"Ns.", "key that is no string"),
    (b"\x80\x02}" + SHARED + b"q\x01U\x01xh\x01Ns.", "key that is no string"),
    (b"\x80\x02}" + SHARED + b"NbNs.", "opcode BUILD on TUPLE2"),
    (b"\x80\x02" + SHARED + b")R.", "refers to 'TUPLE2'"),
    (b"\x80\x04" + SHARED + b"U\x01x\x93.", NOT_INTACT),
    (REFERENCE + SHARED + b"R.", NOT_INTACT),
    (REFERENCE + SHARED + b"\x85R" + SHARED + b"b.", NOT_INTACT),
    (ENCODE + SHARED + b"R.", NOT_INTACT),
    (b"}r\xff\xff\xff\x7f.", "place in the memo"),
    (b"}p999999999999999999999\n.", "place in the memo"),
    (b"}p-1\n.", "place in the memo"),
    (b"N" * 2**21 + b".", "more opcodes"),
  ],
  ids=range(16),
)
def test_streams_that_would_take_for_ever_are_refused(stream, message):
  assert message in text_of(stream)


def test_a_long_string_is_not_encoded_over_and_over():
  latin1 = b"X\x06\x00\x00\x00latin1"
  text = b"X\x00\x00\x10\x00" + b"x" * 2**20
  first = b"](" + text + b"q\x00" + latin1 + b"q\x01" + ENCODE + b"q\x02e"
  again = b"h\x02h\x00h\x01\x86Ra"
  assert "more than it holds" in text_of(first + again * 1000 + b".")


def test_a_claim_of_more_bytes_than_there_are_is_refused():
  assert NOT_INTACT in text_of(b"\x8e" + b"\xff" * 7 + b"\x7f" + b"abc.")
  assert NOT_INTACT in text_of(b"B\xff\xff\xff\xffabc.")
  # The length of a frame says nothing about the memory that it takes.
  frame = b"\x80\x04\x95" + b"\xff" * 7 + b"\x00"
  assert NOT_INTACT in text_of(frame + b"K\x01.")


def test_a_frame_cannot_hide_opcodes_from_the_check():

  def frame(size):
    return b"\x95" + size.to_bytes(8, "little")

  # The C unpickler forgets the part of an argument that lies in the frame, and reads
  # all four bytes after it: a string of 4 bytes for the check, of 260 bytes for it.
  text = text_of(frame(3) + b"}X\x04\x00\x00\x00\x01\x00\x00\x00Ns.")
  assert "reaches beyond its frame" in text
  # Likewise for lines.
  assert "reaches beyond its frame" in text_of(frame(3) + b"}I3\nNs.")
  # It forgets the rest of a frame when another one begins.
  assert "frame inside a frame" in text_of(frame(20) + frame(2) + b"}.")

  in_two_frames = frame(1) + b"}" + frame(5) + b"U\x01xNs" + b"."
  assert read_pickled_arrays(in_two_frames, "the file") == {"x": None}


# pickletools warns of backslashes that escape nothing.
@pytest.mark.filterwarnings("ignore:invalid escape")
@pytest.mark.parametrize("protocol", ["python2", 0, 2, 4])
def test_damage_anywhere_is_read_or_refused(protocol):
  contents = {
    b"fine_labels": [1, 2, 3],
    b"data": np.arange(3 * 3072).astype(np.uint8).reshape(3, 3072),
  }
  whole = (
    python2_pickle(contents)
    if protocol == "python2"
    else pickle.dumps(contents, protocol)
  )
  random = np.random.default_rng(0)
  # All but the pixels.
  structure = [i for i in range(len(whole)) if i < 250 or i > len(whole) - 60]
  for _ in range(1000):
    damaged = bytearray(whole)
    for position in random.choice(structure, size=random.integers(1, 4)):
      damaged[position] = random.integers(256)
    try:
      read = read_pickled_arrays(bytes(damaged), "the file")
    except DataError as error:
      assert "the file" in str(error)
    else:
      assert all(isinstance(key, str) for key in read)


# What is read -------------------------------------------------------------------------


def test_python2_stream_of_the_test_is_a_real_pickle(arrays):
  contents = {
    b"labels": [1, 2],
    b"data": np.ascontiguousarray(arrays["images_test"].reshape(TEST, 3072)),
    b"filenames": [b"a.png"],
    b"batch_label": b"x",
  }
  real = pickle.loads(python2_pickle(contents), encoding="bytes")
  np.testing.assert_array_equal(real.pop(b"data"), contents.pop(b"data"))
  assert real == contents


def test_both_of_numpys_module_names_are_read():
  contents = {"data": np.arange(6, dtype=np.uint8)}
  written = pickle.dumps(contents, 2)
  old = written.replace(b"numpy._core", b"numpy.core")
  new = old.replace(b"numpy.core", b"numpy._core")
  assert old != new
  for stream in (old, new):
    read = read_pickled_arrays(stream, "the file")
    np.testing.assert_array_equal(read["data"], contents["data"])


def test_text_of_python_3_is_read_as_text():
  contents = {"words": ["é", "\N{GRINNING FACE}"], "bytes": b"\xe9\x00", "n": -1}
  for protocol in (0, 1, 2, 3, 4):
    stream = pickle.dumps(contents, protocol)
    assert read_pickled_arrays(stream, "the file") == contents


def test_a_pickled_array_in_column_order_is_read(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "python")
  contents = pickle.loads((folder / "train").read_bytes())
  contents[b"data"] = np.asfortranarray(contents[b"data"])
  (folder / "train").write_bytes(pickle.dumps(contents, 2))
  loaded = load("cifar100", tmp_path)
  np.testing.assert_array_equal(loaded.train.image, arrays["images_train"])


# Batches that are no batches ----------------------------------------------------------


@pytest.mark.parametrize(
  "change, message",
  [
    ({b"data": np.zeros((3, 3072), np.float32)}, "not of type uint8"),
    ({b"data": np.zeros((3, 3071), np.uint8)}, "no array 'data'"),
    ({b"data": [1, 2]}, "no array 'data'"),
    ({b"fine_labels": [1.5] * TRAIN}, "opcode BINFLOAT"),
    ({b"fine_labels": ["1"] * TRAIN}, "no list of integers 'fine_labels'"),
    ({b"fine_labels": [2**70] * TRAIN}, "no list of integers 'fine_labels'"),
    ({b"fine_labels": [1]}, "40 images but labels of shape [1]"),
    (
      {b"fine_labels": [0] * (TRAIN - 1) + [-1]},
      f"label -1 of example {TRAIN - 1}",
    ),
  ],
)
def test_inconsistent_pickled_batches_are_refused(tmp_path, arrays, change, message):
  folder = write_folder(tmp_path, "cifar100", arrays, "python")
  contents = pickle.loads((folder / "train").read_bytes())
  (folder / "train").write_bytes(pickle.dumps({**contents, **change}, 2))
  assert message in error_of(load, "cifar100", tmp_path)


@pytest.mark.parametrize(
  "dtype", [">u2", "i1", "?", "S1", "O", "u1,u1", "M8[s]", "c8", "V1"]
)
def test_arrays_of_another_type_are_refused(dtype):
  stream = pickle.dumps({"data": np.zeros(2, dtype)}, 2)
  text = text_of(stream)
  assert "not of type uint8" in text or "which no image file needs" in text
