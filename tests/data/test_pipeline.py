"""Reading images when they are needed, of real files in real formats."""

import itertools
import os

import numpy as np
from PIL import Image
import pytest
from sklearn.datasets import load_sample_images

from jaxdistill.data import Request
from jaxdistill.data._decode import Reading
from jaxdistill.data._files import Files, list_images
from jaxdistill.data._pipeline import Faults, TfReader
from jaxdistill.data.folder import folder
from tests.helpers.data_files import error_of

pytestmark = pytest.mark.slow
pytest.importorskip("tensorflow")

CENTRE = Reading(height=64, width=64, crop="centre", resize=72)
RANDOM = Reading(height=64, width=64, crop="random")
NATIVE = Reading(height=427, width=640, crop="none")


@pytest.fixture(scope="module")
def photograph():
  return Image.fromarray(load_sample_images().images[0])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, photograph):
  """Twelve JPEG files, each another part of a photograph."""
  root = tmp_path_factory.mktemp("photographs")
  random = np.random.default_rng(0)
  for number in range(12):
    left = int(random.integers(0, 300))
    top = int(random.integers(0, 200))
    part = photograph.crop((left, top, left + 200 + number, top + 180))
    part.save(root / f"{number:02d}.jpg", quality=90)
  return Files(root, list_images(root, follow_links=False))


def request(index, draw=None):
  index = np.asarray(index, np.int64)
  draw = np.zeros_like(index) if draw is None else np.asarray(draw, np.int64)
  return Request(index=index, draw=draw)


def read(reader, *requests):
  return [batch.image for batch in reader.batches(requests)]


def as_torchvision(image, reading):
  """Resizes the shorter side and takes the centre, by Pillow."""
  methods = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
  side = reading.resize
  if image.width < image.height:
    size = (side, side * image.height // image.width)
  else:
    size = (side * image.width // image.height, side)
  resized = image.resize(size, methods[reading.interpolation])
  left = round((resized.width - reading.width) / 2)
  top = round((resized.height - reading.height) / 2)
  box = (left, top, left + reading.width, top + reading.height)
  return np.asarray(resized.crop(box)).astype(int)


# Pixels -------------------------------------------------------------------------------


def gray16(photograph):
  gray = np.asarray(photograph.convert("L")).astype(np.uint16)
  return Image.fromarray(gray * 257)


ENCODINGS = {
  "rgb.jpg": lambda image: (image, {"quality": 95}),
  "progressive.jpg": lambda image: (image, {"progressive": True}),
  "gray.jpg": lambda image: (image.convert("L"), {}),
  "cmyk.jpg": lambda image: (image.convert("CMYK"), {}),
  "rotated.jpg": lambda image: (
    image,
    {
      "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    },
  ),
  "rgb.png": lambda image: (image, {}),
  "alpha.png": lambda image: (image.convert("RGBA"), {}),
  "gray_alpha.png": lambda image: (image.convert("LA"), {}),
  "palette.png": lambda image: (image.convert("P"), {}),
  "gray16.png": lambda image: (gray16(image), {}),
  "gray16.tif": lambda image: (gray16(image), {}),
  "rgb.tif": lambda image: (image, {}),
  "rgb.bmp": lambda image: (image, {}),
  "rgb.webp": lambda image: (image, {"lossless": True}),
  "rgb.gif": lambda image: (image, {}),
  "animated.gif": lambda image: (
    image,
    {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]},
  ),
  "png_called.jpg": lambda image: (image, {"format": "PNG"}),
}


def test_every_encoding_gives_the_pixels_that_pillow_gives(tmp_path, photograph):
  expected = []
  for name, encode in ENCODINGS.items():
    image, options = encode(photograph)
    image.save(tmp_path / name, **options)
    stored = Image.open(tmp_path / name)
    if stored.mode.startswith("I;16"):
      stored = Image.fromarray((np.asarray(stored) >> 8).astype(np.uint8))
    expected.append(stored.convert("RGB"))
  files = Files(tmp_path, list(ENCODINGS))
  every = request(range(len(files)))

  # Stored as they are.
  (images,) = read(TfReader(files, NATIVE), every)
  for name, image, pillows in zip(ENCODINGS, images, expected, strict=True):
    difference = np.abs(image.astype(int) - np.asarray(pillows).astype(int))
    # Both decode by libjpeg, but convert CMYK each in its own way.
    assert difference.max() <= (1 if name == "cmyk.jpg" else 0), name

  # Resized: Pillow computes in whole numbers, and rounds between the axes.
  for interpolation, tolerance in (("bilinear", 1), ("bicubic", 7)):
    reading = CENTRE._replace(interpolation=interpolation)
    (images,) = read(TfReader(files, reading), every)
    for name, image, pillows in zip(ENCODINGS, images, expected, strict=True):
      difference = np.abs(image.astype(int) - as_torchvision(pillows, reading))
      assert difference.max() <= tolerance, name
      assert difference.mean() < 0.3, name


def test_another_format_among_jpeg_files_is_read_apart(tmp_path, photograph):
  """A sample of sixteen files says that all are JPEG; one that is not in it differs."""
  names = []
  for number in range(40):
    left = 5 * number
    part = photograph.crop((left, 0, left + 90, 80))
    names.append(f"{number:02d}.jpg")
    part.save(tmp_path / names[-1], format="JPEG")
  odd = 1
  photograph.crop((0, 0, 90, 80)).save(tmp_path / names[odd], format="PNG")
  files = Files(tmp_path, names)
  reader = TfReader(files, RANDOM)
  index = np.arange(40)
  found = read(reader, request(index[:24], index[:24]), request(index[24:], index[24:]))
  assert reader._is_of_jpeg
  assert not reader.faulty
  # A reader whose sample has it takes the branch.
  others = Files(tmp_path, [names[odd], *names[odd + 1 :]])
  branching = TfReader(others, RANDOM)
  (expected,) = read(branching, request(index[:-1], index[1:]))
  assert not branching._is_of_jpeg
  np.testing.assert_array_equal(np.concatenate(found)[1:], expected)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (90, 71), (40, 57), (64, 64)])
def test_the_centre_is_where_torchvision_takes_it(tmp_path, photograph, size):
  image = photograph.resize(size)
  image.save(tmp_path / "1.png")
  ((found,),) = read(TfReader(Files(tmp_path, ["1.png"]), CENTRE), request([0]))
  assert np.abs(found.astype(int) - as_torchvision(image, CENTRE)).max() <= 1


def test_other_shapes_are_covered(tmp_path):
  # Its upper half is black, the lower half is white.
  image = np.zeros((300, 100, 3), np.uint8)
  image[150:] = 255
  Image.fromarray(image).save(tmp_path / "1.png")
  reading = Reading(height=64, width=32, crop="centre", resize=32)
  ((found,),) = read(TfReader(Files(tmp_path, ["1.png"]), reading), request([0]))
  assert found.shape == (64, 32, 3)
  # The width is met, and the middle of the height lies in the middle.
  assert found[:30].max() == 0
  assert found[34:].min() == 255


def test_random_crops_cover_what_they_should(tmp_path):
  """Pixels tell where they come from: their red is the row, their green the column."""
  row, column = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
  ramp = np.stack([row, column, np.zeros_like(row)], axis=-1).astype(np.uint8)
  Image.fromarray(ramp).save(tmp_path / "1.png")
  reader = TfReader(Files(tmp_path, ["1.png"]), RANDOM)
  (images,) = read(reader, request(np.zeros(500), np.arange(500)))
  pixels = images.astype(float)
  heights = (pixels[:, -1, 0, 0] - pixels[:, 0, 0, 0]) * 64 / 63
  widths = (pixels[:, 0, -1, 1] - pixels[:, 0, 0, 1]) * 64 / 63
  areas = heights * widths / 256**2
  ratios = widths / heights
  assert 0.07 < areas.min() < 0.15
  assert 0.9 < areas.max() < 1.03
  # That of a uniform draw is 0.54; wide ones do not always fit.
  assert 0.45 < areas.mean() < 0.56
  assert 0.7 < ratios.min() < 0.8
  assert 1.25 < ratios.max() < 1.4
  assert abs(np.log(ratios).mean()) < 0.03
  # They lie everywhere.
  assert images[:, 0, 0, 0].min() < 5
  assert images[:, -1, 0, 0].max() > 250


# Order and draws ----------------------------------------------------------------------


def test_a_batch_is_a_function_of_its_request(photographs):
  reader = TfReader(photographs, RANDOM, threads=3)
  index = np.arange(48) % 12
  draw = np.arange(48) * 2**40 + 5
  (whole,) = read(reader, request(index, draw))
  assert len({image.tobytes() for image in whole}) == 48
  # Of other sizes, in another order, by another reader, of one thread.
  parts = [slice(0, 5), slice(5, 30), slice(30, 31), slice(31, 48)]
  other = TfReader(photographs, RANDOM, threads=1)
  found = read(other, *[request(index[part], draw[part]) for part in parts])
  assert [len(images) for images in found] == [5, 25, 1, 17]
  np.testing.assert_array_equal(np.concatenate(found), whole)
  backwards = read(reader, request(index[::-1], draw[::-1]))
  np.testing.assert_array_equal(backwards[0][::-1], whole)
  assert reader.digest == other.digest
  assert reader.digest != TfReader(photographs, CENTRE).digest


def test_requests_are_taken_ahead_but_not_all_at_once(photographs):
  taken = []

  def endless():
    for step in itertools.count():
      taken.append(step)
      yield request([step % 12] * 8)

  batches = TfReader(photographs, CENTRE, threads=1).batches(endless())
  for _ in range(3):
    next(batches)
  batches.close()
  assert 3 <= len(taken) < 20
  assert read(TfReader(photographs, CENTRE)) == []


def test_an_error_of_the_requests_comes_out(photographs):
  def failing():
    yield request([0])
    raise KeyError("mine")

  batches = TfReader(photographs, CENTRE).batches(failing())
  assert len(next(batches).image) == 1
  with pytest.raises(KeyError, match="mine"):
    next(batches)


# Faulty images ------------------------------------------------------------------------


def huge_png(path):
  Image.new("1", (20_000, 20_000)).save(path)


def lying_jpeg(path):
  """A header that claims 60,000 x 60,000 pixels."""
  data = bytearray(path.read_bytes())
  frame = data.index(b"\xff\xc0")
  data[frame + 5 : frame + 9] = b"\xea\x60\xea\x60"
  path.write_bytes(data)


FAULTS = {
  "empty": (lambda path: path.write_bytes(b""), "it is empty"),
  "text": (lambda path: path.write_text("an image"), "it is no image"),
  "cut off": (
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "truncated",
  ),
  "missing": (lambda path: path.unlink(), "No such file"),
  "a folder": (lambda path: (path.unlink(), path.mkdir()), "it is a directory"),
  "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "it is a pipe"),
  "huge": (huge_png, "pixels"),
  "a lying header": (lying_jpeg, "pixels"),
}


def some_files(root, photographs):
  for row in range(len(photographs)):
    (content,) = photographs.read([row])
    (root / f"{row:02d}.jpg").write_bytes(content)
  return Files(root, [f"{row:02d}.jpg" for row in range(len(photographs))])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_image_is_named(tmp_path, photographs, fault):
  files = some_files(tmp_path, photographs)
  damage, why = FAULTS[fault]
  damage(tmp_path / "03.jpg")
  message = error_of(read, TfReader(files, CENTRE), request(range(12)))
  assert "03.jpg" in message
  assert why in message
  assert "data.on_error=skip" in message

  # Evaluation leaves it out.
  reader = TfReader(files, CENTRE, faults=Faults(on_error="skip"))
  (batch,) = reader.batches([request(range(12))])
  assert np.flatnonzero(~batch.intact).tolist() == [3]
  assert not batch.image[3].any()
  assert [os.path.basename(name) for name in reader.faulty] == ["03.jpg"]
  (intact,) = read(TfReader(photographs, CENTRE), request(range(12)))
  kept = [row for row in range(12) if row != 3]
  np.testing.assert_array_equal(batch.image[kept], intact[kept])


def test_the_next_intact_image_of_the_class_stands_in(tmp_path, photographs):
  files = some_files(tmp_path, photographs)
  labels = np.arange(12) % 2
  for row in (3, 5, 10):
    (tmp_path / f"{row:02d}.jpg").write_bytes(b"")
  skip = Faults(on_error="skip")
  reader = TfReader(files, RANDOM, labels=labels, faults=skip)
  draw = np.arange(12)
  (images,) = read(reader, request(range(12), draw))
  (intact,) = read(TfReader(photographs, RANDOM), request(range(12), draw))
  stand_in = {3: 7, 5: 7, 10: 0}
  index = [stand_in.get(row, row) for row in range(12)]
  (expected,) = read(TfReader(photographs, RANDOM), request(index, draw))
  np.testing.assert_array_equal(images, expected)
  assert not np.array_equal(images, intact)
  assert len(reader.faulty) == 3
  # Whatever was read before, and in batches of any size.
  other = TfReader(files, RANDOM, labels=labels, faults=skip)
  backwards = [request([row], [row]) for row in reversed(range(12))]
  found = np.concatenate(read(other, *backwards))[::-1]
  np.testing.assert_array_equal(found, images)
  # A class that has nothing else.
  alone = np.where(np.arange(12) == 3, 1, 0)
  message = error_of(
    read, TfReader(files, CENTRE, labels=alone, faults=skip), request([3])
  )
  assert "nor any other image of its class" in message


def test_too_many_faulty_images_end_the_run(tmp_path, photographs):
  files = some_files(tmp_path, photographs)
  for row in range(11):
    (tmp_path / f"{row:02d}.jpg").write_bytes(b"")
  reader = TfReader(files, CENTRE, faults=Faults(on_error="skip"))
  message = error_of(read, reader, request(range(12)))
  assert "nor 10 others, where 10 of 12 may be skipped" in message
  more = Faults(on_error="skip", fraction=0.95)
  (batch,) = TfReader(files, CENTRE, faults=more).batches([request(range(12))])
  assert batch.intact.tolist() == [False] * 11 + [True]


# Folders ------------------------------------------------------------------------------


def test_a_folder_of_small_images_stays_as_it_is(tmp_path):
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (2, 6, 32, 32, 3), np.uint8)
  for label, of_class in enumerate(images):
    (tmp_path / f"class{label}").mkdir()
    for number, image in enumerate(of_class):
      Image.fromarray(image).save(tmp_path / f"class{label}" / f"{number}.png")
  loaded = folder(dir=str(tmp_path), test_fraction=0.34)
  flat = images.reshape(12, 32, 32, 3)
  for split in (loaded.train, loaded.test):
    (found,) = read(split.reader, request(split.rows))
    np.testing.assert_array_equal(found, flat[split.rows])
  pixels = flat[loaded.train.rows].reshape(-1, 3) / 255
  np.testing.assert_allclose(loaded.mean, pixels.mean(axis=0), rtol=0, atol=1e-4)
  np.testing.assert_allclose(loaded.std, pixels.std(axis=0), rtol=0, atol=1e-4)

  Image.new("RGB", (31, 32)).save(tmp_path / "class1" / "5.png")
  message = error_of(folder, dir=str(tmp_path), test_fraction=0.34, seed=1)
  assert "5.png" in message
  assert "it is 32x31 and damaged, or of another size" in message
