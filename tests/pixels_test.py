"""The benchmark of networks against the side of their images, on tiny ones."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import jax.numpy as jnp
from absl.testing import absltest, parameterized

from attnjax import contract
from experiments.bench import pixels, records


class PixelsTest(parameterized.TestCase):
  def test_a_run(self):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      rows = pixels.rows(["tanet"], (64, 32), timed=32, size="mini")
    self.assertEqual([row["pass"] for row in rows], ["forward", "both"])
    for row in rows:
      self.assertEqual(row["sides"], [32, 64])
      self.assertLen(row["seconds"], 1)  # the other side is not timed
      self.assertGreater(min(row["seconds"] + row["bytes"]), 0)
      # Of convolutions alone: as many on each pixel.
      self.assertAlmostEqual(row["exponents"]["flops"], 1, delta=0.02)
    self.assertGreater(rows[1]["flops"][0], 2 * rows[0]["flops"][0])
    self.assertIn("tanet mini forward     32 pixels", printed.getvalue())
    root = Path(self.enterContext(tempfile.TemporaryDirectory()))
    (path,) = records.written("pixels", rows, root)
    self.assertEqual(path, root / "results" / "pixels" / "tanet.json")
    self.assertEqual(json.loads(path.read_text())["rows"][0]["flops"], rows[0]["flops"])

  def test_a_forward_pass_counts_what_the_network_does(self):
    subject = contract.load("activator")
    with contextlib.redirect_stdout(io.StringIO()):
      rows = pixels.rows(["activator"], (28,), timed=0, size="mini")
    self.assertEqual(rows[0]["seconds"], [])
    self.assertEqual((rows[0]["size"], rows[0]["form"]), ("mini", "backbone"))
    self.assertIsNone(rows[0]["exponents"]["flops"])
    self.assertGreater(rows[0]["flops"][0], jnp.prod(jnp.asarray((28, 28, 3))))
    self.assertIn("mini", subject.SIZES)

  def test_rows_of_a_part_stand_beside_the_others(self):
    path = Path(self.enterContext(tempfile.TemporaryDirectory()), "bench.json")
    new = [{"package": "b", "H": 1}]
    self.assertEqual(records.merged(path, new), new)
    old = [{"package": "a"}, {"package": "b", "H": 2}, {"package": "c"}]
    path.write_text(json.dumps(old))
    self.assertEqual(records.merged(path, new), [old[0], *new, old[2]])
    named = [{"name": "x", "s": 1}, {"name": "y", "s": 2}]
    path.write_text(json.dumps(named))
    self.assertEqual(records.merged(path, [{"name": "x", "s": 3}])[1]["s"], 3)
    self.assertLen(records.merged(path, [{"name": "z", "s": 3}]), 3)

  def test_networks_for_images_are_of_two_forms(self):
    forms = {pixels._form(slug) for slug in pixels.systems()}
    self.assertEqual(forms, {"backbone", "dense"})
    self.assertNotIn("lightning2", pixels.systems())  # its networks are of text

  @parameterized.parameters(
    (["dot_product"], "", "'dot_product' has no network for images"),
    (["tannet"], "", "unknown mechanism 'tannet'"),
    (["tanet"], "minni", "size of tanet 'minni'"),
  )
  def test_refusals(self, slugs, size, message):
    with self.assertRaisesRegex(ValueError, message):
      pixels.rows(slugs, (32,), size=size)


if __name__ == "__main__":
  absltest.main()
