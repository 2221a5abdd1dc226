"""Scenes: answers as they are read from the pixels, rows of words, masks, refusals."""

from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import drawing, scenes
from experiments.data.sets import scenes as sets_scenes
from experiments.pages.shows import image_text

_NAMES = {
  (1.0, 0.1, 0.1): "red",
  (0.1, 1.0, 0.1): "green",
  (0.1, 0.1, 1.0): "blue",
  (1.0, 1.0, 0.1): "yellow",
  (1.0, 0.1, 1.0): "purple",
  (0.1, 1.0, 1.0): "cyan",
}


def read(image, cell):
  """(row, column, colour, shape) of everything, from the pixels alone."""
  found = []
  for row in range(image.shape[0] // cell):
    for column in range(image.shape[1] // cell):
      part = image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
      inside = (part != np.float32(0.1)).any(-1)
      if inside.any():
        (name,) = _names(part[inside])
        found.append((row, column, name, _shape(inside)))
  return found


def _names(pixels):
  """The names of all colours of some pixels (P, 3)."""
  return {_NAMES[tuple(pixel)] for pixel in pixels.astype(float).round(1).tolist()}


def _shape(inside):
  inside = inside[inside.any(1)]
  size = len(inside)
  inside = inside[:, inside.any(0)]
  for kind in scenes.SHAPES:
    want = drawing.shape(kind, size) > 0
    want = want[:, want.any(0)]
    if want.shape == inside.shape and (want == inside).all():
      return kind
  raise AssertionError(f"no shape:\n{inside.astype(int)}")


def solved(text, things):
  """The answer to a question about things, of the pattern of its words."""
  words = text.split()
  if text == "describe the picture .":
    return " , ".join(f"{colour} {shape}" for _, _, colour, shape in things)
  if words[:3] == ["what", "colour", "is"] and words[3] == "the":
    ((_, _, colour, _),) = [one for one in things if one[3] == words[4]]
    return colour
  if words[:2] == ["what", "colour"]:
    place = ord(words[4]) - ord("A"), int(words[5]) - 1
    ((_, _, colour, _),) = [one for one in things if one[:2] == place]
    return colour
  if words[:2] == ["what", "shape"]:
    ((_, _, _, shape),) = [one for one in things if one[2] == words[4]]
    return shape
  if words[0] == "is":
    return "yes" if any([*one[2:]] == words[3:5] for one in things) else "no"
  if words[0] == "how":
    return str(sum(one[2] == words[2] for one in things))
  side, pair = words[2], words[-3:-1]
  ((row, column, _, _),) = [one for one in things if [*one[2:]] == pair]
  line = [one for one in things if (one[0] if side in _ROW else one[1]) == (
    row if side in _ROW else column)]  # fmt: skip
  far = {
    "left": lambda one: column - one[1],
    "right": lambda one: one[1] - column,
    "above": lambda one: row - one[0],
    "below": lambda one: one[0] - row,
  }[side]
  nearest = min((one for one in line if far(one) > 0), key=far)
  return f"{nearest[2]} {nearest[3]}"


_ROW = ("left", "right")


def examples(kinds, number, split="train", **options):
  """(example, question, answer) of every question of some examples, noiseless."""
  source = data.load("scenes", {"kinds": kinds, "noise": 0.0} | options).source(split)
  for i in range(number):
    one = source[i]
    for begin, first, end in image_text.questions(one["labels"]):
      question = scenes.decode(one["tokens"][begin : first + 1])
      yield one, question.lstrip(". "), scenes.decode(one["labels"][first:end])


class ScenesTest(parameterized.TestCase):
  @parameterized.parameters(*scenes.KINDS)
  def test_answers_are_read_from_the_picture(self, kind):
    answers = []
    for one, question, answer in examples(kind, 20, questions=3):
      things = read(one["image"], 8)
      self.assertLen(things, 4)
      want = solved(question, things)
      self.assertEqual(answer.removesuffix(" ."), want, question)
      self.assertEqual(answer.endswith(" ."), kind == "describe")
      answers.append(answer)
    self.assertGreater(len(set(answers)), 1)
    if kind == "exists":
      self.assertBetween(answers.count("yes"), 18, 42)

  def test_a_row_is_question_answer_stop_and_padding(self):
    layout = {"kinds": "place,count", "rows": 2, "columns": 3, "cell": 6, "things": 6}
    found = list(examples(number=20, questions=2, **layout))
    for (one, *first), (_, *second) in zip(found[::2], found[1::2]):
      words = [scenes.WORDS[n] for n in one["tokens"]]
      rest = [w for question, answer in (first, second) for w in (
        *question.split(), answer, ".")]  # fmt: skip
      want = ["<begin>", *rest]
      self.assertEqual(words[: len(want)], want)
      self.assertEqual(set(words[len(want) :]) - {""}, set())
      labels = one["labels"].tolist()
      self.assertEqual(labels[len(want) - 3], one["tokens"][len(want) - 2])
      self.assertEqual(labels.count(-1), len(labels) - 2)
      self.assertEqual(one["image"].shape, (12, 18, 3))

  def test_all_kinds_equally_often(self):
    first = [q.split()[0] for _, q, _ in examples("count,exists,describe", 75)]
    for word in ("how", "is", "describe"):
      self.assertBetween(first.count(word), 75, 125)

  def test_pure_in_seed_split_and_index(self):
    def example(seed, split, index):
      options = {"seed": seed, "examples": 20, "held_out": 20, "clutter": 3}
      found = data.load("scenes", options).source(split)[index]
      return b"".join(x.tobytes() for x in found.values())

    keys = [(seed, s, i) for seed in (0, 3) for s in data.SPLITS for i in (0, 19)]
    first = [example(*key) for key in keys]
    self.assertEqual(first, [example(*key) for key in reversed(keys)][::-1])
    self.assertLen(set(first), len(keys))

  def test_boxes_and_masks_are_where_things_are(self):
    scene = scenes.draw(np.random.default_rng(1), grid=(3, 5), cell=9, things=9)
    image = scenes.drawn(scene)
    whole = np.zeros(scene.shape, bool)
    for one in scene.things:
      mask = scenes.mask(scene, one)
      top, left, bottom, right = one.box
      self.assertEqual(mask.sum(), mask[top:bottom, left:right].sum())
      self.assertTrue(mask[top:bottom].any(1).all())
      self.assertEqual(_names(image[mask]), {one.colour})
      whole |= mask
    np.testing.assert_array_equal((image != np.float32(0.1)).any(-1), whole)
    self.assertEqual(read(image, 9), [
      (one.row, one.column, one.colour, one.shape) for one in scene.things
    ])  # fmt: skip

  def test_noise_and_clutter_hide_nothing(self):
    scene = scenes.draw(np.random.default_rng(2))
    plain, rng = scenes.drawn(scene), np.random.default_rng(3)
    whole = sum(scenes.mask(scene, one) for one in scene.things) > 0
    cluttered = scenes.drawn(scene, rng, clutter=10)
    np.testing.assert_array_equal(cluttered[whole], plain[whole])
    changed = (cluttered != plain).any(-1).sum()
    self.assertBetween(changed, 1, 40)
    noisy = scenes.drawn(scene, rng, noise=0.05)
    self.assertBetween((noisy - plain)[~whole].std(), 0.04, 0.06)
    with self.assertRaisesRegex(ValueError, "clutter = 1 need an rng"):
      scenes.drawn(scene, clutter=1)

  def test_words_there_and_back(self):
    self.assertLen(set(scenes.WORDS), len(scenes.WORDS))
    text = "what is left of the red disc ?"
    self.assertEqual(scenes.decode([1, *scenes.encode(text), 0, 0]), text)
    with self.assertRaisesRegex(ValueError, "'circle' is none of the 55 words"):
      scenes.encode("a red circle")

  @parameterized.parameters(
    ({"kinds": "colour,size"}, "kind of question 'size'"),
    ({"things": 17}, "17 things in 4 x 4 cells"),
    ({"rows": 10}, "rows and columns are 9 at most"),
    ({"cell": 4}, "cell = 4; it must be at least 5"),
    ({"noise": -1.0}, "noise = -1.0"),
    ({"things": 1}, "things = 1: a question 'beside' needs two"),
    ({"clutter": -1}, "clutter = -1"),
  )
  def test_refuses(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load("scenes", options)

  def test_says_where_there_is_never_a_question(self):
    options = {"things": 81, "rows": 9, "columns": 9, "kinds": "shape", "questions": 1}
    source = data.load("scenes", options).source("test")
    self.enterContext(mock.patch.object(sets_scenes, "ATTEMPTS", 5))
    scene = scenes.draw(np.random.default_rng(0), grid=(9, 9), things=81)
    self.assertIsNone(scenes.ask("shape", scene, np.random.default_rng(0)))
    with self.assertRaisesRegex(ValueError, "things = 81: none of 5 .*shape"):
      source[0]


if __name__ == "__main__":
  absltest.main()
