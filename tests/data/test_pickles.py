"""CIFAR's python version is read without running anything that its files ask for."""

import os
import pickle

import numpy as np
import pytest

from jaxdistill.data import cifar
from tests.helpers.data_files import (  # noqa: F401 (fixtures)
  TRAIN,
  arrays,
  error_of,
  load,
  no_network,
  write_folder,
)


class Touch:
  """Creates a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("nested", [True, False])
def test_a_malicious_pickle_runs_nothing(tmp_path, arrays, protocol, nested):
  canary = tmp_path / "canary"
  folder = write_folder(tmp_path, "cifar100", arrays, "python", protocol)
  bad = pickle.dumps({b"data": Touch(canary)} if nested else Touch(canary), protocol)
  (folder / "train").write_bytes(bad)
  text = error_of(load, "cifar100", tmp_path)
  assert "system" in text and str(folder / "train") in text and "nothing in it was run" in text
  assert not canary.exists()
  pickle.loads(bad)
  assert canary.exists(), "the canary does not work"


@pytest.mark.parametrize("stream, message", [
  (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray scalar"),
  (b"\x80\x02}U\x04dataU\x04evilU\x01xbs.", "no array 'data'"),
  (b"\x80\x02cnumpy\ndtype\nq\x00)\x81.", "opcode NEWOBJ"),
  (b"\x80\x02\x82\x01.", "opcode EXT1"),
  (b"(S'id'\nios\nsystem\n.", "opcode INST"),
  (b"\x80\x02}h\x07.", "no sound pickled batch"),
  (b"\x80\x02e.", "no sound pickled batch"),
  (b"\x80\x02]R.", "no sound pickled batch"),
  (b"\x80\x02K\x01.", "no sound pickled batch"),
  (b"\x80\x02}(U\x01xu.", "no sound pickled batch"),
  (b"\x80\x02}(" + b")" + b"2\x86" * 40 + b"Nu.", "opcode DUP"),
  (b"\x80\x02}()" + b"q\x00h\x00\x86" * 60 + b"Nu.", "key that is no string"),
  (b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b")R.", "refers to 'tuple'"),
  (b"\x80\x04)" + b"q\x00h\x00\x86" * 60 + b"U\x01x\x93.", "no sound pickled batch"),
  (b"\x80\x02}U\xff", "no sound pickled batch"),
  (b"", "no sound pickled batch"),
  (b"not a pickle at all", "no sound pickled batch"),
])
def test_other_pickles_are_refused(tmp_path, arrays, stream, message):
  folder = write_folder(tmp_path, "cifar100", arrays, "python")
  (folder / "train").write_bytes(stream)
  assert message in error_of(load, "cifar100", tmp_path)


def test_a_pickled_array_in_column_order_is_read(tmp_path, arrays):
  folder = write_folder(tmp_path, "cifar100", arrays, "python")
  contents = pickle.loads((folder / "train").read_bytes())
  contents[b"data"] = np.asfortranarray(contents[b"data"])
  (folder / "train").write_bytes(pickle.dumps(contents, 2))
  np.testing.assert_array_equal(load("cifar100", tmp_path).train.image, arrays["images_train"])


@pytest.mark.parametrize("change, message", [
  ({b"data": np.zeros((3, 3072), np.float32)}, "not of type uint8"),
  ({b"data": np.zeros((3, 3071), np.uint8)}, "no array 'data'"),
  ({b"data": [1, 2]}, "no array 'data'"),
  ({b"fine_labels": [1.5] * TRAIN}, "opcode BINFLOAT"),
  ({b"fine_labels": ["1"] * TRAIN}, "no list of integers 'fine_labels'"),
  ({b"fine_labels": [1]}, "40 images but labels of shape [1]"),
  ({b"fine_labels": [0] * (TRAIN - 1) + [-1]}, f"label -1 of example {TRAIN - 1}"),
])
def test_inconsistent_pickled_batches_are_refused(tmp_path, arrays, change, message):
  folder = write_folder(tmp_path, "cifar100", arrays, "python")
  contents = pickle.loads((folder / "train").read_bytes())
  (folder / "train").write_bytes(pickle.dumps({**contents, **change}, 2))
  assert message in error_of(load, "cifar100", tmp_path)
