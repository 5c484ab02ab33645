"""What a key of a config is: its default, meaning, type and allowed values."""

from collections.abc import Callable, Mapping, Sequence
import inspect
import math
import typing
from typing import Any, NamedTuple

from jaxdistill.errors import require

REQUIRED = inspect.Parameter.empty
"""In the place of a default: the key has none and must be given."""

# What other programs that read JSON can count, and the largest number of a device.
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_FLOAT = 3.4e38

# A value of every type that a keyword without a default may be annotated with.
_EXAMPLES = {
  "bool": False,
  "int": 0,
  "float": 0.0,
  "str": "",
  "tuple": (),
  "list": (),
  "Sequence": (),
}


class Allowed(NamedTuple):
  """The values that a key may have.

  Attributes:
    check: value of the right type -> whether it is allowed.
    text: what follows "must be" in the error; "" where every value is allowed.
  """

  check: Callable[[Any], bool]
  text: str


def at_least(lowest: int) -> Allowed:
  """Allows numbers from `lowest` on."""
  return Allowed(lambda value: value >= lowest, f"at least {lowest}")


def between(lowest: int, highest: int, text: str) -> Allowed:
  """Allows `lowest` to `highest`, both included, which `text` writes out."""
  return Allowed(lambda value: lowest <= value <= highest, f"in {text}")


def fraction() -> Allowed:
  """Allows 0 to 1, without 1."""
  return Allowed(lambda value: 0 <= value < 1, "in [0, 1)")


def count_or_fraction() -> Allowed:
  """Allows whole numbers from 0 on, and fractions of everything below 1."""

  def check(value: float) -> bool:
    return 0 <= value < 1 or (value >= 1 and float(value).is_integer())

  return Allowed(check, "a whole number from 0 on or a fraction in [0, 1)")


def positive() -> Allowed:
  """Allows finite numbers above 0."""
  return Allowed(lambda value: 0 < value < float("inf"), "a finite number above 0")


def choice(*values: str) -> Allowed:
  """Allows one of several texts."""
  *first, last = values
  return Allowed(lambda value: value in values, f"{', '.join(first)} or {last}")


def of_channels(each: Allowed) -> Allowed:
  """Allows nothing, or a number for each of three channels."""

  def check(values: Sequence[Any]) -> bool:
    if not values:
      return True
    numbers = all(type(value) in (int, float) for value in values)
    return numbers and len(values) == 3 and all(map(each.check, values))

  return Allowed(check, f"empty or three numbers {each.text}")


def anything() -> Allowed:
  """Allows every value of the type; what uses the value may still refuse it."""
  return Allowed(lambda value: True, "")


class Key(NamedTuple):
  """A key of a config.

  Attributes:
    name: in its section; dots lead to sections below.
    default: the value where a config file says nothing, or `REQUIRED`.
    meaning: of the value, a line. Keywords of components have theirs in the docstring
      of the factory.
    allowed: the values that it may have.
    annotation: the type where there is no default to tell it.
    optional: whether the key may be absent.
  """

  name: str
  default: Any
  meaning: str = ""
  allowed: Allowed = anything()
  annotation: Any = None
  optional: bool = False

  @property
  def example(self) -> Any:
    """A value of the key's type; None where any type will do."""
    if self.default is REQUIRED:
      return _EXAMPLES.get(type_name(self.annotation))
    # An empty list does not tell what it is a list of.
    if isinstance(self.default, (tuple, list)) and not self.default:
      elements = typing.get_args(self.annotation)
      if elements and elements[0] is str:
        return ("",)
    return self.default


def type_name(annotation: Any) -> str:
  """Returns "tuple" for `tuple[float, float]`, also where the annotation is a text."""
  if isinstance(annotation, str):
    return annotation.partition("[")[0]
  return getattr(annotation, "__name__", "")


def function_keys(function: Callable, *given: str) -> dict[str, Key]:
  """Returns the keyword-only arguments of a function as keys.

  Args:
    function: any.
    *given: those that the program passes itself, which are left out.
  """
  own = {}
  for name, parameter in inspect.signature(function).parameters.items():
    if parameter.kind is parameter.KEYWORD_ONLY and name not in given:
      own[name] = parameter
  return parameter_keys(own)


def parameter_keys(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Key]:
  """Returns a function's parameters as keys."""
  keys = {}
  for name, parameter in parameters.items():
    keys[name] = Key(name, parameter.default, annotation=parameter.annotation)
  return keys


def filled(keys: Mapping[str, Key], values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the given values, and defaults of the other keys that have one."""
  result = {}
  for name, key in keys.items():
    if name in values:
      result[name] = values[name]
    elif key.default is not REQUIRED:
      result[name] = key.default
  return result


def with_type(name: str, value: Any, example: Any) -> Any:
  """Returns `value` in the type of `example`: an integer may stand for a float.

  Args:
    name: of the key, for the error.
    value: of a config.
    example: a value of the right type; None where any will do.

  Raises:
    ConfigError: if it is of another type, or none that a config can hold.
  """
  _require_plain(name, value)
  if example is None:
    return value
  if isinstance(example, float) and type(value) is int:
    return float(value)
  if isinstance(example, Sequence) and not isinstance(example, str):
    if isinstance(value, (tuple, list)):
      element = example[0] if example else None
      return tuple(with_type(name, part, element) for part in value)
  wanted = type(example).__name__
  require(
    type(value) is type(example),
    f"{name} must be {wanted}, got {value!r} ({type(value).__name__})",
  )
  return value


def _require_plain(name: str, value: Any) -> None:
  """Raises ConfigError for a value that JSON cannot hold, or no device can count."""
  if isinstance(value, (tuple, list)):
    for part in value:
      _require_plain(name, part)
    return
  kinds = (bool, int, float, str, type(None))
  require(
    type(value) in kinds,
    f"{name} must be text, a number, a bool or a list of them, got "
    f"{type(value).__name__}",
  )
  if type(value) is int:
    require(
      abs(value) <= _LARGEST_INTEGER,
      f"{name} must be within 64 bits, got an integer of {value.bit_length()} bits",
    )
  if type(value) is float and math.isfinite(value):
    require(
      abs(value) <= _LARGEST_FLOAT,
      f"{name} must be within {_LARGEST_FLOAT}, the range of float32, got {value}",
    )
