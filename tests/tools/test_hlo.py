"""Reading what XLA prints of a program, from lines as its compilers write them."""

from pathlib import Path

import pytest

from jaxdistill.tools import _hlo

PROGRAMS = Path(__file__).parent / "programs"

# Layouts with tiles and memory spaces, an asynchronous all-gather that fusions repeat,
# cycles in the backend's configuration.
TPU = (PROGRAMS / "tpu.txt").read_text()

# Collectives in two halves, convolutions by cuDNN.
GPU = (PROGRAMS / "gpu.txt").read_text()


def test_collectives_with_their_sizes():
  found = _hlo.collectives(_hlo.parse(TPU))
  labels = 32 * 100 * 4
  # Once, though two fusions hold a part of it.
  assert found["all-gather"] == _hlo.Collective(1, bytes=labels, largest=labels)
  statistics = 2 * 2 * 16 * 4
  assert found["all-reduce"] == _hlo.Collective(2, bytes=statistics + 512, largest=512)
  assert set(found) == {"all-gather", "all-reduce"}


def test_what_is_started_and_done_counts_once_with_its_result():
  found = _hlo.collectives(_hlo.parse(GPU))
  assert found["all-reduce"] == _hlo.Collective(1, bytes=640, largest=640)
  assert found["all-gather"] == _hlo.Collective(2, bytes=16384 + 24, largest=16384)
  assert found["collective-permute"] == _hlo.Collective(1, bytes=16, largest=16)


def test_grouped_convolutions_are_told_from_plain_ones_and_from_products():
  assert _hlo.convolutions(_hlo.parse(TPU)) == _hlo.Convolutions(3, grouped=2)
  assert _hlo.convolutions(_hlo.parse(GPU)) == _hlo.Convolutions(1, grouped=1)


def test_a_copy_of_the_data_set_is_found_where_it_is_stored():
  # What a fusion computes inside is not.
  assert not _hlo.makers(_hlo.parse(TPU), "u8", (50000, 32, 32, 3))
  copied = TPU.replace("%fusion.7 = u8[8,3072]", "%fusion.7 = u8[50000,3072]")
  (maker,) = _hlo.makers(_hlo.parse(copied), "u8", (50000, 32, 32, 3))
  assert maker.opcode == "fusion"
  (maker,) = _hlo.makers(_hlo.parse(GPU), "u8", (32, 2, 2, 3))
  assert maker.name == "copy-start.3"


def test_cycles_of_a_fusion_count_once():
  assert _hlo.estimated_cycles(_hlo.parse(TPU)) == 1840 + 160
  assert _hlo.estimated_cycles(_hlo.parse(GPU)) == 0


@pytest.mark.parametrize(
  "text, size",
  [
    ("f32[8,16]{1,0:T(8,128)(2,1)S(1)}", 512),
    ("bf16[]", 2),
    ("f8e4m3fn[3]{0}", 3),
    ("s4[3]{0}", 2),
    ("pred[<=5]{0}", 5),
    ("token[]", 0),
    ("(f32[2]{0}, (u8[3]{0}, /*index=2*/c64[1]{0}))", 19),
  ],
)
def test_bytes_of_a_type(text, size):
  assert _hlo.bytes_of(text) == size


def test_elements_of_a_tuple():
  text = "((f32[2]{0:T(2,128)}, u8[]), (f32[8,2]{1,0}), u32[])"
  expected = ["(f32[2]{0:T(2,128)}, u8[])", "(f32[8,2]{1,0})", "u32[]"]
  assert _hlo.elements(text) == expected
  assert _hlo.elements("f32[2]{0}") == ["f32[2]{0}"]


def test_text_that_is_no_program_has_nothing_in_it():
  program = _hlo.parse("1 {file_name_id=1}\n\n  %x = f32[2]{0}\n")
  assert program == []
  assert _hlo.collectives(program) == {}
