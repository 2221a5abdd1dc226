"""Generated sequence tasks: examples by hand, and their labels told from the tokens."""

import re
from typing import Any
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import haystack, matching
from experiments.data.sets import (
  compression,
  listops,
  match2,
  match3,
  memorization,
  modular_counting,
  needle,
  parity,
  s3_words,
  selective_copying,
  sorting,
)
from tests.data import pure

NAMES = (
  "in_context_recall noisy_recall fuzzy_recall memorization compression"
  " selective_copying parity modular_counting s3_words listops needle match2 match3"
  " sorting needle_multi_key needle_multi_value needle_multi_query variable_tracking"
  " common_words chained_lookup"
).split()


class Dealt:
  """A random generator whose draws are given."""

  def __init__(self, *draws):
    self.draws = [np.array(draw) for draw in draws]

  def integers(self, *_, dtype=np.int64, **__):
    return self.draws.pop(0).astype(dtype)

  def choice(self, *_, **__):
    return self.draws.pop(0)


def dealt(*draws) -> Any:
  return Dealt(*draws)


def examples(name, count, split="test", **options):
  """Lists of tokens and labels, each list (count, length)."""
  source = data.load(name, options).source(split)
  found = [source[i] for i in range(count)]
  for example in found:
    assert set(example) == {"tokens", "labels"}
    assert example["tokens"].dtype == example["labels"].dtype == np.int32
  return [(e["tokens"].tolist(), e["labels"].tolist()) for e in found]


class ByHandTest(parameterized.TestCase):
  def check(self, example, tokens, labels):
    self.assertEqual(example["tokens"].tolist(), tokens)
    self.assertEqual(example["labels"].tolist(), labels)

  def test_parity(self):
    got = parity.example(dealt([1, 0, 1, 1, 0]), length=5)
    self.check(got, [1, 0, 1, 1, 0], [1, 1, 0, 1, 1])

  def test_modular_counting(self):
    got = modular_counting.example(dealt([2, 2, 1, 0, 1]), vocab=3, length=5, modulus=3)
    self.check(got, [2, 2, 1, 0, 1], [2, 1, 2, 2, 0])

  def test_s3_words(self):
    # (1,0,2) after (0,2,1) is (1,2,0), number 3; its square is (2,0,1), 4; its cube 0.
    got = s3_words.example(dealt([1, 2, 3, 3]), length=4, swaps=False)
    self.check(got, [1, 2, 3, 3], [1, 3, 4, 0])
    got = s3_words.example(dealt([2, 1]), length=2, swaps=False)
    self.check(got, [2, 1], [2, 4])

  def test_match2(self):
    for causal, want in ((False, [1, 1, 0, 0]), (True, [0, 1, 0, 0])):
      got = matching.example(
        dealt([1, 4, 2, 2]), rule=match2._rule, vocab=5, length=4, causal=causal
      )
      self.check(got, [1, 4, 2, 2], want)

  def test_match3(self):
    # 1 + 2 + 4 = 7.
    for causal, want in ((False, [1, 1, 1]), (True, [0, 0, 1])):
      got = matching.example(
        dealt([1, 2, 4]), rule=match3._rule, vocab=7, length=3, causal=causal
      )
      self.check(got, [1, 2, 4], want)

  def test_sorting(self):
    got = sorting.example(dealt([5, 2, 5, 0]), vocab=7, length=8, repeats=True)
    self.check(got, [5, 2, 5, 0, 6, 0, 2, 5], [-1, -1, -1, -1, 0, 2, 5, 5])

  def test_selective_copying(self):
    got = selective_copying.example(
      dealt([3, 1], [4, 2]), vocab=6, length=8, copied=2, selective=True
    )
    self.check(got, [4, 4, 3, 4, 1, 5, 4, 4], [-1] * 6 + [3, 1])
    got = selective_copying.example(
      dealt([3, 1]), vocab=6, length=8, copied=2, selective=False
    )
    self.check(got, [3, 1, 4, 4, 4, 5, 4, 4], [-1] * 6 + [3, 1])

  def test_compression(self):
    got = compression.example(dealt([2, 0, 1]), vocab=4, length=7)
    self.check(got, [2, 0, 1, 3, 4, 5, 6], [-1, -1, -1, -1, 2, 0, 1])

  def test_memorization(self):
    values = np.array([6, 4, 3])
    got = memorization.example(dealt([1, 0]), vocab=8, length=4, value_of=values)
    self.check(got, [1, 7, 0, 7], [-1, 4, -1, 6])

  def test_listops(self):
    for operator, values, want in (
      (listops.MIN, [4, 2, 9], 2),
      (listops.MAX, [4, 2, 9], 9),
      (listops.MED, [4, 2, 9], 4),
      (listops.MED, [1, 4], 2),
      (listops.SM, [8, 7, 9], 4),
    ):
      self.assertEqual(listops.apply(operator, values), want)
    # [MAX 2 [MIN 9 7 ] [SM 8 8 ] ]
    self.assertEqual(_value([11, 2, 10, 9, 7, 14, 13, 8, 8, 14, 14]), (7, []))

  def test_needle(self):
    text = b"One. Two three. Four"
    for share, place in ((0.0, 0), (0.1, 0), (0.3, 5), (0.6, 16), (1.0, 16)):
      self.assertEqual(haystack.boundary(text, share), place)
    self.assertEqual(haystack.boundary(b"a\nbcd", 0.5), 2)
    name, code = [ord(c) for c in "ab"], [ord(c) for c in "407"]
    got = needle.example(
      dealt(name, code),
      hay=lambda rng, size: b"It is so. " + b"x" * (size - 10),
      length=64,
      letters=2,
      digits=3,
      depth=0.9,
    )
    text = b"It is so. The code of ab is 407. xxxxxxxxxx\nThe code of ab is 40"
    self.check(got, list(text), [-1] * 61 + code)


def _value(tokens):
  """(value, rest) of the tree at the beginning of the tokens."""
  first, *rest = tokens
  if first < 10:
    return first, rest
  values = []
  while rest[0] != 14:
    value, rest = _value(rest)
    values.append(value)
  values.sort()
  middle = values[(len(values) - 1) // 2] + values[len(values) // 2]
  result = [values[0], values[-1], middle // 2, sum(values) % 10]
  return result[first - 10], rest[1:]


def _motifs(tokens, keys, values):
  """[(key, value, place of the value)] of symbols below keys, and below values."""
  found, place = [], 0
  while place < len(tokens):
    if tokens[place] >= values:
      place += 1
      continue
    middle = next(i for i in range(place, len(tokens)) if tokens[i] >= keys)
    end = middle
    while end < len(tokens) and keys <= tokens[end] < values:
      end += 1
    found.append((tuple(tokens[place:middle]), tuple(tokens[middle:end]), middle))
    place = end
  return found


class FromTokensTest(parameterized.TestCase):
  """Solves examples by the tokens alone; each solver is another program."""

  @parameterized.parameters(
    ("in_context_recall", 16, 128, 0, True),
    ("in_context_recall", 9, 20, 0, False),
    ("noisy_recall", 32, 128, 16, True),
    ("noisy_recall", 21, 30, 8, False),
  )
  def test_recall(self, name, vocab, length, noise, multi):
    options = {"vocab": vocab, "length": length, "multi_query": multi}
    if name == "noisy_recall":
      options |= {"noise_vocab": noise, "noise": 0.4}
    content = vocab - noise - (not multi)
    noisy = total = 0
    for tokens, labels in examples(name, 60, **options):
      want, value_of = [-1] * length, {}
      pairs = tokens if multi else tokens[:-2]
      self.assertEqual(multi, pairs == tokens or tokens[-2] != vocab - 1)
      for t in range(0, len(pairs) - 1, 2):
        key, value = pairs[t : t + 2]
        total += 1
        if key >= content:
          self.assertBetween(min(key, value), content, content + noise - 1)
          noisy += 1
          continue
        self.assertLess(key, content // 2)
        self.assertBetween(value, content // 2, content - 1)
        if multi and key in value_of:
          want[t] = value
        self.assertEqual(value_of.setdefault(key, value), value)
      if not multi:
        want[-1] = value_of[tokens[-1]]
      self.assertEqual(labels, want)
      self.assertNotEqual(want[-2 if multi else -1], -1)
    if noise:
      self.assertAlmostEqual(noisy / total, 0.4 * (1 - 2 / length * 2), delta=0.06)

  @parameterized.parameters((16, 128, 3, 3, True), (12, 40, 2, 3, False))
  def test_fuzzy_recall(self, vocab, length, key_size, value_size, multi):
    sizes = {"key_size": key_size, "value_size": value_size, "multi_query": multi}
    content = vocab - 2 + multi
    key_sizes, value_sizes = set(), set()
    for tokens, labels in examples(
      "fuzzy_recall", 60, vocab=vocab, length=length, **sizes
    ):
      # The last symbol of the last value is only a label.
      pairs = _motifs([*tokens, labels[-1]], content // 2, content)
      want, value_of = [-1] * (length + 1), {}
      for key, value, place in pairs:
        self.assertLen(set(key), len(key))
        self.assertLen(set(value), len(value))
        key_sizes.add(len(key))
        value_sizes.add(len(value))
        if key in value_of and (multi or place == pairs[-1][2]):
          want[place : place + len(value)] = value
        self.assertEqual(value_of.setdefault(key, value), value)
      self.assertEqual(labels, want[1:])
      self.assertNotEqual(labels[-1], -1)
      padding = content if not multi else vocab - 1
      self.assertNotIn(padding, tokens[tokens.count(padding) :])
      self.assertEqual(tokens.count(content + 1), int(not multi))
    self.assertEqual(key_sizes, {key_size})
    self.assertEqual(value_sizes, set(range(1, value_size + 1)))
    train = examples("fuzzy_recall", 20, "train", vocab=vocab, length=length, **sizes)
    motifs = [_motifs([*t, y[-1]], content // 2, content) for t, y in train]
    sizes = {len(key) for pairs in motifs for key, _, _ in pairs}
    self.assertEqual(sizes, set(range(1, key_size + 1)))
    for pairs in motifs:
      self.assertIn(pairs[-1][:2], [pair[:2] for pair in pairs[:-1]])

  @parameterized.parameters("in_context_recall", "noisy_recall", "fuzzy_recall")
  def test_training_on_every_token(self, name):
    for tokens, labels in examples(name, 5, "train"):
      self.assertEqual(labels[:-1], tokens[1:])
    for _, labels in examples(name, 5, "train", every_token=False):
      self.assertIn(-1, labels[:-1])

  def test_memorization(self):
    value_of, split_keys = {}, {}
    for split in data.SPLITS:
      for tokens, labels in examples("memorization", 50, split, vocab=30):
        self.assertEqual(tokens[1::2] + labels[::2], [29] * 16 + [-1] * 16)
        for key, value in zip(tokens[::2], labels[1::2]):
          self.assertEqual(value_of.setdefault(key, value), value)
        split_keys.setdefault(split, set()).update(tokens[::2])
    self.assertEqual(set(value_of), set(range(14)))
    self.assertLen(set(value_of.values()), 14)
    self.assertContainsSubset(value_of.values(), range(14, 29))
    for keys in split_keys.values():
      self.assertEqual(keys, set(value_of))
    other = memorization.mapping(30, 1).tolist()
    self.assertNotEqual(other, [value_of[key] for key in range(14)])

  def test_compression(self):
    for tokens, labels in examples("compression", 20):
      want = [-1] * 32 + [tokens[t - 16] for t in tokens[32:]]
      self.assertEqual((tokens[31], labels), (15, want))
      self.assertLess(max(tokens[:31]), 15)
    self.assertEqual(data.load("compression").vocab, 16 + 31)

  def test_selective_copying(self):
    places = np.zeros(55)
    for tokens, labels in examples("selective_copying", 400):
      content = [t for t in tokens if t < 14]
      self.assertEqual(labels, [-1] * 56 + content)
      self.assertEqual(tokens[55:], [15] + [14] * 8)
      places += np.array(tokens[:55]) < 14
    share = 8 / 55
    deviation = np.sqrt(400 * share * (1 - share))
    self.assertLess(np.abs(places - 400 * share).max(), 5 * deviation)

  def test_prefix_tasks(self):
    for tokens, labels in examples("parity", 50):
      self.assertEqual(labels, [sum(tokens[: t + 1]) % 2 for t in range(40)])
    for tokens, labels in examples("modular_counting", 50, vocab=4, modulus=5):
      self.assertEqual(labels, [sum(tokens[: t + 1]) % 5 for t in range(40)])
      self.assertBetween(max(tokens), 0, 3)
    self.assertEqual(data.load("modular_counting", {"vocab": 4, "modulus": 5}).vocab, 5)
    for swaps, drawn in ((False, {0, 1, 2, 3, 4, 5}), (True, {0, 1, 2, 5})):
      used = set()
      for tokens, labels in examples("s3_words", 50, swaps=swaps):
        used |= set(tokens)
        matrix = np.eye(3)
        for token, label in zip(tokens, labels):
          matrix = np.eye(3)[:, list(s3_words.PERMUTATIONS[token])] @ matrix
          state = tuple(matrix.argmax(axis=0).tolist())
          self.assertEqual(s3_words.PERMUTATIONS[label], state)
      self.assertEqual(used, drawn)

  def test_listops(self):
    for tokens, labels in examples("listops", 60):
      tree = [t for t in tokens if t != 15]
      self.assertEqual(tokens, [15] * (200 - len(tree)) + tree)
      self.assertBetween(len(tree), 20, 200)
      value, rest = _value(tree)
      self.assertEqual((labels, rest), ([-1] * 199 + [value], []))

  def test_the_trees_of_listops(self):
    options = {"length": 160, "shortest": 4, "depth": 3, "arguments": 4}
    operators, nested, leaves, deepest = np.zeros(4), 0, 0, 0
    sizes = {2: 0, 3: 0, 4: 0}
    for tokens, _ in examples("listops", 500, **options):
      depth, counts = 0, []
      for t in (t for t in tokens if t != 15):
        if t == 14:
          sizes[counts.pop()] += 1
          depth -= 1
          continue
        if depth == 1:
          nested, leaves = nested + (t >= 10), leaves + (t < 10)
        if counts:
          counts[-1] += 1
        if t >= 10:
          operators[t - 10] += 1
          counts.append(0)
          depth += 1
        deepest = max(deepest, depth + (t < 10))
    self.assertEqual(deepest, 3)
    self.assertAlmostEqual(nested / (nested + leaves), 0.25, delta=0.06)
    np.testing.assert_allclose(operators / operators.sum(), 0.25, atol=0.06)
    np.testing.assert_allclose(
      np.array([*sizes.values()]) / sum(sizes.values()), 1 / 3, atol=0.08
    )

  @parameterized.parameters((2, True), (2, False), (3, True), (3, False))
  def test_match(self, terms, causal):
    options = {"vocab": 29, "length": 9, "causal": causal}
    ones = 0
    for tokens, labels in examples(f"match{terms}", 60, **options):
      self.assertBetween(min(tokens), 1, 28)
      self.assertLess(max(tokens), 29)
      for i, label in enumerate(labels):
        seen = tokens[: i + 1] if causal else tokens
        sums = {0}
        for _ in range(terms - 1):
          sums = {(a + x) % 29 for a in sums for x in seen}
        self.assertEqual(label, int((29 - tokens[i]) in sums))
        ones += label
    self.assertBetween(ones, 30, 510)

  def test_sorting(self):
    for repeats in (True, False):
      options = {"vocab": 17, "repeats": repeats}
      for tokens, labels in examples("sorting", 20, **options):
        self.assertEqual(labels, [-1] * 16 + sorted(tokens[:16]))
        self.assertEqual(tokens[16:], [16, *labels[16:-1]])
        self.assertEqual(repeats, len(set(tokens[:16])) < 16)

  @parameterized.parameters(-1.0, 0.0, 0.5, 1.0)
  def test_needle(self, depth):
    places = []
    for tokens, labels in examples("needle", 20, depth=depth):
      text = bytes(tokens).decode()
      asked = re.search(r"\nThe code of (\w{6}) is (\d{5})$", text)
      assert asked
      [told] = re.finditer(rf"The code of {asked[1]} is (\d{{6}})\. ", text)
      self.assertEqual(labels, [-1] * 250 + [ord(c) for c in told[1]])
      self.assertEqual(asked[2], told[1][:5])
      self.assertTrue(told.start() == 0 or text[: told.start()].endswith(". "))
      places.append(told.start() / (asked.start() - len(told[0])))
    if depth >= 0:
      np.testing.assert_allclose(places, depth, atol=0.3)
    else:
      self.assertGreater(np.std(places), 0.2)

  def test_needle_in_a_corpus(self):
    texts = {split: f"{split} says. ".encode() * 40 for split in data.SPLITS}
    corpus = mock.Mock()
    corpus.source = lambda split: mock.Mock(bytes=np.frombuffer(texts[split], np.uint8))
    with mock.patch.object(haystack.data, "load", return_value=corpus) as load:
      task = needle.task(corpus="kjv", cache_dir="here", length=120)
      load.assert_not_called()  # before an example is asked for
      for split in data.SPLITS:
        text = bytes(task.source(split)[0]["tokens"].tolist())
        self.assertIn(split.encode(), text)
      load.assert_called_with("kjv", {"cache_dir": "here"})
      with self.assertRaisesRegex(ValueError, "haystack of 9942 bytes; kjv, split"):
        needle.task(corpus="kjv", length=10_000).source("test")[0]


class AllTest(parameterized.TestCase):
  @parameterized.parameters(*NAMES)
  def test_pure_in_seed_split_and_index(self, name):
    pure.check(self, name, ("tokens", "labels"))

  @parameterized.parameters(*NAMES)
  def test_a_task_is_its_description(self, name):
    task = data.load(name)
    self.assertEqual((task.name, task.kind, task.classes), (name, "tokens", 0))
    self.assertEqual((task.metric, task.decode), ("accuracy", None))
    example = task.source("train")[0]
    for array in example.values():
      self.assertEqual(array.shape, task.shape)
      self.assertLess(array.max(), task.vocab)
    self.assertGreaterEqual(example["tokens"].min(), 0)
    self.assertGreaterEqual(example["labels"].min(), -1)
    self.assertGreater(example["labels"].max(), -1)

  @parameterized.parameters(
    ("in_context_recall", {"length": 7}, "length = 7; .* even"),
    ("in_context_recall", {"length": 2}, "length = 2; it must be at least 4"),
    ("in_context_recall", {"vocab": 1}, "vocab = 1 leaves 1 keys"),
    ("noisy_recall", {"vocab": 17}, "vocab = 17 leaves 1 .*noise_vocab = 16"),
    ("noisy_recall", {"noise": 1.0}, "noise = 1.0; .* below 1"),
    ("noisy_recall", {"noise_vocab": 0}, "noise = 0.2 needs a noise_vocab"),
    ("noisy_recall", {"noise_vocab": -1, "noise": 0.0}, "noise_vocab = -1"),
    ("fuzzy_recall", {"length": 17}, r"length = 17; .* 3 x \(3 \+ 3\) = 18"),
    ("fuzzy_recall", {"vocab": 6}, "key_size = 3 .*vocab = 6 has 2 of keys"),
    ("fuzzy_recall", {"key_size": 0}, "key_size = 0"),
    ("memorization", {"vocab": 2}, "vocab = 2; it must be at least 3"),
    ("memorization", {"length": 5}, "length = 5; .* even"),
    ("memorization", {"seed": -1}, "seed = -1"),
    ("compression", {"length": 32}, "length = 32; .* odd"),
    ("selective_copying", {"copied": 32}, "copied = 32 .* = 65; length = 64"),
    ("parity", {"length": 0}, "length = 0"),
    ("modular_counting", {"modulus": 1}, "modulus = 1"),
    ("s3_words", {"length": 0}, "length = 0"),
    ("listops", {"depth": 2, "shortest": 8}, "shortest = 8; .* has 7 tokens"),
    ("listops", {"length": 19}, "length = 19; it must be at least 20"),
    ("listops", {"arguments": 1}, "arguments = 1"),
    ("needle", {"length": 57}, "length = 57; .* have 58 bytes"),
    ("needle", {"depth": 1.5}, "depth = 1.5"),
    ("needle", {"corpus": "mqar"}, "corpus = 'mqar'; it must be one of sentences"),
    ("match2", {"vocab": 36}, "vocab = 36; .* odd"),
    ("match3", {"length": 0}, "length = 0"),
    ("sorting", {"length": 9}, "length = 9; .* even"),
    ("sorting", {"vocab": 16, "repeats": False}, "vocab of 17; vocab = 16"),
    ("sorting", {"examples": 0}, "examples = 0"),
  )
  def test_what_does_not_fit(self, name, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load(name, options)

  def test_the_smallest_sizes(self):
    for name, options in (
      ("in_context_recall", {"vocab": 2, "length": 4}),
      ("noisy_recall", {"vocab": 3, "length": 4, "noise_vocab": 1}),
      ("fuzzy_recall", {"vocab": 7, "length": 18}),
      ("memorization", {"vocab": 3, "length": 2}),
      ("compression", {"vocab": 2, "length": 3}),
      ("selective_copying", {"vocab": 3, "length": 17}),
      ("listops", {"depth": 2, "shortest": 7, "length": 7}),
      ("needle", {"length": 58}),
      ("match2", {"vocab": 3, "length": 1}),
      ("sorting", {"vocab": 3, "length": 2}),
    ):
      for split in ("train", "test"):
        self.assertLen(examples(name, 20, split, **options), 20)

  def test_a_tree_that_is_never_drawn(self):
    with mock.patch.object(listops, "_TRIES", 10):
      source = data.load("listops", {"shortest": 187, "depth": 4}).source("test")
      with self.assertRaisesRegex(ValueError, "none of 10 trees.* shortest = 187"):
        source[0]


if __name__ == "__main__":
  absltest.main()
