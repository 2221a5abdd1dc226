"""Generated examples are functions of seed, split and index, and of nothing else."""

from collections.abc import Sequence

from absl.testing import absltest

from experiments import data


def check(test: absltest.TestCase, name: str, keys: Sequence[str]) -> None:
  """Checks that examples are equal in any order, all different, and end.

  Args:
    test: that checks.
    name: of the data set.
    keys: the names of an example's arrays.
  """

  def example(seed, split, index):
    options = {"seed": seed, "examples": 20, "held_out": 20}
    found = data.load(name, options).source(split)[index]
    return b"".join(found[key].tobytes() for key in keys)

  places = [(seed, s, i) for seed in (0, 3) for s in data.SPLITS for i in (0, 1, 19)]
  first = [example(*place) for place in places]
  test.assertEqual(first, [example(*place) for place in reversed(places)][::-1])
  test.assertLen(set(first), len(places))
  with test.assertRaises(IndexError):
    data.load(name, {"held_out": 5}).source("test")[5]
