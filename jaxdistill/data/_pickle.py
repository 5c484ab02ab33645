"""Reads pickled arrays without running what a pickle asks for."""

import pickletools

import numpy as np

from jaxdistill.data._text import summary
from jaxdistill.errors import DataError


class _Array:
  """An array between its construction and the opcode that fills it."""

  value: np.ndarray | None = None

  def fill(self, state) -> None:
    _, shape, dtype, column_major, raw = state
    if dtype not in ("u1", "|u1"):
      raise DataError("holds an array that is not of type uint8")
    self.value = np.frombuffer(raw, np.uint8).reshape(
      shape, order="F" if column_major else "C"
    )


def _text(value) -> str:
  """Returns a string that Python 2 wrote as bytes."""
  return value.decode("latin-1") if isinstance(value, bytes) else value


# What a pickled dict of lists, strings and uint8 arrays refers to, and what stands for
# it here.
_CONSTRUCTORS = {
  "_codecs encode": lambda text, encoding: text.encode("latin-1"),
  "numpy dtype": lambda code, *_: _text(code),
  "numpy.core.multiarray _reconstruct": lambda *_: _Array(),
  "numpy._core.multiarray _reconstruct": lambda *_: _Array(),
}


_REFERENCES = ("numpy ndarray", *_CONSTRUCTORS)


_IGNORED = ("PROTO", "FRAME", "STOP")


_VALUES = (
  "INT",
  "BININT",
  "BININT1",
  "BININT2",
  "LONG",
  "LONG1",
  "UNICODE",
  "BINUNICODE",
  "SHORT_BINUNICODE",
  "BINBYTES",
  "SHORT_BINBYTES",
  "BINBYTES8",
)


_PYTHON2_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING")


_FRESH = {
  "NONE": lambda: None,
  "NEWTRUE": lambda: True,
  "NEWFALSE": lambda: False,
  "EMPTY_LIST": list,
  "EMPTY_DICT": dict,
  "EMPTY_TUPLE": tuple,
}


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
      stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
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

  Unpickling runs whatever code the file asks for. This walks the opcodes instead, knows
  the few that such a dict needs (protocols 1 to 4, and 0 of Python 3), and refuses all
  others and every foreign reference.

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
    return {
      _text(key): item.value if isinstance(item, _Array) else item
      for key, item in value.items()
    }
  except DataError as error:
    raise DataError(
      f"{where} {error}: refused, nothing in it was run; get the original file"
    ) from None
  except (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
  ) as error:
    raise DataError(
      f"{where} is no sound pickled batch ({summary(error)}): get the original file"
    ) from error
