"""Training a part of a model, and starting from a saved run."""

import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments import errors, run
from experiments.build import assemble
from experiments.open_run import open_run
from experiments.training import loop, metrics, part
from tests.run_test import tiny

_RULE = "(query|key)/kernel"


@functools.cache
def _arrays(workdir):
  return part._flat(open_run(str(workdir)).model)


class PartTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.base = cls.folder / "base"
    run.run(tiny(steps=4), cls.base)

  def test_adapters_on_a_frozen_base(self):
    workdir = self.folder / "part"
    config = tiny(steps=4, train__only=_RULE, init=str(self.base))
    run.run(config, workdir)
    before, saved = _arrays(self.base), open_run(str(workdir)).state
    after, memory = (part._flat(saved[kind]) for kind in ("model", "optimizer"))
    moved = {n for n in after if not np.array_equal(before[n], after[n])}
    chosen = {n for n in after if "query/kernel" in n or "key/kernel" in n}
    self.assertLen(chosen, 2)
    self.assertEqual(moved, chosen)
    # The optimizer remembers two moments of the chosen ones alone.
    held = [leaf for leaf in memory.values() if leaf.ndim]
    sizes = [after[n].size for n in chosen]
    self.assertEqual(sum(leaf.size for leaf in held), 2 * sum(sizes))
    summary = assemble(config)
    self.assertEqual(summary.trained(), sum(sizes))
    self.assertGreater(summary.parameters(), sum(sizes))
    first = next(m for m in metrics.read(workdir) if m["split"] == "train")
    fresh = next(m for m in metrics.read(self.base) if m["split"] == "train")
    self.assertNotEqual(first["loss"], fresh["loss"])  # it starts from the saved run
    self.assertLess(first["gradient_norm"], fresh["gradient_norm"])

  def test_gradients_of_the_rest_are_not_computed(self):
    tree = {
      "query": jax.ShapeDtypeStruct((8, 8), "float32"),
      "x": jax.ShapeDtypeStruct((8, 8), "float32"),
    }

    def cost(only):
      def update(tree):
        grads = jax.grad(
          lambda t: (t["query"] @ t["query"]).sum() + (t["x"] @ t["x"]).sum()
        )(tree)
        return part.gradients(grads, only)

      return jax.jit(update).lower(tree).compile().cost_analysis()["flops"]

    self.assertLess(cost("query"), 0.6 * cost(""))

  def test_parameters_that_are_new_stay_as_drawn(self):
    config = tiny("gated_attention", init=str(self.base))
    said = []
    trainer = loop.Trainer(assemble(config), self.folder / "new", said.append)
    self.addCleanup(trainer.close)
    drawn, given = (
      part._flat(t) for t in (assemble(config).init()["model"], trainer.state["model"])
    )
    base = _arrays(self.base)
    new = [name for name in given if name not in base]
    self.assertIn("stack/blocks/0/mixer/gate/values/kernel", new)
    for name in given:
      want = drawn[name] if name in new else base[name]
      np.testing.assert_array_equal(given[name], want, err_msg=name)
    self.assertIn(f"as drawn: {', '.join(new)}", " ".join(said))

  @parameterized.parameters(
    ({"train__only": "quer(y"}, "no regular expression"),
    ({"train__only": "kwery"}, "is in no path of embed/embedding"),
    ({"init": "nowhere"}, "nowhere holds no run"),
    (
      {"init": "BASE", "model__dim": 32},
      r"has the shape \(.*16\) there and \(.*32\) here",
    ),
    (
      {"init": "BASE", "model__conv": 0},
      "it has stack/blocks/0/.*, which this model has not",
    ),
  )
  def test_messages(self, changes, message):
    changes = {n: str(self.base) if v == "BASE" else v for n, v in changes.items()}
    with tempfile.TemporaryDirectory() as folder:
      with self.assertRaisesRegex(errors.UserError, message):
        run.run(tiny(**changes), Path(folder) / "run")


if __name__ == "__main__":
  absltest.main()
