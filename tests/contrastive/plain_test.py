"""The contrastive loss in plain JAX is that of the matrix, with all derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from attnjax.core import contrastive
from tests.contrastive import problems


def close(got, want, tolerance=2e-5):
  """Compares results and gradients, relative to the largest element."""
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    largest = max(np.abs(b).max(), 0.1)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


def _both(x, options):
  """Returns (the definition's loss, "xla"'s with its gradients)."""
  q, items, t = x
  defined = attnjax.contrastive_loss(q, items, log_scale=t, impl="reference", **options)
  return defined, problems.value_and_gradients("xla", options)(*x)


class PlainTest(parameterized.TestCase):
  def test_is_that_of_the_matrix(self):
    given = {name: problems.arrays(name) for name in problems.PROBLEMS}

    @jax.jit
    def run(given):
      return {n: _both(x, problems.PROBLEMS[n][3]) for n, x in given.items()}

    for name, (defined, got) in run(given).items():
      with self.subTest(name):
        want = problems.expected(*given[name], **problems.PROBLEMS[name][3])
        close(got, want)
        close(defined, want[0])

  def test_tiles_of_rows(self):
    name = "groups"
    x, options = problems.arrays(name), problems.PROBLEMS[name][3]
    given = [jnp.asarray(g, jnp.int32) for g in options["groups"]]

    def loss(q, items, *, log_scale, impl, **more):
      del impl, more
      how = {"symmetric": True, "axes": contrastive.Axes()}
      how["passes"] = contrastive.passes(symmetric=True, tiles=16)
      return contrastive.mean_loss(
        q, items, jnp.exp(log_scale), None, given, None, **how
      )

    run = problems.value_and_gradients("xla", options, loss).lower(*x)
    self.assertNotIn("65x65", run.as_text())
    close(run.compile()(*x), problems.expected(*x, **options))

  def test_large_scores(self):
    """Weights are made of greatest scores: their logarithms would have lost them."""
    q, items, _ = problems.arrays("odd")
    x = q * 100, items, jnp.float32(5.0)
    close(problems.value_and_gradients("xla", {})(*x), problems.expected(*x), 1e-4)

  def test_second_and_forward_derivatives(self):
    x = problems.arrays("odd")

    def slope(impl):
      def loss(q, t):
        return attnjax.contrastive_loss(q, x[1], log_scale=t, impl=impl)

      inner = jax.grad(lambda q, t: jnp.sin(jax.grad(loss)(q, t)).sum(), (0, 1))
      return inner(x[0], x[2]), jax.jvp(loss, (x[0], x[2]), (x[0], x[2]))

    got, want = (
      jax.jit(functools.partial(slope, impl))() for impl in ("xla", "reference")
    )
    close(got, want, 1e-4)

  def test_under_vmap(self):
    q, items, t = problems.arrays("odd")
    many = jnp.stack([q, 2 * q, -q]), jnp.stack([t, 2 * t, t])

    def loss(q, t):
      return attnjax.contrastive_loss(q, items, log_scale=t, impl="xla")

    got = jax.jit(jax.vmap(jax.value_and_grad(loss)))(*many)
    want = [problems.expected(a, items, b) for a, b in zip(*many)]
    close(got, tuple(map(np.stack, zip(*((v, d[0]) for v, d in want)))))

  def test_of_nothing(self):
    q = jnp.zeros((0, 4))
    run = functools.partial(attnjax.contrastive_loss, log_scale=0.0)
    self.assertEqual(run(q, q), 0)

  def test_what_does_not_fit_is_named(self):
    q, run = jnp.ones((3, 4)), attnjax.contrastive_loss
    for message, arguments, options in (
      (r"q \(3, 4\) and items \(3, 5\)", (q, jnp.ones((3, 5))), {}),
      ("3 queries and 2 items", (q, q[:2]), {"symmetric": False}),
      ("3 queries and 5 items", (q, jnp.ones((5, 4))), {}),
      (
        r"labels: \(2,\); the shape must be \(3,\)",
        (q, q),
        {"labels": np.ones(2, int)},
      ),
      (r"mask: \(3, 2\)", (q, q), {"mask": np.ones((3, 2), bool)}),
      ("groups of items", (q, q), {"groups": (np.ones(3, int), np.ones(4, int))}),
      ("impl", (q, q), {"impl": "other"}),
    ):
      with self.assertRaisesRegex(ValueError, message):
        run(*arguments, log_scale=0.0, **options)


if __name__ == "__main__":
  absltest.main()
