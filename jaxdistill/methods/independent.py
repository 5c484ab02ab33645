"""Independent training: the baseline that every other method has to beat."""

from jaxdistill.core.method import Method, Step
from jaxdistill.core.types import Objective


def independent() -> Method:
  """Returns the method that trains members on the labels alone: L_i = CE(z_i, y)."""

  def loss(step: Step) -> Objective:
    return Objective(member=step.label_loss)

  return Method(loss=loss, is_control=True)
