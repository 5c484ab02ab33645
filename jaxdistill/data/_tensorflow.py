"""TensorFlow, which only reads: imported when it is needed, quiet and without a GPU."""

import os
from typing import Any

from jaxdistill.errors import DataError, reason


def import_tensorflow() -> Any:
  """Returns the module; the first call takes seconds.

  Raises:
    DataError: if it is not installed.
  """
  # What it says of itself is of no use to those who only read images with it.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  try:
    import tensorflow as tf
  except ImportError as error:
    raise DataError(
      f"images are read with TensorFlow ({reason(error)}): run "
      "pip install 'jaxdistill[tf]'"
    ) from error
  try:
    # Its memory belongs to the training.
    tf.config.set_visible_devices([], "GPU")
  except RuntimeError:
    # Someone has used it before, and has settled this.
    pass
  return tf
