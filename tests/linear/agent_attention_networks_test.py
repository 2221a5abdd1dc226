"""The networks of agent attention: what the authors' runs do not reach."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.linear import agent_attention
from attnjax.variants.linear.agent_attention.softmax import Softmax

_MINI = {"dims": (8, 8), "depths": (1, 1), "heads": (2, 2), "agents": (4, 4)}
_MINI |= {"agent_blocks": (1, 0), "mlp_ratios": (2.0, 2.0), "patch": 4, "image": 28}


class SoftmaxTest(absltest.TestCase):
  def test_shifted_windows_do_not_join_opposite_borders(self):
    side, window, shift = 6, 3, 1
    layer = Softmax(8, heads=2, window=window, shift=shift, rngs=nnx.Rngs(0))
    table = np.random.default_rng(0).normal(size=(2, 5, 5))
    layer.bias_table[...] = jnp.asarray(table, jnp.float32)
    x = 9 * jax.random.normal(jax.random.key(1), (1, side, side, 8))
    run = jax.jit(lambda layer, x: (layer.project(x), contract.weights(layer, x)))
    heads, found = run(layer, x)
    q, k = (np.asarray(y, np.float64).reshape(-1, 2, 4) for y in (heads.q, heads.k))
    scores = np.full((2, side**2, side**2), -np.inf)
    places = list(itertools.product(range(side), repeat=2))
    for (t, a), (s, b) in itertools.product(enumerate(places), repeat=2):
      moved = [[(y - shift) % side for y in place] for place in (a, b)]
      same = all(m // window == n // window for m, n in zip(*moved))
      near = all((m < shift) == (n < shift) for m, n in zip(a, b))
      if same and near:
        row, column = (n - m + window - 1 for m, n in zip(*moved))
        scores[:, t, s] = (q[t] * k[s]).sum(-1) / 2 + table[:, row, column]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found[0], weights, atol=1e-5)

  def test_reduced_keys(self):
    layer = Softmax(8, heads=2, sr_ratio=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 4, 6, 8))
    y, few, v, weights = jax.jit(
      lambda layer, x: (
        layer(x),
        layer.qkv.value(layer.reduce(x)),
        layer.project(x).v,
        contract.weights(layer, x),
      )
    )(layer, x)
    np.testing.assert_allclose(few, v, atol=1e-6)
    mixed = np.einsum("bnts,bsnv->btnv", weights, np.reshape(v, (1, 6, 2, 4)))
    wanted = np.asarray(layer.out(jnp.asarray(mixed))).reshape(y.shape)
    np.testing.assert_allclose(y, wanted, atol=1e-6)


class NetworkTest(parameterized.TestCase):
  @parameterized.parameters(
    ("deit", [(10, 6)] * 2 + [(1, 1)], [61, 61]),
    ("pvt", [(10, 6), (5, 3)], [60, 15]),
    ("swin", [(10, 6), (5, 3)], [60, 15]),
  )
  def test_images_of_other_sizes(self, kind, sides, tokens):
    def run(images):
      options = {"kind": kind, "sr_ratios": (1, 1), **_MINI}
      model = agent_attention.Model(3, 5, **options, rngs=nnx.Rngs(0))
      trace = model.trace(images)
      found = model(images, key=jax.random.key(0)), trace.output
      return found, model.features(images), model.weights(images)

    images = jax.ShapeDtypeStruct((2, 39, 22, 3), jnp.float32)
    logits, maps, weights = jax.eval_shape(run, images)
    self.assertEqual([y.shape for y in logits], [(2, 5)] * 2)
    self.assertEqual([y.shape[1:3] for y in maps], sides)
    self.assertEqual([y.shape for y in weights], [(2, 2, n, n) for n in tokens])

  @parameterized.parameters(
    ("deit_tiny", 1e-6, lambda body: body.norm, 1e-6),
    ("pvt_tiny", 1e-6, lambda body: body.merges[1].embedding.norm, 1e-5),
    ("swin_tiny", 1e-5, lambda body: body.merges[1].norm, 1e-5),
  )
  def test_epsilons_of_the_official_configurations(self, size, blocks, other, own):
    options = agent_attention.SIZES[size] | {"depths": (1,) * 4}
    body = jax.eval_shape(
      lambda: agent_attention.Model(3, 5, **options, rngs=nnx.Rngs(0)).stages
    )
    block = body.stages[0].sequence[0]
    self.assertEqual((block.norm.epsilon, block.feed_norm.epsilon), (blocks, blocks))
    self.assertEqual(other(body).epsilon, own)

  def test_a_class_token_before_another_grid(self):
    options = {"heads": 2, "num_agents": 4, "form": "sequence", "class_token": True}
    layer, other = (
      agent_attention.Layer(8, grid=grid, **options, rngs=nnx.Rngs(0))
      for grid in ((3, 4), (2, 6))
    )
    for bias in (layer.gather, layer.spread, other.gather, other.spread):
      for side in bias.sides:  # equal at all places: interpolated to itself
        side[...] = jnp.full_like(side[...], 0.3)
    x = jax.random.normal(jax.random.key(1), (1, 13, 8))
    run = jax.jit(lambda x: (layer(x, grid=(2, 6)), other(x), layer(x)))
    got, wanted, plain = run(x)
    state = jax.tree.leaves(layer), jax.tree.leaves(other)
    same = all(np.array_equal(a, b) for a, b in zip(*state) if a.shape == b.shape)
    self.assertTrue(same)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    self.assertGreater(np.abs(got - plain).max(), 1e-4)


if __name__ == "__main__":
  absltest.main()
