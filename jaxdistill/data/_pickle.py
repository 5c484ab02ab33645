"""Reads pickled uint8 arrays without running, or even looking up, what a pickle names.

A pickle is a program. Two things keep a hostile one harmless:

- `_check_opcodes` reads it first, and refuses opcodes that no image file needs and
  streams that would take a small file to use up the time, the memory or the stack.
- `_ArrayUnpickler` gives it stand-ins of this module for the few functions and classes
  that pickled arrays refer to, and refuses all other references.
"""

from collections.abc import Iterator
import io
import pickle
import pickletools
from typing import Any

import numpy as np

from jaxdistill.errors import DataError, reason

# CIFAR's largest file has 700,000, at protocol 0.
_MAX_OPCODES = 2**21

# The opcode FRAME and its length.
_FRAME_HEADER_BYTES = 9

_STRINGS = frozenset(
  (
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
  )
)
_NUMBERS = frozenset(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"))
_CONSTANTS = frozenset(("NONE", "NEWTRUE", "NEWFALSE"))
_EMPTY = frozenset(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"))
_REFERENCES = frozenset(("GLOBAL", "STACK_GLOBAL"))
_MARK = "MARK"

# All opcodes that an image file needs, by what they do to the stack: they push a value;
# they replace values by one; they put values into the one below them, which stays.
_PUSHES = _STRINGS | _NUMBERS | _CONSTANTS | _EMPTY | {"GLOBAL", _MARK}
_REPLACES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "STACK_GLOBAL": 2, "REDUCE": 2}
_REPLACES_FROM_MARK = frozenset(("TUPLE", "LIST", "DICT"))
_FILLS = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_FILLS_FROM_MARK = frozenset(("APPENDS", "SETITEMS"))
_WRITES_MEMO = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_READS_MEMO = frozenset(("GET", "BINGET", "LONG_BINGET"))
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))


def read_pickled_arrays(data: bytes, where: str) -> dict[str, Any]:
  """Reads a pickled dict of lists, strings and uint8 arrays.

  Args:
    data: the pickle, of any protocol up to 4, written by Python 2 or 3.
    where: what to call it in errors.

  Returns:
    The dict. Its keys are strings, its arrays read-only; strings that Python 2 wrote
    are bytes.

  Raises:
    DataError: if the content is anything else, or damaged.
  """
  try:
    _check_opcodes(data)
    pickled = _ArrayUnpickler(data).load()
    if not isinstance(pickled, dict):
      raise TypeError(f"it holds {type(pickled).__name__}, not a dict")
    return {_text(key): _plain(value) for key, value in pickled.items()}
  except DataError as error:
    raise DataError(
      f"{where} {error}: refused, nothing in it was run; get the original file"
    ) from None
  except (
    pickle.UnpicklingError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    EOFError,
  ) as error:
    raise DataError(
      f"{where} is no intact pickled batch ({reason(error)}): get the original file"
    ) from error


def _text(key: str | bytes) -> str:
  """Returns a key as a string; Python 2 wrote strings as bytes."""
  return key.decode("latin-1") if isinstance(key, bytes) else key


def _plain(value: Any) -> Any:
  """Returns the array in place of what stood for it."""
  return value.array if isinstance(value, _Array) else value


def _check_opcodes(data: bytes) -> None:
  """Refuses a pickle that could harm the unpickler.

  It follows the stack and the memo, but keeps only the name of the opcode that made
  each value. That is enough to know what the unpickler would hash. A hash may not reach
  a tuple: of tuples that share tuples it takes exponential time, and of deeply nested
  ones it overflows the C stack.

  Raises:
    DataError: for opcodes, keys or amounts that no image file needs.
    ValueError, IndexError or KeyError: if the stream is damaged.
  """
  stack: list[str] = []
  memo: dict[int, str] = {}

  for name, argument in _opcodes(data):
    if name in _PUSHES:
      stack.append(name)
    elif name in _REPLACES:
      taken = _take(stack, _REPLACES[name])
      # Only what a reference stands for can be called.
      if name == "REDUCE" and taken[0] not in _REFERENCES:
        raise DataError(f"refers to {taken[0]!r}, which no image file needs")
      stack.append(name)
    elif name in _REPLACES_FROM_MARK:
      taken = _take_to_mark(stack)
      if name == "DICT":
        _check_keys(taken[::2])
      stack.append(name)
    elif name in _FILLS:
      taken = _take(stack, _FILLS[name])
      if name == "SETITEM":
        _check_keys(taken[:1])
      # Only what a call returned has a state to be set; no reference or list has one.
      if name == "BUILD" and _top(stack) != "REDUCE":
        raise DataError(
          f"uses the opcode BUILD on {_top(stack)}, which no image file needs"
        )
    elif name in _FILLS_FROM_MARK:
      taken = _take_to_mark(stack)
      if name == "SETITEMS":
        _check_keys(taken[::2])
    elif name in _WRITES_MEMO:
      slot = len(memo) if name == "MEMOIZE" else argument
      # The unpickler allocates all slots up to the highest.
      if not 0 <= slot < _MAX_OPCODES:
        raise DataError("uses a place in the memo that no image file needs")
      memo[slot] = _top(stack)
    elif name in _READS_MEMO:
      stack.append(memo[argument])
    elif name not in _IGNORED:
      raise DataError(f"uses the opcode {name}, which no image file needs")


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
  """Yields the name and the argument of each opcode, up to a limit.

  A frame has to hold whole opcodes. Where one reaches beyond the end of its frame, the
  unpickler in C goes on behind that end: it would run other opcodes than these.

  Raises:
    DataError: for too many opcodes, or a frame that cuts one of them.
    ValueError: if the stream is damaged.
  """
  frame_end: int | None = None
  argument: Any
  position: Any
  for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
    if count == _MAX_OPCODES:
      raise DataError("has more opcodes than any image file")

    if frame_end is not None and position > frame_end:
      raise DataError("has an opcode that reaches beyond its frame")
    if position == frame_end:
      frame_end = None
    if opcode.name == "FRAME":
      if frame_end is not None:
        raise DataError("has a frame inside a frame")
      frame_end = position + _FRAME_HEADER_BYTES + argument
    yield opcode.name, argument


def _top(stack: list[str]) -> str:
  """Returns the topmost value."""
  if stack[-1] == _MARK:
    raise ValueError("a value is missing from its stack")
  return stack[-1]


def _take(stack: list[str], count: int) -> list[str]:
  """Removes the topmost values, and returns them."""
  taken = stack[-count:]
  if len(taken) < count or _MARK in taken:
    raise ValueError("a value is missing from its stack")
  del stack[-count:]
  return taken


def _take_to_mark(stack: list[str]) -> list[str]:
  """Removes the topmost mark and the values above it, and returns these."""
  taken = []
  while (name := stack.pop()) != _MARK:
    taken.append(name)
  return taken[::-1]


def _check_keys(names: list[str]) -> None:
  """Raises DataError for a key of a dict that may be anything but a string."""
  for name in names:
    # Python 3 writes bytes at protocols 0 to 2 as the result of a function.
    if name not in _STRINGS and name != "REDUCE":
      raise DataError("has a key that is no string")


class _StandIn:
  """What a pickle gets for something that it refers to, or makes with it.

  It has no attributes, items or state that a pickle could change.
  """

  __slots__ = ()
  __hash__ = None  # type: ignore[assignment]

  def __setstate__(self, state: Any) -> None:
    """Refuses a state; without this method, a pickle could set any attribute."""
    raise DataError("changes what it refers to")


class _ArrayClass(_StandIn):
  """Stands for `numpy.ndarray`, which pickles pass on and do not call."""

  __slots__ = ()


class _Array(_StandIn):
  """Stands for an array; `array` is None until it gets its state."""

  __slots__ = ("array",)

  def __init__(self):
    self.array: np.ndarray | None = None

  def __setstate__(self, state: Any) -> None:
    """Reads (version, shape, dtype, column_major, bytes)."""
    _, shape, dtype, column_major, raw = state
    if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1"):
      raise DataError("holds an array that is not of type uint8")
    order = "F" if column_major else "C"
    self.array = np.frombuffer(raw, np.uint8).reshape(shape, order=order)


class _Dtype(_StandIn):
  """Stands for a dtype, and keeps its code, such as "u1"."""

  __slots__ = ("code",)

  def __init__(self, code: Any):
    self.code = _text(code)

  def __setstate__(self, state: Any) -> None:
    """Ignores byte order and alignment: a single byte has none."""


class _MakeArray(_StandIn):
  """Stands for numpy's `_reconstruct`."""

  __slots__ = ()

  def __call__(self, array_class: Any, shape: Any, code: Any) -> _Array:
    """Returns an array that has yet to get its state."""
    del array_class, shape, code
    return _Array()


class _MakeDtype(_StandIn):
  """Stands for `numpy.dtype`."""

  __slots__ = ()

  def __call__(self, code: Any, align: Any = False, copy: Any = False) -> _Dtype:
    """Returns the code, as a dtype."""
    del align, copy
    return _Dtype(code)


class _Encode(_StandIn):
  """Stands for `_codecs.encode`, by which Python 3 writes bytes at protocols 0 to 2."""

  __slots__ = ("_left",)

  def __init__(self, limit: int):
    self._left = limit

  def __call__(self, text: Any, encoding: Any) -> bytes:
    """Returns a string's characters as bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
      raise TypeError("bytes must be written as a string and its encoding, latin1")
    # A pickle writes each of its strings once; a short one that encodes a long string
    # over and over would fill the memory.
    self._left -= len(text)
    if self._left < 0:
      raise DataError("unpacks to more than it holds")
    return text.encode("latin-1")


class _ArrayUnpickler(pickle.Unpickler):
  """An unpickler for which nothing exists but the stand-ins above."""

  def __init__(self, data: bytes):
    super().__init__(io.BytesIO(data), encoding="bytes")
    self._stand_ins = {
      ("_codecs", "encode"): _Encode(limit=len(data)),
      ("numpy", "ndarray"): _ArrayClass(),
      ("numpy", "dtype"): _MakeDtype(),
      ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),
      ("numpy._core.multiarray", "_reconstruct"): _MakeArray(),
    }

  def find_class(self, module: str, name: str) -> _StandIn:
    """Returns what stands for a reference; nothing is imported, no attribute read."""
    stand_in = self._stand_ins.get((module, name))
    if stand_in is None:
      reference = f"{module} {name}"[:80]
      raise DataError(f"refers to {reference!r}, which no image file needs")
    return stand_in

  def persistent_load(self, pid: Any) -> Any:
    """Refuses to load anything from outside of the pickle."""
    raise DataError("refers to something outside of itself")
