"""DIMAP by hand: scores, masks of modules, what they leave, training under them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract, sharding
from attnjax.models import language, pyramid
from attnjax.variants.analysis import module_pruning as mp


class ScoresTest(parameterized.TestCase):
  def test_by_hand(self):
    w = np.array([3.0, -2.0, 1.0])
    want = [1, 4 / 13, 1 / 14]
    for scores in (mp.dimap_scores(jnp.asarray(w)), mp.exact_scores(w)):
      np.testing.assert_allclose(scores, want, rtol=1e-6)
    np.testing.assert_allclose(
      mp.exact_scores([[1.0, 2.0], [-2.0, 0.0]]), [[1 / 9, 1.0], [1 / 2, 0.0]]
    )

  def test_zeros_and_ties(self):
    for scores in (mp.dimap_scores, mp.exact_scores, mp.reference_dimap_scores):
      self.assertEqual(np.asarray(scores(jnp.zeros((2, 3)))).tolist(), [[0] * 3] * 2)
      got = np.asarray(scores(jnp.array([2.0, -2.0, 2.0])))
      np.testing.assert_allclose(got, [1, 1 / 2, 1 / 3], rtol=1e-6)

  def test_scale_and_order(self):
    w = np.random.default_rng(0).standard_normal((40, 30))
    score = mp.exact_scores(w)
    np.testing.assert_allclose(mp.exact_scores(-1e-3 * w), score, rtol=1e-9)
    np.testing.assert_array_equal(np.argsort(score.ravel()), np.argsort(abs(w).ravel()))
    self.assertEqual(score.ravel()[abs(w).argmax()], 1.0)
    np.testing.assert_allclose(mp.dimap_scores(jnp.asarray(w)), score, rtol=1e-5)


# Two layers of a module, and one of another, whose weights are small.
PARAMS = {
  "blocks": {
    "a": {"mixer": {"qkv": {"query": {"kernel": np.array([[4.0, 1.0]])},
                            "key": {"kernel": np.array([[2.0, 0.5]])}},
                    "out": {"kernel": np.array([[0.1, 0.2], [0.3, 0.05]])}},
          "norm": {"scale": np.array([0.001, 9.0])}},
    "b": {"mixer": {"qkv": {"query": {"kernel": np.array([[40.0, 30.0]]),
                                      "bias": np.array([0.0, 0.0])}}}},
  }
}  # fmt: skip


def _zeros(masks):
  """The paths of the weights that go."""
  return {
    f"{sharding.path_name(path)}{tuple(at)}"
    for path, mask in jax.tree_util.tree_leaves_with_path(masks)
    for at in np.argwhere(~np.asarray(mask)).tolist()
  }


class MasksTest(parameterized.TestCase):
  # Layer a, sorted 4, 2, 1, 0.5: 1, 4/20, 1/21, 0.25/21.25; layer b: 1, 9/25.
  @parameterized.parameters(
    (0.5, {}, {"a/mixer/qkv/query/kernel(0, 1)", "a/mixer/qkv/key/kernel(0, 1)",
               "a/mixer/qkv/key/kernel(0, 0)", "a/mixer/out/kernel(0, 0)",
               "a/mixer/out/kernel(1, 1)"}),
    ({"qkv": 0.34}, {}, {"a/mixer/qkv/query/kernel(0, 1)",
                         "a/mixer/qkv/key/kernel(0, 1)"}),
    # One pool of magnitudes: what is small anywhere goes.
    (0.5, {"pool": "model", "score": "magnitude"},
     {"a/mixer/out/kernel(0, 0)", "a/mixer/out/kernel(0, 1)",
      "a/mixer/out/kernel(1, 0)", "a/mixer/out/kernel(1, 1)",
      "a/mixer/qkv/key/kernel(0, 1)"}),
    # Each layer alone: half of a, half of b.
    (0.5, {"pool": "layer", "score": "magnitude"},
     {"a/mixer/qkv/query/kernel(0, 1)", "a/mixer/qkv/key/kernel(0, 1)",
      "b/mixer/qkv/query/kernel(0, 1)", "a/mixer/out/kernel(0, 0)",
      "a/mixer/out/kernel(1, 1)"}),
    # One pool: out has 1, 4/13, 1/14, 0.0025/0.1425 of 0.3, 0.2, 0.1, 0.05.
    (0.4, {"pool": "model"},
     {"a/mixer/qkv/query/kernel(0, 1)", "a/mixer/qkv/key/kernel(0, 1)",
      "a/mixer/out/kernel(0, 0)", "a/mixer/out/kernel(1, 1)"}),
  )  # fmt: skip
  def test_by_hand(self, sparsity, options, want):
    masks = mp.dimap_masks(PARAMS, sparsity, **options)
    self.assertEqual(_zeros(masks), {f"blocks/{name}" for name in want})
    left = mp.apply_masks(PARAMS, masks)
    self.assertEqual(_zeros(jax.tree.map(lambda x, m: (x != 0) | m, left, masks)),
                     _zeros(masks))  # fmt: skip
    self.assertEqual(left["blocks"]["a"]["norm"]["scale"][0], np.float32(0.001))

  def test_a_function_names_modules(self):
    masks = mp.dimap_masks(
      PARAMS, 0.5, rules=lambda path: "norms" if "norm" in path else None
    )
    self.assertEqual(_zeros(masks), {"blocks/a/norm/scale(0,)"})

  def test_the_report_by_hand(self):
    masks = mp.dimap_masks(PARAMS, 0.5)
    got = mp.report(PARAMS, masks)
    want = {
      "qkv": (6, 3, 0.5, 6),
      "projection": (4, 2, 0.5, 4),
      "rest": (4, 4, 0.0, 0),
      "model": (14, 9, 5 / 14, 10),
    }
    self.assertEqual(set(got), set(want))
    for name, row in want.items():
      np.testing.assert_allclose(list(got[name].values()), row)

  def test_modules_of_hosts(self):
    davit = contract.constructor("davit", {"heads": 2, "kind": "window"}, ("image",))
    sizes = {"dims": (8, 16), "depths": (2, 1), "rngs": nnx.Rngs(0)}
    windows = pyramid.Model([davit], channels=1, classes=3, **sizes)
    plain = contract.constructor("dot_product", {"heads": 2}, ("causal",))
    sizes = {"dim": 8, "depth": 3, "rngs": nnx.Rngs(0)}
    words = language.Model([plain], vocab=7, **sizes)
    for model, layers, mlps in ((windows, 3, 2), (words, 3, 3)):
      found = mp.layers(model)
      count = {name: sum(one.module == name for one in found) for name in (
        "qkv", "projection", "mlp")}  # fmt: skip
      self.assertEqual(
        count, {"qkv": layers, "projection": layers, "mlp": mlps * layers}
      )
      masks = mp.dimap_masks(model, 0.6)
      for name in count:
        own = mp.report(model, masks)[name]
        self.assertAlmostEqual(own["sparsity"], 0.6, delta=1 / own["parameters"])
      self.assertEqual(mp.report(model, masks)["rest"]["sparsity"], 0.0)
    # The repeats of a stack are scored each for itself.
    block = words.stack.blocks[0]
    block.mlp.up.kernel = nnx.Param(
      block.mlp.up.kernel[...] * jnp.array([1.0, 100.0, 0.01])[:, None, None]
    )
    for old, new in zip(jax.tree.leaves(masks), jax.tree.leaves(
      mp.dimap_masks(words, 0.6))):  # fmt: skip
      np.testing.assert_array_equal(old, new)
    changed = mp.dimap_masks(words, 0.6, score="magnitude")
    self.assertGreater(
      sum(int((a != b).sum()) for a, b in zip(*map(jax.tree.leaves, (changed, masks)))),
      50,
    )

  @parameterized.parameters(
    (1.0, {}, "sparsity = 1.0; it must be at least 0 and below 1"),
    (-0.1, {}, "sparsity = -0.1"),
    ({"qkw": 0.5}, {}, "module 'qkw'; did you mean qkv"),
    ({"qkv": 0.5}, {"pool": "model"}, "needs a pool of modules or layers"),
    (0.5, {"pool": "block"}, "pool 'block'"),
    (0.5, {"score": "lamp"}, "score 'lamp'"),
    (0.5, {"rules": ()}, "no parameter belongs to a module"),
  )
  def test_refuses(self, sparsity, options, message):
    with self.assertRaisesRegex(ValueError, message):
      mp.dimap_masks(PARAMS, sparsity, **options)


class TuningTest(parameterized.TestCase):
  def test_what_is_gone_stays_away(self):
    # A weight that is not 0 stays as well: no decay moves it.
    params = {"w": jnp.array([1.0, 2.0, 3.0])}
    masks = {"w": jnp.array([True, False, True])}
    optimizer = mp.masked_updates(optax.adamw(0.1, weight_decay=0.5), masks)
    plain, state = optax.adamw(0.1, weight_decay=0.5), None
    state, other = optimizer.init(params), plain.init(params)
    whole = params
    for step in range(3):
      slope = {"w": jnp.array([1.0, 2.0, -1.0]) * (step + 1)}
      updates, state = optimizer.update(slope, state, params)
      params = optax.apply_updates(params, updates)
      updates, other = plain.update(slope, other, whole)
      whole = optax.apply_updates(whole, updates)
    self.assertEqual(params["w"][1], 2.0)
    self.assertNotEqual(whole["w"][1], 2.0)
    np.testing.assert_allclose(params["w"][::2], whole["w"][::2], rtol=1e-6)
    moments = jax.tree.leaves(state)
    self.assertTrue(all(x[1] == 0 for x in moments if x.shape == (3,)))

  def test_the_papers_optimizer(self):
    params = {"w": jnp.ones(2)}
    optimizer = mp.fine_tuning(30, 15)
    state, sizes = optimizer.init(params), []
    for _ in range(31):
      updates, state = optimizer.update({"w": jnp.ones(2)}, state, params)
      sizes.append(-float(updates["w"][0]))
    self.assertAlmostEqual(sizes[0] / 2e-8, 1, delta=0.01)
    self.assertAlmostEqual(sizes[15] / 2e-5, 1, delta=0.01)
    self.assertAlmostEqual(sizes[30] / 2e-7, 1, delta=0.01)

  def test_rounds(self):
    np.testing.assert_allclose(mp.levels(0.75, 2), [0.5, 0.75])
    self.assertEqual(mp.levels(0.6, 1), [0.6])
    for args in ((0.5, 0), (1.0, 2)):
      with self.assertRaisesRegex(ValueError, "1 round or more"):
        mp.levels(*args)
    params = {"mlp": {"up": {"kernel": np.arange(1.0, 9)}}}
    seen = []

    def tune(params, masks):
      seen.append(int(np.sum(masks["mlp"]["up"]["kernel"])))
      return jax.tree.map(lambda x: 9.0 - x, params)  # what was small is large now

    found = list(mp.iterated(params, tune, 0.75, 2))
    self.assertEqual(seen, [4, 2])
    # 5 6 7 8 stay, and are 4 3 2 1; of them 4 and 3, which are 5 and 6.
    first, second = (np.asarray(p["mlp"]["up"]["kernel"]).tolist() for p, _ in found)
    self.assertEqual(first, [0, 0, 0, 0, 4, 3, 2, 1])
    self.assertEqual(second, [0, 0, 0, 0, 5, 6, 0, 0])


if __name__ == "__main__":
  absltest.main()
