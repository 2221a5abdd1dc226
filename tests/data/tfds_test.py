"""Data sets of TFDS by name, with small ones that are prepared here."""

import contextlib
import functools
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from tests.data import content, decode, folder
from tests.data.tiny import LINES, TinyImage, TinyText


@functools.cache
def _folder():
  home = f"{folder()}/tfds"
  with contextlib.redirect_stdout(io.StringIO()):
    for builder in (TinyText, TinyImage):
      for config in [c.name for c in builder.BUILDER_CONFIGS] or [None]:
        made = builder(data_dir=home, config=config, file_format="array_record")
        made.download_and_prepare()
  return home


def _load(name, **options):
  return data.load(name, {"cache_dir": _folder(), **options})


class TextTest(parameterized.TestCase):
  def test_missing_splits_are_slices_of_train(self):
    with contextlib.redirect_stderr(io.StringIO()) as said:
      task = _load("tfds:tiny_text", length=10)
    for split, part in (("validation", "train[90%:95%]"), ("test", "train[95%:100%]")):
      line = f"tfds:tiny_text: has no split {split}; it is {part} instead\n"
      self.assertIn(line, said.getvalue())
    lines = [part.decode().split("\n") for part in content(task)]
    self.assertEqual([len(part) for part in lines], [36, 2, 2])
    self.assertEqual(sum(lines, []), LINES)
    self.assertEqual((task.kind, task.vocab), ("tokens", 256))
    self.assertEqual((task.shape, task.metric), ((10,), "bits_per_byte"))
    self.assertEqual(decode(task, task.source("train")[0]["tokens"]), "Line 0 of ")

  def test_feature_and_documents(self):
    task = _load("tfds:tiny_text:1.0.0", feature="title", length=6, documents=True)
    example = task.source("train")[0]
    self.assertEqual(bytes(example["tokens"].astype(np.uint8)), b"none\nn")
    self.assertEqual(example["segment_ids"].tolist(), [0, 0, 0, 0, 0, 1])

  def test_without_the_code_that_prepared_it(self):
    code = f"""
import sys
from experiments import data
task = data.load("tfds:tiny_text", {{"cache_dir": {_folder()!r}}})
print(task.source("test").bytes.tobytes(), "tensorflow" in sys.modules)
"""
    root = Path(__file__).parent.parent.parent
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, cwd=root, check=True)
    want = "\n".join(LINES[38:]).encode()
    self.assertEqual(out.stdout, f"{want!r} False\n")


class ImageTest(absltest.TestCase):
  def test_images(self):
    task = _load("tfds:tiny_image/fixed")
    self.assertEqual((task.kind, task.vocab, task.classes), ("images", 0, 3))
    self.assertEqual((task.shape, task.metric), ((6, 5, 3), "accuracy"))
    sizes = [len(task.source(split)) for split in data.SPLITS]
    self.assertEqual(sizes, [38, 2, 8])  # train loses 5% to validation
    for split, offset in (("train", 0), ("validation", 38), ("test", 0)):
      for i in range(2):
        example = task.source(split)[i]
        self.assertEqual(example["image"].dtype, np.float32)
        want = np.full((6, 5, 3), (i + offset) / 255, np.float32)
        np.testing.assert_array_equal(example["image"], want)
        self.assertEqual(example["label"].dtype, np.int32)
        self.assertEqual(example["label"].shape, ())
        self.assertEqual(example["label"], (i + offset) % 3)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (
      "tfds:mnits",
      {},
      "unknown TFDS set 'mnits'; did you mean mnist.* not prepared in",
    ),
    ("tfds:emnist/nope", {}, "tfds:emnist/nope: .*nope not found"),
    ("tfds:tiny_text", {"feature": "txet"}, "'txet'; did you mean text"),
    ("tfds:tiny_text", {"feature": "n"}, "no n to learn .* are n, text, title"),
    ("tfds:tiny_image/any", {}, "images of different sizes"),
    ("tfds:tiny_image/fixed", {"documents": True}, "text documents"),
    ("tfds:tiny_image/fixed", {"feature": "label"}, "no label to learn from"),
  )
  def test_one_clear_line(self, name, options, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      _load(name, **options)
    self.assertNotIn("\n", str(caught.exception))
    self.assertLess(len(str(caught.exception)), 400)

  def test_files_that_need_tensorflow(self):
    with tempfile.TemporaryDirectory() as other:
      shutil.copytree(_folder(), other, dirs_exist_ok=True)
      info = Path(other, "tiny_text", "1.0.0", "dataset_info.json")
      info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
      with self.assertRaisesRegex(ValueError, "as tfrecord, which needs TensorFlow"):
        data.load("tfds:tiny_text", {"cache_dir": other}).source("train")

  def test_no_network(self):
    unknown = socket.gaierror(-2, "Name or service not known")
    with (
      tempfile.TemporaryDirectory() as other,
      mock.patch.object(socket, "getaddrinfo", side_effect=unknown),
      mock.patch.object(urllib.request, "getproxies", return_value={}),
      self.assertRaisesRegex(OSError, "tfds:mnist cannot be .* no network, the name"),
    ):
      data.load("tfds:mnist", {"cache_dir": other})

  def test_what_its_code_raises(self):
    with (
      tempfile.TemporaryDirectory() as other,
      mock.patch.object(TinyText, "_split_generators", side_effect=KeyError("odd")),
      self.assertRaisesRegex(OSError, "tfds:tiny_text cannot be .* KeyError: 'odd'"),
    ):
      data.load("tfds:tiny_text", {"cache_dir": other})


if __name__ == "__main__":
  absltest.main()
