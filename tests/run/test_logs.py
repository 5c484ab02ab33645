"""A run's metrics on disk."""

import csv
import time

import pytest
from tensorboardX.proto import event_pb2

from jaxdistill.errors import DataError
from jaxdistill.run.logs import TIMING, WAITING, MetricLog, read_metrics


def board_steps(workdir):
  """Steps of all scalars; a frame is length, checksum, data and checksum."""
  steps = []
  for path in sorted((workdir / "tensorboard").glob("events.*")):
    data = path.read_bytes()
    while data:
      length = int.from_bytes(data[:8], "little")
      event = event_pb2.Event.FromString(data[12 : 12 + length])
      steps += [event.step for _ in event.summary.value]
      data = data[16 + length :]
  return steps


def test_a_resumed_log_has_every_step_once_in_every_file(tmp_path):
  log = MetricLog(tmp_path, 0)
  for step in (1, 2, 3):
    log.write(step, step / 10, "train", {"ce/a.0": 0.5 * step})
  # A killed process closes nothing, and may have been in the middle of a line.
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 4, "ep')
  log = MetricLog(tmp_path, 2)
  log.write(3, 0.3, "train", {"ce/a.0": 1.5, "ce/a.1": float("nan")})
  log.close()
  lines = read_metrics(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in lines] == [1, 2, 3]
  assert lines[-1]["ce/a.1"] is None
  with open(tmp_path / "metrics.csv") as file:
    rows = list(csv.DictReader(file))
  assert [row["step"] for row in rows] == ["1", "2", "3"]
  assert board_steps(tmp_path) == [1, 2, 3]


def test_the_seconds_go_on_after_those_of_the_last_training_line(tmp_path):
  log = MetricLog(tmp_path, 0, started=time.perf_counter() - 100)
  assert log.seconds == 0
  for step in (1, 2):
    log.write(step, step, "train", {"ce/a.0": 0.5}, images_per_second=100 / 3)
    log.write(step, step, "test", {"nll/a.0": 0.5})
  log.close()
  first, _, second, test = read_metrics(tmp_path / "metrics.jsonl")
  # Apart from what is the same in every run.
  assert tuple(first)[-2:] == TIMING == ("seconds", "images_per_second")
  assert 100 <= first["seconds"] <= second["seconds"] == log.seconds < 110
  assert first["images_per_second"] == 33.3 and not set(TIMING) & set(test)
  # Of the second step, which came after the restored checkpoint, the time is lost.
  resumed = MetricLog(tmp_path, 1, started=time.perf_counter() - 50)
  assert resumed.seconds == first["seconds"]
  resumed.write(2, 2, "train", {"ce/a.0": 0.5}, images_per_second=1)
  assert 50 <= resumed.seconds - first["seconds"] < 60
  resumed.close()


def test_an_evaluation_that_is_to_be_made_up_for_stands_there_once(tmp_path):
  log = MetricLog(tmp_path, 0)
  for split in ("train", "test", "holdout", "events"):
    log.write(1, 0.1, split, {"ce/a.0": 0.5})
  log.close()
  for evaluated, splits in (
    (True, ["train", "test", "holdout", "events"]),
    (False, ["train", "events"]),
  ):
    MetricLog(tmp_path, 1, evaluated=evaluated).close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["split"] for line in lines] == splits


def test_a_run_that_begins_anew_leaves_nothing_of_the_old_one(tmp_path):
  MetricLog(tmp_path, 0).write(1, 0.1, "train", {"ce/a.0": 0.5})
  log = MetricLog(tmp_path, 0)
  log.write(1, 0.1, "train", {"ce/a.0": 0.7})
  log.close()
  assert board_steps(tmp_path) == [1]
  assert [line["ce/a.0"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0.7]


@pytest.mark.parametrize("damage", ["{", "[]", "null", '{"epoch": 1}', '{"step": "x"}'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
  (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n')
  with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is damaged"):
    MetricLog(tmp_path, 3)


def test_waiting_is_the_mean_of_the_training_lines_of_all_processes(tmp_path):
  log = MetricLog(tmp_path, 0)
  assert log.waiting is None
  log.write(1, 0.1, "train", {}, images_per_second=1.0, waiting=0.5)
  log.close()
  log = MetricLog(tmp_path, 1)
  log.write(2, 0.2, "train", {}, images_per_second=1.0, waiting=0.25)
  log.write(2, 0.2, "test", {})
  log.close()
  assert log.waiting == 0.375
  assert [line.get(WAITING) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
    0.5,
    0.25,
    None,
  ]
