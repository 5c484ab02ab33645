"""`jaxdistill prepare`: what it stores, what it refuses, and how it goes on."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import numpy as np
from PIL import Image
import pytest

from jaxdistill import __main__ as commands
from jaxdistill.data import shards
from jaxdistill.errors import (
  BusyError,
  ConfigError,
  DataError,
  OutOfMemoryError,
  Preempted,
  StorageError,
)
from jaxdistill.tools import _images, _shard, _sources, prepare
from tests.faults.malformed import PLACES
from tests.helpers import pictures, runs

SMALL = _images.Settings(size=16)


@pytest.fixture(autouse=True)
def many_shards(monkeypatch):
  """A few images make several shards."""
  monkeypatch.setattr(prepare, "_FEWEST_IMAGES", 2)


def run(source, out, **keys):
  settings = keys.pop("settings", SMALL)
  return prepare.prepare(prepare.Order(source, out, settings, **keys))


def error_of(kind, call, *args, **keys):
  """The text of the error that a call ends in; it must be one line."""
  with pytest.raises(kind) as caught:
    call(*args, **keys)
  text = str(caught.value)
  assert "\n" not in text
  assert len(text) <= 300
  return text


def decoded(content):
  return Image.open(io.BytesIO(content))


# Images -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pictures.FAULTY)
def test_a_faulty_image_is_told_with_its_reason(name):
  content, reason = pictures.FAULTY[name]
  with pytest.raises(_images.Fault, match=reason):
    _images.store(content, SMALL)


@pytest.mark.parametrize("name", pictures.UNUSUAL)
@pytest.mark.parametrize("size", [0, 12])
def test_an_unusual_image_is_stored_as_rgb_or_grey(name, size):
  settings = _images.Settings(size=size)
  stored = _images.store(pictures.UNUSUAL[name], settings)
  image = decoded(stored.content)
  image.load()
  assert image.mode in ("RGB", "L")
  assert image.format in ("JPEG", "PNG")
  assert (image.height, image.width) == (stored.height, stored.width)
  expected = decoded(pictures.UNUSUAL[name]).convert("RGB").resize(image.size)
  if size:
    assert min(image.size) == size
  # Levels that two ways of resizing, JPEG, and the kinds' own losses leave apart.
  if name not in ("16 bits", "two colours"):
    difference = np.asarray(image.convert("RGB"), float)
    difference -= np.asarray(expected, float)
    assert np.abs(difference).mean() < 12


def test_of_sixteen_bits_the_upper_eight_are_stored():
  stored = _images.store(pictures.sixteen_bits(), _images.Settings(size=0))
  pixels = np.asarray(decoded(stored.content))
  np.testing.assert_array_equal(pixels[..., 0].reshape(-1), np.arange(256))


def test_the_shorter_side_is_resized_and_nothing_is_enlarged_unless_told():
  wide = pictures.encoded(pictures.picture(height=30, width=60), "PNG")
  stored = _images.store(wide, _images.Settings(size=20))
  assert (stored.height, stored.width) == (20, 40)
  stored = _images.store(wide, _images.Settings(size=40))
  assert (stored.height, stored.width) == (30, 60)
  assert stored.content == wide
  stored = _images.store(wide, _images.Settings(size=40, upscale=True))
  assert (stored.height, stored.width) == (40, 80)


def test_a_jpeg_of_the_right_size_keeps_its_bytes():
  content = pictures.encoded(pictures.picture(height=300, width=400), quality=60)
  for size in (0, 300, 500):
    assert _images.store(content, _images.Settings(size=size)).content == content
  assert _images.store(content, _images.Settings(size=299)).content != content


@pytest.mark.parametrize("size, kind", [((128, 90), "PNG"), ((129, 90), "JPEG")])
def test_only_small_images_stay_lossless(size, kind):
  image = pictures.picture(height=size[0], width=size[1])
  content = pictures.encoded(image, "BMP")
  stored = _images.store(content, _images.Settings())
  assert decoded(stored.content).format == kind
  if kind == "PNG":
    np.testing.assert_array_equal(decoded(stored.content), image)


def test_pixels_of_a_large_photograph_are_averaged(rng):
  noise = rng.integers(0, 256, (800, 800, 3), np.uint8)
  content = pictures.encoded(Image.fromarray(noise), quality=95)
  stored = _images.store(content, _images.Settings(size=50))
  pixels = np.asarray(decoded(stored.content), float)
  # Noise of standard deviation 74, averaged over 16 x 16 pixels; drawn, it stays 74.
  assert pixels.std() < 20
  assert stored.sums == pytest.approx(pixels.sum(axis=(0, 1)), rel=0.02)


# What is written ----------------------------------------------------------------------


def test_every_image_is_stored_with_its_label_name_and_size(tmp_path, capsys):
  source = pictures.write_folder(tmp_path / "photos")
  (source / "train" / "dog" / "notes.txt").write_text("no image")
  (source / "train" / "dog" / ".hidden.jpg").write_text("no image")
  index = run(source, tmp_path / "out")
  assert index.class_names == ("cat", "dog")
  assert not index.skipped
  train = index.splits["train"]
  assert len(train.shards) == 4
  assert train.table.label.tolist() == [0] * 4 + [1] * 4
  assert index.splits["test"].table.label.tolist() == [0, 0, 1, 1]

  records = shards.Records(index, "train")
  assert len(records) == 8
  assert records.name(5).endswith("of-00004.array_record record 1 (train/dog/001.jpg)")
  total = np.zeros(3)
  pixels = 0
  for row, content in enumerate(records.read(range(8))):
    image = decoded(content)
    assert (image.height, image.width) == (19, 16)
    assert train.table.height[row] == 19
    assert train.table.width[row] == 16
    assert train.table.size[row] == len(content)
    name = records.name(row).split("(")[1].rstrip(")")
    expected = decoded((source / name).read_bytes()).resize((16, 19))
    difference = np.asarray(image, float) - np.asarray(expected, float)
    assert np.abs(difference).mean() < 6
    total += np.asarray(image, float).sum(axis=(0, 1))
    pixels += 19 * 16
  np.testing.assert_allclose(index.mean, total / pixels / 255, atol=0.01)
  assert records.read([6, 1, 6]) == [records.read([row])[0] for row in (6, 1, 6)]

  out = capsys.readouterr().out
  assert "8 training and 4 test images of 2 classes; 1 files are no images" in out
  assert f"--config.data.name=prepared --config.data.dir={tmp_path / 'out'}" in out
  files = {path.name for path in (tmp_path / "out").iterdir()}
  assert {"index.json", "table.npz"} < files
  assert "unfinished" not in files


def test_a_fraction_of_every_class_is_held_out(tmp_path):
  source = pictures.write_folder(tmp_path / "photos", train=6) / "train"
  index = run(source, tmp_path / "out", holdout=0.3)
  assert index.splits["train"].table.label.tolist() == [0] * 4 + [1] * 4
  assert index.splits["test"].table.label.tolist() == [0, 0, 1, 1]
  names = index.splits["train"].table.names + index.splits["test"].table.names
  assert len(set(names.split(b"\0"))) == 12 + 1
  again = run(source, tmp_path / "again", holdout=0.3)
  assert again.splits["test"].table.names == index.splits["test"].table.names


def pack(source, path):
  """Packs a folder in the way that the suffix of the archive says."""
  if path.suffix == ".zip":
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
      for file in sorted(source.rglob("*")):
        archive.write(file, file.relative_to(source.parent))
  else:
    mode = {".tar": "w", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}[path.suffix]
    with tarfile.open(path, mode) as archive:
      archive.add(source, f"./{source.name}")
  return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.xz", "a.tar.bz2"])
def test_an_archive_is_prepared_as_the_folder_in_it(tmp_path, name):
  source = pictures.write_folder(tmp_path / "photos")
  index = run(source, tmp_path / "folder")
  packed = run(pack(source, tmp_path / name), tmp_path / "archive")
  for split in shards.SPLITS:
    before = [shard.sha256 for shard in index.splits[split].shards]
    assert [shard.sha256 for shard in packed.splits[split].shards] == before
  assert not list((tmp_path / "archive").glob("*.tar"))


# What is refused ----------------------------------------------------------------------


def spoil(source, content=b"this is no image"):
  path = source / "train" / "dog" / "002.jpg"
  path.write_bytes(content)
  return path


# A folder in the folder of a class is looked into; root may read everything.
NO_FILES = sorted(PLACES.keys() - {"folder", "parent", "no permission"})


@pytest.mark.parametrize("kind", [*pictures.FAULTY, *NO_FILES])
def test_an_image_that_cannot_be_used_is_named_or_skipped(tmp_path, kind):
  source = pictures.write_folder(tmp_path / "photos")
  path = source / "train" / "dog" / "002.jpg"
  if kind in pictures.FAULTY:
    path.write_bytes(pictures.FAULTY[kind][0])
  else:
    path.unlink()
    PLACES[kind](path)
  links = {"follow_links": True}
  start = time.monotonic()
  text = error_of(DataError, run, source, tmp_path / "out", **links)
  assert "train/dog/002.jpg: " in text
  assert "--on-error=skip" in text
  index = run(source, tmp_path / "out", on_error="skip", max_skipped=0.2, **links)
  assert time.monotonic() - start < 5
  ((name, _),) = index.skipped
  assert name == "train/dog/002.jpg"
  assert len(index.splits["train"].table.label) == 7


def test_links_are_refused_unless_told(tmp_path):
  source = pictures.write_folder(tmp_path / "photos")
  elsewhere = pictures.write_folder(tmp_path / "elsewhere")
  (source / "train" / "eel").symlink_to(elsewhere / "train" / "cat")
  text = error_of(DataError, run, source, tmp_path / "out")
  assert f"{source}/train/eel is a link" in text
  index = run(source, tmp_path / "out", follow_links=True)
  assert index.class_names == ("cat", "dog", "eel")
  (source / "train" / "eel").unlink()
  (source / "train" / "dog" / "up").symlink_to(source / "train")
  text = error_of(DataError, run, source, tmp_path / "other", follow_links=True)
  assert "in a circle" in text


def test_too_many_faults_end_a_preparation_that_skips(tmp_path):
  source = pictures.write_folder(tmp_path / "photos")
  for number in (0, 1):
    (source / "train" / "cat" / f"00{number}.jpg").write_bytes(b"x")
  text = error_of(DataError, run, source, tmp_path / "out", on_error="skip")
  assert "more than 1 images cannot be used" in text
  assert "train/cat/00" in text


def test_a_class_of_which_nothing_is_left_is_named(tmp_path):
  source = pictures.write_folder(tmp_path / "photos")
  for path in (source / "train" / "dog").iterdir():
    path.write_bytes(b"x")
  text = error_of(
    DataError, run, source, tmp_path / "out", on_error="skip", max_skipped=0.9
  )
  assert "no training image of class 'dog'" in text


@pytest.mark.parametrize(
  "change, message",
  [
    (
      lambda root: (root / "train" / "eel").mkdir(),
      "class 'eel' has no image in train",
    ),
    (lambda root: (root / "val" / "eel").mkdir(), "class 'eel' is in the test split"),
    (lambda root: (root / "val").rename(root / "other"), "train but none of val"),
    (lambda root: (root / "train").rename(root / "x"), "has no folder train"),
    (lambda root: (root / "val").rename(root / "../val"), "train but none of val"),
    (lambda root: (root / "validation").mkdir(), "has val and validation"),
    (
      lambda root: (root / "train" / "cat").rename(root / "train" / "c\nat"),
      "class 'dog'|no printable name|in the test split only",
    ),
  ],
)
def test_a_folder_of_another_layout_is_refused(tmp_path, change, message):
  source = pictures.write_folder(tmp_path / "photos")
  change(source)
  with pytest.raises(DataError, match=message):
    run(source, tmp_path / "out")


def test_a_single_image_cannot_be_held_out(tmp_path):
  source = pictures.write_folder(tmp_path / "photos", train=1) / "train"
  text = error_of(DataError, run, source, tmp_path / "out", holdout=0.5)
  assert "class 'cat' has a single image" in text


@pytest.mark.parametrize(
  "keys, message",
  [
    ({"settings": _images.Settings(size=-1)}, "--size"),
    ({"settings": _images.Settings(quality=101)}, "--quality"),
    ({"settings": _images.Settings(filter="box")}, "--filter"),
    ({"holdout": 1.0}, "--holdout"),
    ({"on_error": "ignore"}, "--on-error"),
    ({"max_skipped": float("nan")}, "--max-skipped"),
    ({"workers": 0}, "--workers"),
  ],
)
def test_settings_out_of_range_are_refused(tmp_path, keys, message):
  with pytest.raises(ConfigError, match=message):
    run(tmp_path / "photos", tmp_path / "out", **keys)
  assert not (tmp_path / "out").exists()


def test_directories_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
  source = pictures.write_folder(tmp_path / "photos")
  with pytest.raises(ConfigError, match="is inside the source"):
    run(source, source / "train" / "out")
  other = tmp_path / "other"
  other.mkdir()
  (other / "thesis.txt").write_text("mine")
  with pytest.raises(StorageError, match="holds other files"):
    run(source, other)
  with pytest.raises(StorageError, match="cannot be written"):
    run(source, other / "thesis.txt")
  monkeypatch.setattr(prepare, "free_bytes", lambda path: 2**19)
  text = error_of(StorageError, run, source, tmp_path / "out")
  assert "has 512 KiB free, about 7" in text


def test_a_second_preparation_of_a_directory_is_refused(tmp_path):
  source = pictures.write_folder(tmp_path / "photos")
  with prepare._locked(tmp_path / "out"):
    with pytest.raises(BusyError, match="is being prepared by another"):
      run(source, tmp_path / "out")
  run(source, tmp_path / "out")


# Archives -----------------------------------------------------------------------------


def tar_member(name, kind=tarfile.REGTYPE, size=0):
  member = tarfile.TarInfo(name)
  member.type = kind
  member.size = size
  member.linkname = "/etc/passwd"
  return member


@pytest.mark.parametrize(
  "member",
  [
    tar_member("../escaped.jpg"),
    tar_member("photos/../../escaped.jpg"),
    tar_member("/photos/escaped.jpg"),
    tar_member("photos/train/cat/link.jpg", tarfile.SYMTYPE),
    tar_member("photos/train/cat/hard.jpg", tarfile.LNKTYPE),
    tar_member("photos/train/cat/pipe", tarfile.FIFOTYPE),
    tar_member("photos/train/cat/device", tarfile.CHRTYPE),
    tar_member("photos/train/cat/000.jpg"),
  ],
  ids=lambda member: member.name,
)
@pytest.mark.parametrize("suffix", ["tar", "tgz"])
def test_a_tar_archive_with_an_odd_member_is_refused(tmp_path, member, suffix):
  source = pictures.write_folder(tmp_path / "photos")
  path = tmp_path / f"a.{suffix}"
  with tarfile.open(path, "w:gz" if suffix == "tgz" else "w") as archive:
    archive.add(source, source.name)
    archive.addfile(member)
  text = error_of(DataError, run, path, tmp_path / "out")
  assert member.name.lstrip("/") in text
  assert not list(tmp_path.parent.glob("escaped*"))


def zip_link(name):
  member = zipfile.ZipInfo(name)
  member.external_attr = (stat.S_IFLNK | 0o777) << 16
  return member


@pytest.mark.parametrize(
  "member",
  [
    "../escaped.jpg",
    "/photos/escaped.jpg",
    "..\\escaped.jpg",
    "C:\\escaped.jpg",
    "photos/train/cat/000.jpg",
    "./photos/train/cat/000.jpg",
    zip_link("photos/train/cat/link.jpg"),
  ],
  ids=str,
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_archive_with_an_odd_member_is_refused(tmp_path, member):
  source = pictures.write_folder(tmp_path / "photos")
  path = pack(source, tmp_path / "a.zip")
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr(member, b"/etc/passwd")
  text = error_of(DataError, run, path, tmp_path / "out")
  assert "has the member" in text


def test_a_zip_that_claims_too_much_is_refused(tmp_path, monkeypatch):
  path = tmp_path / "a.zip"
  monkeypatch.setattr(_sources, "MAX_BYTES", 10_000)
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("train/cat/0.png", bytes(10_001))
  text = error_of(DataError, run, path, tmp_path / "out")
  assert "train/cat/0.png" in text


def test_a_compressed_archive_that_unpacks_to_too_much_is_refused(
  tmp_path, monkeypatch
):
  source = pictures.write_folder(tmp_path / "photos")
  (source / "train" / "cat" / "zeros.bmp").write_bytes(bytes(2**22))
  path = pack(source, tmp_path / "a.tgz")
  monkeypatch.setattr(_sources, "_UNPACKED_SLACK", 0)
  monkeypatch.setattr(_sources, "_CHUNK", 2**16)
  assert "unpacks to more" in error_of(DataError, run, path, tmp_path / "out")
  assert not list((tmp_path / "out" / "unfinished").iterdir())


def test_an_archive_of_endlessly_many_members_is_refused(tmp_path, monkeypatch):
  path = pack(pictures.write_folder(tmp_path / "photos"), tmp_path / "a.tar")
  monkeypatch.setattr(_sources, "MAX_MEMBERS", 10)
  assert "more than 10 members" in error_of(DataError, run, path, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.xz"])
@pytest.mark.parametrize("damage", ["half", "junk", "empty", "page", "header"])
def test_a_damaged_archive_is_named(tmp_path, name, damage):
  source = pictures.write_folder(tmp_path / "photos")
  path = pack(source, tmp_path / name)
  content = path.read_bytes()
  middle = len(content) // 2 // 512 * 512
  damaged = {
    "half": content[: len(content) // 2],
    "junk": os.urandom(5000),
    "empty": b"",
    "page": b"<html>404</html>",
    "header": content[:middle] + bytes([255]) * 1024 + content[middle + 1024 :],
  }
  path.write_bytes(damaged[damage])
  assert str(path) in error_of(DataError, run, path, tmp_path / "out")


# Going on -----------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path):
  """A source, and what its preparation in one go has written."""
  source = pictures.write_folder(tmp_path / "photos")
  run(source, tmp_path / "whole")
  return source, pictures.contents(tmp_path / "whole")


def interrupt_after(monkeypatch, images):
  """Presses Ctrl-C after some images; returns the list that these are put into."""
  seen = []
  store = _images.store

  def interrupted(content, settings):
    seen.append(content)
    if len(seen) == images:
      os.kill(os.getpid(), signal.SIGINT)
    return store(content, settings)

  monkeypatch.setattr(_shard, "store", interrupted)
  return seen


def test_one_that_was_interrupted_goes_on_to_the_same_bytes(
  tmp_path, monkeypatch, whole, capsys
):
  source, expected = whole
  out = tmp_path / "out"
  interrupt_after(monkeypatch, 5)
  text = error_of(Preempted, run, source, out)
  assert f"2 of 6 shards of {out} are complete: run the same command again" in text
  assert not (out / "index.json").exists()
  assert not list(out.rglob("*.tmp*"))
  kept = (out / "train-00000-of-00004.array_record").stat()

  seen = interrupt_after(monkeypatch, 100)
  # What another process left when it was killed.
  (out / "unfinished" / "train-00003-of-00004.array_record.tmp-1").write_bytes(b"x")
  run(source, out)
  assert len(seen) == 12 - 4
  assert "going on: 2 of 6 shards are complete, 4 images" in capsys.readouterr().out
  assert pictures.contents(out) == expected
  assert (out / "train-00000-of-00004.array_record").stat().st_mtime == kept.st_mtime


def test_a_shard_that_was_damaged_meanwhile_is_written_again(
  tmp_path, monkeypatch, whole
):
  source, expected = whole
  out = tmp_path / "out"
  interrupt_after(monkeypatch, 9)
  with pytest.raises(Preempted):
    run(source, out)
  path = out / "train-00001-of-00004.array_record"
  content = bytearray(path.read_bytes())
  content[100] ^= 1
  path.write_bytes(content)
  (out / "unfinished" / "train-00002-of-00004.array_record.json").write_text("{}")
  run(source, out)
  assert pictures.contents(out) == expected


def test_what_has_changed_in_between_is_noticed(tmp_path, monkeypatch, whole):
  source, _ = whole
  out = tmp_path / "out"
  interrupt_after(monkeypatch, 5)
  with pytest.raises(Preempted):
    run(source, out)
  interrupt_after(monkeypatch, 100)
  other = _images.Settings(size=12)
  text = error_of(DataError, run, source, out, settings=other)
  assert f"{out} was begun with size=16, now it is 12" in text
  spoil(source, pictures.encoded(pictures.picture(99)))
  text = error_of(DataError, run, source, out)
  assert f"{source} has changed since the preparation in {out} began" in text


def test_a_file_that_changes_during_the_preparation_is_noticed(tmp_path, monkeypatch):
  source = pictures.write_folder(tmp_path / "photos")
  store = _images.store

  def store_and_change(content, settings):
    spoil(source, pictures.encoded(pictures.picture(99)))
    return store(content, settings)

  monkeypatch.setattr(_shard, "store", store_and_change)
  text = error_of(DataError, run, source, tmp_path / "out")
  assert "train/dog/002.jpg has changed since this preparation began" in text

  def store_and_add(content, settings):
    path = source / "train" / "dog" / "new.jpg"
    path.write_bytes(pictures.encoded(pictures.picture(5)))
    return store(content, settings)

  monkeypatch.setattr(_shard, "store", store_and_add)
  text = error_of(DataError, run, source, tmp_path / "other")
  assert "has changed since the preparation" in text


def test_a_complete_directory_is_left_as_it_is(tmp_path, whole, capsys):
  source, expected = whole
  run(source, tmp_path / "whole")
  assert "is complete already" in capsys.readouterr().out
  assert pictures.contents(tmp_path / "whole") == expected
  with pytest.raises(DataError, match="was begun with size=16, now it is 0"):
    run(source, tmp_path / "whole", settings=_images.Settings(size=0))
  spoil(source)
  with pytest.raises(DataError, match="has changed"):
    run(source, tmp_path / "whole")


def test_one_that_stopped_at_a_faulty_image_goes_on_when_it_may_skip(tmp_path):
  source = pictures.write_folder(tmp_path / "photos")
  path = spoil(source)
  with pytest.raises(DataError, match="002.jpg"):
    run(source, tmp_path / "out")
  index = run(source, tmp_path / "out", on_error="skip")
  assert index.skipped == [
    ("train/dog/002.jpg", "it is no image of a kind that is read here")
  ]
  assert path.exists()


# Processes ----------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
  """A source of several hundred images, and the command that prepares it."""
  source = pictures.write_folder(tmp_path / "photos", train=4, size=(400, 300))
  for path in list((source / "train").rglob("*.jpg")):
    for number in range(60):
      path.with_stem(f"{path.stem}_{number}").write_bytes(path.read_bytes())
  out = tmp_path / "out"
  arguments = [f"--source={source}", f"--out={out}", "--size=64", "--workers=2"]
  command = [sys.executable, "-m", "jaxdistill", "prepare", *arguments]
  return source, out, command


def started(command):
  return subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=runs.ROOT,
    env=runs.environment(),
  )


def wait_for_shards(process, out, more_than=0):
  deadline = time.time() + 100
  while len(list(out.glob("*.array_record"))) <= more_than:
    assert process.poll() is None, process.communicate()
    assert time.time() < deadline
    time.sleep(0.01)


@pytest.mark.slow
def test_killed_and_stopped_it_goes_on_to_the_same_bytes(tmp_path, many):
  source, out, command = many
  process = started(command)
  wait_for_shards(process, out)
  process.kill()
  process.communicate()
  assert not (out / "index.json").exists()

  process = started(command)
  wait_for_shards(process, out, more_than=len(list(out.glob("*.array_record"))))
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate()
  # It may have been done by then.
  assert process.returncode in (0, 75)
  if process.returncode:
    assert errors.startswith("jaxdistill: stopped: ")
    assert "run the same command again to go on" in errors
    assert errors.count("\n") == 1

  process = started(command)
  process.communicate()
  assert process.returncode == 0
  alone = [argument.replace("workers=2", "workers=1") for argument in command]
  alone = [argument.replace(f"--out={out}", f"--out={out}1") for argument in alone]
  process = started(alone)
  process.communicate()
  assert process.returncode == 0
  assert pictures.contents(out) == pictures.contents(tmp_path / "out1")


@pytest.mark.slow
def test_a_process_that_is_killed_is_told(many, monkeypatch):
  source, out, _ = many

  def kill_one():
    while not list(out.glob("*.array_record")):
      time.sleep(0.01)
    for process in prepare.multiprocessing.active_children():
      process.kill()

  threading.Thread(target=kill_one, daemon=True).start()
  text = error_of(OutOfMemoryError, run, source, out, workers=2)
  assert "fewer --workers (now 2)" in text


def test_the_command_says_what_it_does_and_ends_with_its_code(tmp_path, capsys):
  source = pictures.write_folder(tmp_path / "photos")
  arguments = ["prepare", f"--source={source}", f"--out={tmp_path / 'out'}"]
  arguments += ["--size=16", "--workers=1"]
  spoil(source)
  assert commands.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith(f"jaxdistill: error: {source}: train/dog/002.jpg: ")
  assert error.count("\n") == 1
  assert commands.main([*arguments, "--on-error=skip"]) == 0
  assert "1 images were skipped, index.json lists them" in capsys.readouterr().out
  listed = json.loads((tmp_path / "out" / "index.json").read_text())
  assert listed["contents"]["skipped"][0][0] == "train/dog/002.jpg"
