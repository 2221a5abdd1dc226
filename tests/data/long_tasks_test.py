"""Long-context tasks: examples by hand, labels told from the tokens, longer tests."""

import re
from typing import Any

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import haystack, needles
from experiments.data.sets import chained_lookup, common_words, variable_tracking
from tests.data.sequence_tasks_test import Dealt, examples

_NEEDLES = "needle_multi_key needle_multi_value needle_multi_query".split()
_NAMES = [*_NEEDLES, "variable_tracking", "common_words", "chained_lookup"]


class _Dealt(Dealt):
  def random(self, *_):
    return self.draws.pop(0)

  def permutation(self, drawn) -> Any:
    del drawn
    return self.draws.pop(0)


def _dealt(*draws) -> Any:
  return _Dealt(*draws)


class ByHandTest(parameterized.TestCase):
  def check(self, example, tokens, labels):
    self.assertEqual(example["tokens"].tolist(), list(tokens))
    self.assertEqual(example["labels"].tolist(), labels)

  def test_sentences_are_inserted_before_their_places(self):
    text = haystack.inserted(b"abcd", [(0, b"1"), (2, b"2"), (2, b"3"), (4, b"4")])
    self.assertEqual(text, b"1ab23cd4")

  def test_needles(self):
    # Keys "ab" and "ba", of two values each; the second is told first.
    codes = np.array([ord(c) for c in "12345678"]).reshape(2, 2, 2)
    rng = _dealt([1, 26], codes, [[0.9, 0.1], [0.0, 1.0]])
    got = needles.example(
      rng,
      hay=lambda rng, size: b"It is. " + b"x" * (size - 7),
      length=130,
      letters=2,
      digits=2,
      depth=-1.0,
      keys=2,
      values=2,
      queries=1,
    )
    text = (
      b"The code of ab is 34. The code of ba is 56. It is. The code of ab is 12. The"
      b" code of ba is 78. xxxxxxxxxxx\nThe code of ab is 34, 1"
    )
    answers = [ord(c) for c in "3412"]
    self.check(got, text, [-1] * 124 + answers[:2] + [-1, -1] + answers[2:])

  def test_variable_tracking(self):
    # Noise 0-3, names 4-8, values 9-10, SET 11, ASK 12; chains 6 <- 4 and 8 <- 5.
    rng = _dealt([[0, 2], [1, 4]], [1, 0], [0, 2, 3, 4], [3] * 17, [1, 0, 0, 1])
    got = variable_tracking.example(
      rng, length=17, chains=2, hops=1, names=5, values=2, noise=4
    )
    tokens = [11, 5, 9, 3, 11, 4, 10, 11, 6, 4, 11, 8, 5, 3, 12, 10, 4]
    self.check(got, tokens, [-1] * 15 + [4, 6])

  def test_common_words(self):
    class Ordered(_Dealt):
      def permutation(self, drawn) -> Any:
        return drawn[::-1]

    rng: Any = Ordered([5, 1, 3])
    got = common_words.example(rng, vocab=8, length=10, common=2, others=1, ratio=3)
    # 8 tokens: 8 x 3 // 7 = 3 of each common word, 2 of the other.
    self.check(got, [3, 3, 1, 1, 1, 5, 5, 5, 7, 1], [-1] * 8 + [1, 5])

  def test_counts_of_words(self):
    self.assertEqual(common_words.counts(128, 3, 12, 5)[:3].tolist(), [23] * 3)
    for length in range(34, 300):
      times = common_words.counts(length, 3, 12, 5)
      self.assertEqual(times.sum(), length - 3)
      self.assertLessEqual(np.ptp(times[3:]), 1)
      self.assertEqual(times[0], int((length - 3) * 5 / 27 + 1e-9))

  def test_chained_lookup(self):
    rng = _dealt([2, 0, 1], [1, 0, 2], [3, 0, 1], [0] * 9, 1)
    got = chained_lookup.example(rng, length=9, facts=3, hops=2, noise=2)
    # The cycle is 2, 0, 1; noise is 3.
    self.check(got, [0, 1, 2, 0, 3, 1, 2, 0, 1], [-1] * 7 + [1, 2])


class FromTokensTest(parameterized.TestCase):
  """Solves examples by the tokens alone; each solver is another program."""

  @parameterized.product(name=_NEEDLES, depth=(-1.0, 0.0, 0.7))
  def test_needles(self, name, depth):
    places = []
    for tokens, labels in examples(name, 12, depth=depth):
      text = bytes(tokens).decode()
      body, asked = text.rsplit("\n", 1)
      told: dict[str, list[str]] = {}
      for found in re.finditer(r"The code of (\w{6}) is (\d{6})\. ", body):
        told.setdefault(found[1], []).append(found[2])
      keys, values = (1, 4) if name == "needle_multi_value" else (4, 1)
      self.assertEqual([len(own) for own in told.values()], [values] * keys)
      whole = asked + chr(labels[-1])
      want, last = [-1] * len(text), 0
      answers = re.findall(r"The code of (\w{6}) is ([\d, ]+)", whole)
      self.assertLen(answers, 4 if name == "needle_multi_query" else 1)
      for key, codes in answers:
        self.assertEqual(codes.split(", "), told[key])
        places.append(body.index(f"The code of {key} is") / len(body))
      for found in re.finditer(r"\d{6}", whole):
        first = len(body) + found.start()
        want[first : first + 6] = [ord(c) for c in found[0]]
        self.assertGreater(first, last)
        last = first
      self.assertEqual(labels, want)
    if depth == 0:
      self.assertLess(max(places), 0.25)
    elif depth > 0:
      self.assertBetween(min(places), 0.3, 0.7)
    else:
      self.assertGreater(np.std(places), 0.1)

  def test_needles_that_are_not_asked_for_stand_anywhere(self):
    others = []
    for tokens, _ in examples("needle_multi_key", 10, depth=0.0, length=700):
      body, asked = bytes(tokens).decode().rsplit("\n", 1)
      key = asked.split()[3]
      for found in re.finditer(r"The code of (\w{6}) is", body):
        others += [found.start()] if found[1] != key else []
    self.assertGreater(np.std(others), 100)

  def test_keys_differ(self):
    options = {"letters": 1, "keys": 26, "digits": 1, "length": 700}
    for tokens, _ in examples("needle_multi_key", 3, **options):
      found = re.findall(r"code of (\w) is \d\.", bytes(tokens).decode())
      self.assertLen(set(found), 26)

  def test_the_keys_that_are_asked_for(self):
    options = {"keys": 5, "queries": 2, "letters": 2, "length": 600}
    for tokens, labels in examples("needle_multi_query", 10, **options):
      asked = bytes(tokens).decode().rsplit("\n", 1)[1]
      self.assertLen(set(re.findall(r"code of (\w\w) is", asked)), 2)
      self.assertEqual(sum(label >= 0 for label in labels), 12)

  @parameterized.parameters((2, 4), (1, 0), (3, 2))
  def test_variable_tracking(self, chains, hops):
    options = {"chains": chains, "hops": hops, "noise": 16, "names": 32, "values": 10}
    asked = set()
    for tokens, labels in examples("variable_tracking", 40, **options):
      body = tokens[: tokens.index(59)]
      value_of, order = {}, {}
      for place, token in enumerate(body):
        if token == 58:
          name, source = body[place + 1 : place + 3]
          self.assertNotIn(name, value_of)
          value_of[name] = value_of.get(source, source)
          own = order.setdefault(value_of[name], [])
          self.assertEqual(source, own[-1] if own else value_of[name])
          own.append(name)
      self.assertLen(order, chains)
      statements = 3 * chains * (hops + 1)
      self.assertEqual(sum(token >= 16 for token in body), statements)
      value, *answers = tokens[len(body) + 1 :]
      self.assertEqual([*answers, labels[-1]], order[value])
      self.assertEqual(labels, [-1] * (127 - hops) + order[value])
      asked.add(list(order).index(value))
    self.assertEqual(asked, set(range(chains)))

  @parameterized.parameters((3, 12, 5), (1, 1, 2), (5, 2, 3))
  def test_common_words(self, common, others, ratio):
    options = {"common": common, "others": others, "ratio": ratio}
    for tokens, labels in examples("common_words", 20, **options):
      body = tokens[: 128 - common]
      words, counts = np.unique(body, return_counts=True)
      self.assertLen(words, common + others)
      self.assertNotIn(63, body)
      best = sorted(words[np.argsort(-counts)][:common].tolist())
      self.assertGreater(np.sort(counts)[-common], np.sort(counts)[-common - 1])
      self.assertEqual(tokens[128 - common :], [63, *best[:-1]])
      self.assertEqual(labels, [-1] * (128 - common) + best)

  @parameterized.parameters((16, 8), (5, 12))
  def test_chained_lookup(self, facts, hops):
    begun = set()
    for tokens, labels in examples("chained_lookup", 30, facts=facts, hops=hops):
      body = tokens[: 128 - hops]
      places = [t for t, token in enumerate(body) if token < facts]
      after = {}
      while places:
        first, second = places.pop(0), places.pop(0)
        self.assertEqual(second, first + 1)
        after[body[first]] = body[second]
      self.assertLen(after, facts)
      symbol = tokens[128 - hops]
      begun.add(symbol)
      for t in range(128 - hops, 128):
        self.assertEqual(tokens[t], symbol)
        symbol = after[symbol]
        self.assertEqual(labels[t], symbol)
      self.assertEqual(labels[: 128 - hops], [-1] * (128 - hops))
    self.assertGreater(len(begun), 3)


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters("needle", *_NAMES)
  def test_the_test_may_be_longer(self, name):
    task = data.load(name, {"test_length": 1000})
    shapes = {split: task.source(split)[0]["tokens"].shape for split in data.SPLITS}
    want = data.load(name).shape
    self.assertEqual(shapes, {"train": want, "validation": want, "test": (1000,)})
    self.assertEqual(task.shape, want)
    same = data.load(name).source("validation")[3]["tokens"]
    np.testing.assert_array_equal(task.source("validation")[3]["tokens"], same)

  @parameterized.parameters(
    ("needle", {"test_length": 57}, "length = 57; .* have 58 bytes"),
    ("needle", {"test_length": -1}, "test_length = -1"),
    ("needle_multi_key", {"keys": 0}, "keys = 0"),
    ("needle_multi_key", {"letters": 1, "keys": 27}, "letters = 1, keys = 27"),
    ("needle_multi_key", {"letters": 13}, "letters = 13"),
    ("needle_multi_key", {"length": 147}, "length = 147; 4 x 1 needles .* 148 bytes"),
    ("needle_multi_value", {"test_length": 171}, "171; 1 x 4 needles .* 172 bytes"),
    ("needle_multi_query", {"keys": 3}, "queries = 4 of keys = 3"),
    ("needle_multi_query", {"depth": 2.0}, "depth = 2.0"),
    ("variable_tracking", {"names": 9}, "names = 9, .*10 variables"),
    ("variable_tracking", {"values": 1}, "values = 1; .* 2 values"),
    ("variable_tracking", {"length": 35}, "length = 35; .* have 36"),
    ("common_words", {"vocab": 15}, "vocab of 16; vocab = 15"),
    ("common_words", {"ratio": 1}, "ratio = 1"),
    ("common_words", {"length": 18}, "length = 18; .* 2 times, the others to 0 or 1"),
    (
      "common_words",
      {"length": 12, "common": 3, "others": 2, "ratio": 2},
      "length = 12; .* come to 2 times, the others to 1 or 2",
    ),
    ("chained_lookup", {"facts": 1}, "facts = 1"),
    ("chained_lookup", {"length": 39}, "length = 39; .* have 40"),
  )
  def test_what_does_not_fit(self, name, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load(name, options)

  def test_the_smallest_sizes(self):
    for name, options in (
      ("needle_multi_key", {"length": 148}),
      ("needle_multi_value", {"length": 172}),
      ("needle_multi_query", {"keys": 1, "queries": 1, "length": 58}),
      ("variable_tracking", {"length": 36}),
      ("variable_tracking", {"chains": 1, "hops": 0, "length": 5}),
      ("common_words", {"length": 4, "common": 1, "others": 1, "ratio": 2}),
      ("chained_lookup", {"length": 40}),
    ):
      for split in ("train", "test"):
        self.assertLen(examples(name, 10, split, **options), 10)

  def test_one_needle_is_that_of_needle(self):
    """Of one key, one value and one question the format is that of `needle`."""
    pattern = r"The code of (\w{6}) is (\d{6})\. .*\nThe code of \1 is \d{5}$"
    for name in ("needle", *_NEEDLES):
      one = {"keys": 1, "values": 1, "queries": 1}
      options = {n: v for n, v in one.items() if n in data.defaults(name)}
      for tokens, labels in examples(name, 5, length=200, **options):
        self.assertRegex(bytes(tokens).decode(), pattern)
        self.assertEqual(sum(label >= 0 for label in labels), 6)


if __name__ == "__main__":
  absltest.main()
