"""The benchmark of growth with the length: its fit, and one run at tiny lengths."""

import json
import math
import tempfile
from pathlib import Path
from unittest import mock

import jax
from absl.testing import absltest, parameterized

from attnjax import contract
from experiments.bench import length, length_problems, records
from experiments.training import cost


def _flops(slug, form, tokens):
  run, arguments, _ = length_problems.problem(slug, form, tokens)
  jaxpr = jax.make_jaxpr(run)(*arguments).jaxpr
  return cost.flops(jaxpr, jax.tree.leaves(arguments))


class LengthTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 1.0, 1.5, 2.0)
  def test_the_exponent_of_a_power(self, power):
    lengths = [16, 32, 64, 128]
    self.assertAlmostEqual(
      length.exponent(lengths, [3 * t**power for t in lengths]), power
    )

  def test_only_the_upper_half_counts(self):
    values = [100.0, 100.0, 100.0, 64.0, 128.0]
    lengths = [1, 2, 4, 64, 128]
    # ceil(5 / 2) = 3 lengths: 4, 64 and 128.
    x, y = ([math.log(v) for v in part[2:]] for part in (lengths, values))
    mean_x, mean_y = sum(x) / 3, sum(y) / 3
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
    slope /= sum((a - mean_x) ** 2 for a in x)
    self.assertAlmostEqual(length.exponent(lengths, values), slope)

  def test_no_exponent_without_two_positive_numbers(self):
    self.assertIsNone(length.exponent([8], [1.0]))
    self.assertIsNone(length.exponent([8, 16], [0, 0]))
    self.assertIsNone(length.exponent([8, 16], []))

  def test_programs_that_are_compiled_alone_have_no_seconds(self):
    picture = Path(self.enterContext(tempfile.TemporaryDirectory())) / "length.png"
    with mock.patch.object(length, "fastest") as clock:
      rows, _ = length.rows(["dot_product"], (32, 64), picture, timed=False)
    clock.assert_not_called()
    self.assertEqual(rows[0]["seconds"], [])
    self.assertIsNone(rows[0]["exponents"]["seconds"])
    self.assertGreater(min(rows[0]["flops"]), 0)

  def test_a_run(self):
    picture = Path(self.enterContext(tempfile.TemporaryDirectory())) / "length.png"
    slugs = ["dynamical_systems", "dot_product"]
    with mock.patch.object(length_problems, "forms", lambda slug: ["causal"]):
      rows, _ = length.rows(slugs, (128, 64), picture)
    names = [(row["name"], row["pass"]) for row in rows]
    self.assertEqual(names, [(s, p) for s in slugs for p in length.PASSES])
    for row in rows:
      self.assertEqual(row["lengths"], [64, 128])
      self.assertGreater(min(row["seconds"] + row["flops"]), 0)
    linear, softmax = (row["exponents"]["flops"] for row in rows[::2])
    self.assertLess(linear, 1.1)
    self.assertGreater(softmax, linear)
    self.assertEqual(picture.read_bytes()[:4], b"\x89PNG")
    self.assertNotIn("seconds", rows[2]["bound"])
    self.assertEqual([row["expected"] for row in rows], [1, 1, 2, 2])
    root = picture.parent
    paths = records.written("length", rows, root)
    self.assertEqual([path.stem for path in paths], slugs)
    kept = json.loads((root / "results" / "length" / "dot_product.json").read_text())
    self.assertEqual([row["pass"] for row in kept["rows"]], list(length.PASSES))
    self.assertEqual(kept["rows"][0]["flops"], rows[2]["flops"])
    self.assertIn("jax", kept["versions"])
    text = length.table(rows)
    self.assertLen(text.splitlines(), 5)
    self.assertIn("FLOPs <= T^2.1  holds", text.splitlines()[3])

  @parameterized.parameters(
    ("lightning2", 1.0, 1.0, True),
    ("lightning2", 1.0, 1.4, False),
    ("lightning2", 1.2, 1.0, False),
    ("lightning2", None, None, True),
    ("routing_transformer", 1.55, 9.0, True),
    ("routing_transformer", 1.65, 1.0, False),
  )
  def test_a_bound_that_is_missed_does_not_hold(self, slug, flops, seconds, holds):
    verdict = length._verdict(slug, "causal", {"flops": flops, "seconds": seconds})
    self.assertEqual(verdict["holds"], holds)

  def test_images_have_a_row_of_their_own(self):
    self.assertEqual(length_problems.forms("lightning2"), ["causal"])
    self.assertEqual(length_problems.forms("halo"), ["image"])
    self.assertEqual(length_problems.forms("dot_product"), ["causal", "image"])

  @parameterized.parameters(
    *(s for s in contract.systems() if contract.layer_forms(contract.load(s)))
  )
  def test_a_mechanism_says_how_it_grows(self, slug):
    module = contract.load(slug)
    self.assertBetween(module.GROWTH, 1, 2)
    scaled = getattr(module, "scaled", None)
    if scaled is not None:
      options = scaled((64,)) | scaled((16, 16))
      self.assertContainsSubset(options, contract.defaults(slug))

  def test_flops_of_layers_grow_as_their_modules_say(self):
    for slug, form in (("halo", "image"), ("routing_transformer", "causal")):
      counts = []
      for tokens in (64, 256):
        counts.append(_flops(slug, form, tokens))
      power = math.log(counts[1] / counts[0]) / math.log(4)
      self.assertLessEqual(power, contract.load(slug).GROWTH + length.SLACK, slug)

  def test_curves_of_functions_grow_as_their_modules_say(self):
    forms = length_problems.forms("tensor_attention")
    self.assertEqual(forms, ["causal", "all pairs", "windows", "polynomial"])
    for form in forms[1:]:
      counts = [_flops("tensor_attention", form, tokens) for tokens in (512, 2048)]
      power = math.log(counts[1] / counts[0]) / math.log(4)
      expected = length_problems.growth("tensor_attention", form)
      # Tiles are left out where no pair is seen: the fewer, the less exactly.
      self.assertAlmostEqual(power, expected, delta=0.15, msg=form)

  def test_an_unknown_mechanism(self):
    with self.assertRaisesRegex(ValueError, "unknown mechanism 'lightening'"):
      length.rows(["lightening"], (8,))


if __name__ == "__main__":
  absltest.main()
