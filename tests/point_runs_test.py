"""Runs on points: they learn, go on, and leave a page with drawn answers."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import pointer
from configs import pointer as config
from experiments import build, configuration, data, errors, run
from experiments.pages import charts, report
from experiments.pages.shows import points
from tests.pages import check_alone


class RunTest(absltest.TestCase):
  def test_leaves_numbers_and_a_page(self):
    c = config.get_config("shortest_tour")
    c.steps, c.log_every, c.eval_every, c.save_every = 2, 1, 2, 2
    c.data.batch, c.data.held_out, c.data.least, c.data.most = 2, 14, 3, 4
    c.model.hidden, c.model.beams, c.optimizer.warmup = 4, 2, 1
    workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(run.run(c, workdir), "finished")
    summary = json.loads((workdir / "summary.json").read_text())
    self.assertEqual((summary["metric"], summary["host"]), ("tour_ratio", "pointer"))
    numbers = summary["final"]["validation"]
    names = ["loss", "tour_ratio", "whole_tours", "exact_answers"]
    self.assertEqual(list(numbers), names)
    self.assertEqual(numbers["whole_tours"], 1)
    self.assertGreaterEqual(numbers["tour_ratio"], 1 - 1e-6)
    page = check_alone(self, (workdir / report.FILE).read_text())
    alts = [image["alt"] for image in page.all("img")]
    for name in ("answer", "target"):
      self.assertEqual(sum(alt.startswith(f"{name} of example") for alt in alts), 12)
    self.assertRegex(page.text, r"answer target tour ratio: [\d.]+, whole tours: 1")


class HostTest(parameterized.TestCase):
  @parameterized.parameters("convex_hull", "delaunay", "shortest_tour", "argsort")
  def test_assembles_as_it_is(self, name):
    made = config.get_config(name)
    assembly = build.assemble(made)
    self.assertLess(assembly.parameters(), 1e5)
    self.assertEqual(made.data.name, name)
    wanted = {"delaunay": "triples", "shortest_tour": "tour"}.get(name, "none")
    self.assertEqual(made.model.constraint, wanted)

  def test_gives_the_logits_and_the_answer_of_its_network(self):
    build = contract.constructor("pointer_network", {}, pointer.FORMS)
    options: dict[str, Any] = {"hidden": 4, "beams": 3, "constraint": "once"}
    model = pointer.Model([build], inputs=2, symbols=5, **options, rngs=nnx.Rngs(0))
    self.assertEqual(model.network.encoder.hidden, 4)
    batch = jax.tree.map(jnp.asarray, data.load("convex_hull", {"most": 5}).source(
      "train")[0])  # fmt: skip
    batch = {name: leaf[None] for name, leaf in batch.items()}
    arguments, given = pointer.inputs(batch)

    @jax.jit
    def both(model):
      own = model(*arguments, key=jax.random.key(0), **given)
      how = {"steps": 6, "width": 3, "constraint": "once"}
      answer, _ = model.network.search(batch["points"], **how, **given)
      return own, {"logits": model.network(*arguments, **given), "answer": answer}

    own, wanted = both(model)
    jax.tree.map(np.testing.assert_array_equal, own, wanted)
    with self.assertRaisesRegex(ValueError, "size of pointer_network 'maxi'"):
      pointer.Model([build], inputs=2, symbols=5, size="maxi", rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(TypeError, "hiden"):
      pointer.Model([build], inputs=2, symbols=5, hiden=3, rngs=nnx.Rngs(0))

  def test_takes_points_and_networks_that_point(self):
    config = configuration.default("pointer_network", host="pointer", dataset="digits")
    with self.assertRaisesRegex(errors.UserError, "takes points; .* holds images"):
      build.assemble(config)
    with self.assertRaisesRegex(ValueError, "dot_product.*takes pointer"):
      configuration.default("dot_product", host="pointer", dataset="convex_hull")


class DrawingTest(absltest.TestCase):
  def test_lines_join_the_labels(self):
    corners = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    color = np.array([int(charts.COLORS[0][i : i + 2], 16) for i in (1, 3, 5)])
    # The middles of the bottom, the right, the top and the left.
    places = ((0.5, 0.1), (0.9, 0.5), (0.5, 0.9), (0.1, 0.5))

    def joined(points, labels, size=0):
      image = points_drawn(points, labels, size)
      found = []
      for x, y in places:
        column, row = (round((p + 0.04) / 1.08 * len(image)) for p in (x, 1 - y))
        near = image[row - 3 : row + 4, column - 3 : column + 4].astype(int)
        found.append(bool((np.abs(near - color).sum(-1) < 60).any()))
      return found

    def points_drawn(given, labels, size):
      return points.drawing(given, np.array(labels), size, charts.COLORS[0])

    self.assertEqual(joined(corners, [1, 2, 3, 4, 0, -1]), [True] * 4)
    self.assertEqual(joined(corners, [1, 2, 3, 0, -1, -1]), [True, True, False, False])
    self.assertEqual(joined(corners, [1, 3, 4, 0], 3), [False, False, True, True])
    self.assertEqual(joined(corners, [0, -1]), [False] * 4)
    # Numbers are not joined to a circle: places 1/8, 3/8, 5/8, 7/8.
    rise = np.array([[0.1], [0.5], [0.5], [0.9]])
    self.assertEqual(joined(rise, [2, 3, 0, -1]), [False] * 4)


if __name__ == "__main__":
  absltest.main()
