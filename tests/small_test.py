"""Small models: trained together as alone, statistics moved, mechanisms silenced."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.nn import norms
from experiments import small

_VOCAB = {"vocab": 16}


def _mqar():
  options = {"vocab": 16, "length": 8, "pairs": 1}
  return small.of_task("mqar", train=64, held_out=32, **options)[0]


class SmallTest(parameterized.TestCase):
  def test_together_is_alone(self):
    problem, recipe = _mqar(), small.Recipe(steps=5, batch=8)
    build = small.language([("dot_product", {"heads": 1})], **_VOCAB, dim=16, depth=1)
    runs = [(1e-2, 0), (3e-3, 1), (1e-2, 1)]
    both = small.train(build, problem, recipe, runs)
    alone = small.train(build, problem, recipe, runs[1:2])
    for got, want in zip(jax.tree.leaves(both.models), jax.tree.leaves(alone.models)):
      np.testing.assert_allclose(got[1], want[0], rtol=1e-4, atol=1e-5)
      self.assertGreater(np.abs(got[1] - got[2]).max(), 0.0)  # another rate
    self.assertEqual(
      both.parameters, sum(x[0].size for x in jax.tree.leaves(alone.models))
    )
    got, want = (
      small.scores(t, problem, r, "test") for t, r in ((both, runs), (alone, runs[1:2]))
    )
    self.assertAlmostEqual(got[1], want[0], places=5)

  def test_no_steps_leave_models_as_drawn(self):
    build = small.language(["dot_product"], **_VOCAB, dim=16, depth=1)
    found = small.train(build, _mqar(), small.Recipe(steps=0), [(1.0, 3)])
    weights, _ = jax.random.split(jax.random.key(3))
    for got, want in zip(
      jax.tree.leaves(found.models), jax.tree.leaves(build(weights))
    ):
      np.testing.assert_allclose(got[0], want, rtol=1e-5, atol=1e-6)

  def test_statistics_move(self):
    data = np.random.default_rng(0).normal(3.0, 2.0, (512, 4)).astype(np.float32)
    label = np.zeros((512, 4), np.float32)
    problem = small.Problem(
      lambda seed, split: {"x": data, "y": label},
      lambda call, batch: jnp.mean((call(batch["x"]) - batch["y"]) ** 2),
      lambda call, batch: jnp.mean(call(batch["x"])),
    )

    def build(key):
      del key
      return norms.BatchNorm(4)

    recipe = small.Recipe(steps=60, batch=64)
    found = small.train(build, problem, recipe, [(0.0, 0)])
    (score,) = small.scores(found, problem, [(0.0, 0)], "test")
    # Evaluated with the data's statistics, the output has a mean near zero.
    self.assertLess(abs(score), 0.2)
    fresh = small.train(build, problem, small.Recipe(steps=0), [(0.0, 0)])
    self.assertGreater(small.scores(fresh, problem, [(0.0, 0)], "test")[0], 1.0)

  @parameterized.parameters(("lightning2", 1e-6), ("dot_product", 1e-6), ("halo", 0.0))
  def test_a_silenced_mechanism_sees_no_other_token(self, slug, most):
    forms = small.models.FORMS
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 16))
    for build, sees in ((small.layer(slug, forms), True), (small.without(slug), False)):
      form, layer = build.form, build(16, layers=1, rngs=nnx.Rngs(0))
      x = x if form == "image" else x.reshape(1, -1, 16)
      far = (0, -1, -1) if form == "image" else (0, 0)
      moved = x.at[far].add(1.0)
      at = (0, 2, 2) if form == "image" else (0, 9)
      change = jnp.abs(layer(moved)[at] - layer(x)[at]).max()
      self.assertEqual(bool(change > most), sees)

  def test_a_silenced_layer_of_two_arguments(self):
    class Sum(nnx.Module):
      def __call__(self, x, y, *, scale=1.0):
        return scale * (x + y)

    def build():
      return Sum()

    build.form, build.module = "sequence", None
    x = jnp.ones((2, 3))
    self.assertEqual(float(build()(x, x, scale=2.0).max()), 4.0)
    np.testing.assert_array_equal(small.without(build)()(x, x, scale=2.0), 0 * x)


if __name__ == "__main__":
  absltest.main()
