"""Reads what XLA prints of an optimised program: its collectives and what they move.

Only text goes in, so that it works for devices that are not there. The text has a line
for every instruction, `%name = type opcode(operands), attribute=value, ...`, and a
header for every computation.
"""

from collections.abc import Sequence
import math
import re
from typing import NamedTuple

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-broadcast",
  "collective-permute",
  "ragged-all-to-all",
  "reduce-scatter",
)

# Instructions whose result is an operand under another name.
_RENAMING = {
  "bitcast",
  "call",
  "conditional",
  "get-tuple-element",
  "opt-barrier",
  "parameter",
  "tuple",
  "while",
}

_HEADER = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_ASSIGNMENT = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*)")
_OPCODE = re.compile(r" ?([\w-]+)(\(.*)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_CALLS = re.compile(r"calls=%?([\w.-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_GROUPS = re.compile(r"(?:feature|batch)_group_count=(\d+)")
_LABELS = re.compile(r"dim_labels=(\w+)_")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CUDNN = 'custom_call_target="__cudnn$conv'


class Instruction(NamedTuple):
  """A line of a program.

  Attributes:
    name: unique in the program.
    type: of the result, with its layout: "f32[8,16]{1,0}", or a tuple in parentheses.
    opcode: such as "fusion" or "all-reduce-start".
    rest: operands in parentheses, then attributes.
    computation: name of the one that it belongs to.
  """

  name: str
  type: str
  opcode: str
  rest: str
  computation: str


class Collective(NamedTuple):
  """Instructions of one kind that exchange data between devices.

  Attributes:
    count: how many there are.
    bytes: of all their results, on one device.
    largest: bytes of the largest result.
  """

  count: int
  bytes: int
  largest: int


class Convolutions(NamedTuple):
  """How many two-dimensional convolutions there are.

  Attributes:
    count: all of them.
    grouped: those with several groups of features or of the batch.
  """

  count: int
  grouped: int


def parse(text: str) -> list[Instruction]:
  """Returns the instructions of a program in their order."""
  found = []
  computation = ""
  for line in text.splitlines():
    assignment = _ASSIGNMENT.match(line)
    if assignment:
      name, rest = assignment.groups()
      result, rest = _split_type(rest)
      call = _OPCODE.match(rest)
      if call:
        found.append(Instruction(name, result, call[1], call[2], computation))
      continue
    header = _HEADER.match(line)
    if header:
      computation = header[1]
  return found


def _split_type(text: str) -> tuple[str, str]:
  """Splits "type opcode(...)" behind the type, which may be a tuple of types."""
  if not text.startswith("("):
    first, _, rest = text.partition(" ")
    return first, rest
  end = _closing(text)
  return text[: end + 1], text[end + 1 :]


def _closing(text: str) -> int:
  """Returns where the parenthesis closes that a text begins with."""
  depth = 0
  for position, character in enumerate(text):
    if character == "(":
      depth += 1
    elif character == ")":
      depth -= 1
      if depth == 0:
        return position
  return len(text) - 1


def elements(result: str) -> list[str]:
  """Returns the types in a tuple; of another type, the type alone."""
  if not result.startswith("("):
    return [result]
  inner = result[1 : _closing(result)]
  parts = []
  depth = 0
  start = 0
  for position, character in enumerate(inner):
    if character in "([{":
      depth += 1
    elif character in ")]}":
      depth -= 1
    elif character == "," and depth == 0:
      parts.append(inner[start:position].strip())
      start = position + 1
  parts.append(inner[start:].strip())
  return parts


def arrays(result: str) -> list[tuple[str, tuple[int, ...]]]:
  """Returns dtype and shape of every array in a type: [("f32", (8, 16))]."""
  found = []
  for dtype, sizes in _ARRAY.findall(result):
    shape = tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size)
    found.append((dtype, shape))
  return found


def bytes_of(result: str) -> int:
  """Returns the bytes of all arrays in a type, without padding."""
  total = 0
  for dtype, shape in arrays(result):
    total += math.ceil(math.prod(shape) * _bits(dtype) / 8)
  return total


def _bits(dtype: str) -> int:
  """Returns the bits of an element: "bf16" has 16, "f8e4m3fn" has 8."""
  if dtype == "pred":
    return 8
  number = re.search(r"\d+", dtype)
  return int(number[0]) if number else 0


def collectives(program: Sequence[Instruction]) -> dict[str, Collective]:
  """Returns kind -> how many there are and what they move, by name.

  What is started here and done there is counted once. So is what a TPU does in the
  background of several fusions, each of which repeats the instruction.
  """
  inside = _fused(program)
  sizes: dict[str, list[int]] = {}
  seen = set()
  for instruction in program:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
      continue
    channel = _CHANNEL.search(instruction.rest)
    if channel and instruction.computation in inside:
      if channel[1] in seen:
        continue
      seen.add(channel[1])
    sizes.setdefault(kind, []).append(bytes_of(_moved(instruction)))
  found = {}
  for kind in sorted(sizes):
    own = sizes[kind]
    found[kind] = Collective(count=len(own), bytes=sum(own), largest=max(own))
  return found


def _moved(instruction: Instruction) -> str:
  """Returns the type of a collective's result."""
  started = instruction.opcode.endswith("-start")
  # The start of an all-reduce has the type of the result; that of any other has the
  # operands, then the results, then what the hardware needs.
  if started and instruction.opcode != "all-reduce-start":
    _, result, *_ = elements(instruction.type)
    return result
  return instruction.type


def convolutions(program: Sequence[Instruction]) -> Convolutions:
  """Counts convolutions, those of cuDNN too.

  A matrix product, which a TPU's compiler writes as a convolution without spatial
  dimensions, is none.
  """
  count = 0
  grouped = 0
  for instruction in program:
    if not _is_convolution(instruction):
      continue
    count += 1
    groups = [int(number) for number in _GROUPS.findall(instruction.rest)]
    if max(groups, default=1) > 1:
      grouped += 1
  return Convolutions(count, grouped)


def _is_convolution(instruction: Instruction) -> bool:
  """Tells whether an instruction convolves in two dimensions."""
  if instruction.opcode == "custom-call":
    return _CUDNN in instruction.rest
  if instruction.opcode != "convolution":
    return False
  labels = _LABELS.search(instruction.rest)
  return labels is not None and {"0", "1"} <= set(labels[1])


def _fused(program: Sequence[Instruction]) -> set[str]:
  """Returns the names of the computations that are fused into one instruction."""
  found = set()
  for instruction in program:
    if instruction.opcode == "fusion":
      found.update(_CALLS.findall(instruction.rest))
  return found


def _stored(program: Sequence[Instruction]) -> list[Instruction]:
  """Returns the instructions whose results are stored: none inside a fusion."""
  fused = _fused(program)
  return [each for each in program if each.computation not in fused]


def makers(
  program: Sequence[Instruction], dtype: str, shape: Sequence[int]
) -> list[Instruction]:
  """Returns the instructions that store an array as large as the given one.

  Args:
    program: from `parse`.
    dtype: of the array, as XLA writes it: "u8".
    shape: of the array. One with the same elements in another shape counts too.
  """
  size = math.prod(shape)
  found = []
  for instruction in _stored(program):
    if instruction.opcode in _RENAMING or instruction.opcode.endswith("-done"):
      continue
    for element_dtype, element_shape in arrays(instruction.type):
      if element_dtype == dtype and math.prod(element_shape) == size:
        found.append(instruction)
        break
  return found


def estimated_cycles(program: Sequence[Instruction]) -> int:
  """Returns the sum of the cycles that XLA expects; 0 where it tells none.

  The body of a loop counts once, and all branches of a conditional.
  """
  total = 0
  for instruction in _stored(program):
    for cycles in _CYCLES.findall(instruction.rest):
      total += int(cycles)
  return total
