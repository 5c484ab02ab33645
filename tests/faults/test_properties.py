"""Labels and values of every kind: kept as they are, or refused in one line.

Hypothesis looks for the smallest example that is neither. The suite always tries the
same ones; without `derandomize` it tries others every time.
"""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np

from jaxdistill.data._dataset import checked
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.run.config import apply_overrides, check_config, flatten
from tests.helpers import runs

CLASSES = 3
IMAGE = np.zeros((4, 2, 2, 3), np.uint8)
EVERY = settings(derandomize=True, deadline=None, database=None, max_examples=80)
KEYS = sorted(flatten(runs.config()))


def assert_one_line(error):
  message = str(error)
  assert message.isprintable() and 0 < len(message) <= 300


@EVERY
@given(
  arrays.arrays(
    dtype=arrays.scalar_dtypes() | arrays.unicode_string_dtypes(),
    shape=st.just(4) | arrays.array_shapes(min_dims=0, max_dims=2, max_side=5),
  )
  | arrays.arrays(np.int64, 4, elements=st.integers(-1, CLASSES))
)
def test_labels_are_kept_or_refused(label):
  clean = np.arange(4) % CLASSES
  try:
    dataset = checked("it", (IMAGE, label), (IMAGE, clean), CLASSES)
  except DataError as error:
    assert_one_line(error)
    is_clean = label.dtype.kind in "iu" and label.shape == (4,)
    assert not (is_clean and np.isin(label, range(CLASSES)).all())
  else:
    assert dataset.train.label.dtype == np.int32
    np.testing.assert_array_equal(dataset.train.label, label)
    assert np.isin(label, range(CLASSES)).all()


@EVERY
@given(
  st.sampled_from(KEYS),
  st.text(max_size=30) | st.integers().map(str) | st.floats().map(str),
)
def test_values_on_the_command_line_are_kept_or_refused(key, text):
  config = runs.config()
  example = flatten(config)[key]
  try:
    apply_overrides(config, [f"{key}={text}"])
    check_config(config)
  except ConfigError as error:
    assert_one_line(error)
  else:
    value = flatten(config)[key]
    assert type(value) is type(example)
    if type(value) in (int, float):
      assert float(text) == value
