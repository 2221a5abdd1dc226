"""Windows over documents against loops that follow the definition."""

import numpy as np
from absl.testing import absltest, parameterized

from experiments.data import text

_TEXTS = [b"abc", b"", b"defghijk", b"l", b"", b"mnopq", b"r" * 11, b""]


def _slow(texts, separator, length, documents):
  """Each window by the definition: one byte after the other."""
  row = []  # (byte, number of its document)
  for number, document in enumerate(texts):
    last = number == len(texts) - 1
    row += [(byte, number) for byte in document + (b"" if last else separator)]
  for first in range(0, len(row) - 1, length):
    window = {"tokens": [], "labels": [], "segment_ids": []}
    seen = []
    for t in range(first, first + length):
      if t >= len(row) - 1:
        for name, value in zip(window, (0, -1, -1)):
          window[name].append(value)
        continue
      (byte, number), (label, following) = row[t], row[t + 1]
      seen += [] if number in seen else [number]
      window["tokens"].append(byte)
      window["labels"].append(label if number == following or not documents else -1)
      window["segment_ids"].append(seen.index(number))
    yield window


class WindowsTest(parameterized.TestCase):
  @parameterized.product(
    separator=(b"\n", b"", b"--"), length=(1, 4, 7, 100), documents=(False, True)
  )
  def test_definition(self, separator, length, documents):
    source = text.Windows(
      _TEXTS, length=length, separator=separator, documents=documents
    )
    want = list(_slow(_TEXTS, separator, length, documents))
    self.assertLen(source, len(want))
    names = {"tokens", "labels"} | ({"segment_ids"} if documents else set())
    for i, window in enumerate(want):
      example = source[i]
      self.assertEqual(set(example), names)
      for name in names:
        self.assertEqual(example[name].dtype, np.int32)
        self.assertEqual(example[name].tolist(), window[name], f"{name} of {i}")

  def test_each_byte_is_predicted_once(self):
    source = text.Windows(_TEXTS, length=4)
    labels = np.concatenate([source[i]["labels"] for i in range(len(source))])
    joined = b"\n".join(_TEXTS)
    self.assertEqual(bytes(labels[labels >= 0].astype(np.uint8)), joined[1:])

  def test_outside(self):
    source = text.Windows(_TEXTS, length=4)
    for index in (-1, len(source)):
      with self.assertRaisesRegex(IndexError, f"example {index} of {len(source)}"):
        source[index]
    with self.assertRaisesRegex(ValueError, "1 bytes has nothing to predict"):
      text.Windows([b"x"], length=4)

  def test_cuts_are_at_the_nearest_borders(self):
    documents = [b"x" * n for n in (50, 38, 3, 4, 2, 3)]  # borders 50 88 91 95 97 100
    parts = text.contiguous(documents)
    sizes = {split: [len(d) for d in part] for split, part in parts.items()}
    want = {"train": [50, 38, 3], "validation": [4], "test": [2, 3]}
    self.assertEqual(sizes, want)

  def test_decode(self):
    self.assertEqual(text.decode([72, 195, 169, 255, 10]), "Hé�\n")


if __name__ == "__main__":
  absltest.main()
