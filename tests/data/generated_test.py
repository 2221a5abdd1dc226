"""Generated tasks against their rules, followed literally."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data


def _mqar_queries(example, vocab, length, pairs, filled):
  """Checks the rules of one example; returns the gap of each pair's slot, from 1."""
  tokens, labels = example["tokens"].tolist(), example["labels"].tolist()
  keys, values = tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2]
  assert len(set(keys)) == pairs and all(1 <= k <= vocab // 2 - 1 for k in keys)
  assert len(set(values)) == pairs and all(vocab // 2 <= v < vocab for v in values)
  assert all(label == -1 for label in labels[: 2 * pairs])
  gaps = {}
  for t in range(2 * pairs, length):
    assert 0 <= tokens[t] < vocab
    if labels[t] == -1:
      assert filled or tokens[t] == 0
      continue
    assert (t - 2 * pairs) % 2 == 0
    assert labels[t] == values[keys.index(tokens[t])]
    gaps[keys.index(tokens[t])] = 1 + (t - 2 * pairs) // 2
  assert sorted(gaps) == list(range(pairs))
  return [gaps[i] for i in range(pairs)]


def _slot_probabilities(slots, pairs, power):
  """P(pair i in slot g) by enumeration of all draws without replacement."""
  weight = [power * g ** (power - 1) for g in range(1, slots + 1)]
  table = np.zeros((pairs, slots))
  for draw in itertools.permutations(range(slots), pairs):
    left, chance = sum(weight), 1.0
    for g in draw:
      chance *= weight[g] / left
      left -= weight[g]
    table[range(pairs), draw] += chance
  return table


class RecallTest(parameterized.TestCase):
  @parameterized.parameters(
    (256, 64, 8, True), (256, 64, 8, False), (10, 16, 4, True), (9, 12, 3, False)
  )
  def test_rules(self, vocab, length, pairs, filled):
    options = {"vocab": vocab, "length": length, "pairs": pairs}
    task = data.load("mqar", {**options, "random_non_queries": filled})
    self.assertEqual((task.kind, task.vocab, task.shape), ("tokens", vocab, (length,)))
    self.assertEqual((task.metric, task.decode), ("accuracy", None))
    for split in data.SPLITS:
      source = task.source(split)
      self.assertLen(source, 100_000 if split == "train" else 1_000)
      for i in range(50):
        self.assertEqual(source[i]["tokens"].dtype, np.int32)
        self.assertEqual(source[i]["labels"].dtype, np.int32)
        _mqar_queries(source[i], vocab, length, pairs, filled)

  @parameterized.parameters(0.01, 0.5, 1.0)
  def test_slots_follow_the_power_law(self, power):
    vocab, length, pairs, number = 20, 20, 3, 1500
    options = {"vocab": vocab, "length": length, "pairs": pairs, "power": power}
    source = data.load("mqar", options).source("train")
    count = np.zeros((pairs, length // 2 - pairs))
    for i in range(number):
      gaps = _mqar_queries(source[i], vocab, length, pairs, True)
      count[range(pairs), np.array(gaps) - 1] += 1
    want = _slot_probabilities(length // 2 - pairs, pairs, power)
    # Five standard deviations of a frequency.
    np.testing.assert_array_less(
      np.abs(count / number - want), 5 * np.sqrt(want * (1 - want) / number)
    )

  def test_all_symbols_are_used(self):
    options = {"vocab": 12, "length": 16, "pairs": 2}
    source = data.load("mqar", options).source("train")
    examples = [source[i]["tokens"] for i in range(300)]
    self.assertEqual({int(t[0]) for t in examples}, set(range(1, 6)))
    self.assertEqual({int(t[1]) for t in examples}, set(range(6, 12)))
    self.assertEqual({int(x) for t in examples for x in t[4:]}, set(range(12)))

  @parameterized.parameters(
    ({"pairs": 17}, "pairs = 17 need a length of 4 x 17 = 68.*length = 64"),
    ({"vocab": 16}, "pairs = 8 .* a vocab of 18; vocab = 16"),
    ({"length": 65}, "length = 65; .* even"),
    ({"pairs": 0}, "pairs = 0"),
    ({"power": 0.0}, "power = 0.0"),
    ({"examples": 0}, "examples = 0; it must be at least 1"),
    ({"seed": -1}, "seed = -1; it must be at least 0"),
  )
  def test_what_does_not_fit(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load("mqar", options)


class InductionTest(parameterized.TestCase):
  @parameterized.parameters((16, 64), (5, 7), (2, 3))
  def test_rules(self, vocab, length):
    source = data.load("induction", {"vocab": vocab, "length": length}).source("train")
    places, symbols = set(), set()
    for i in range(600):
      example = source[i]
      tokens, labels = example["tokens"].tolist(), example["labels"].tolist()
      self.assertEqual((len(tokens), len(labels)), (length, length))
      self.assertEqual(tokens.count(vocab - 1), 2)
      self.assertEqual(tokens[-1], vocab - 1)
      place = tokens.index(vocab - 1)
      self.assertEqual(labels, [-1] * (length - 1) + [tokens[place + 1]])
      places.add(place)
      symbols |= set(tokens)
    self.assertEqual(places, set(range(length - 2)))
    self.assertEqual(symbols, set(range(vocab)))

  def test_what_does_not_fit(self):
    with self.assertRaisesRegex(ValueError, "length = 2; it must be at least 3"):
      data.load("induction", {"length": 2})


class PurityTest(parameterized.TestCase):
  @parameterized.parameters("mqar", "induction")
  def test_of_seed_split_and_index(self, name):
    def example(seed, split, index):
      options = {"seed": seed, "examples": 50, "held_out": 50}
      return data.load(name, options).source(split)[index]["tokens"].tobytes()

    keys = [(seed, s, i) for seed in (0, 1, 7) for s in data.SPLITS for i in (0, 1, 49)]
    first = [example(*key) for key in keys]
    again = [example(*key) for key in reversed(keys)]
    self.assertEqual(first, again[::-1])
    self.assertLen(set(first), len(keys))

  @parameterized.parameters("mqar", "induction")
  def test_ends(self, name):
    source = data.load(name, {"held_out": 5}).source("test")
    self.assertLen([source[i] for i in range(len(source))], 5)
    with self.assertRaises(IndexError):
      source[5]


if __name__ == "__main__":
  absltest.main()
