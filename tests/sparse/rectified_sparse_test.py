"""Rectified block-sparse attention: what the paper alone promises."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.core.grids import partition
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import rectified_sparse

T, BLOCK, TEXT = 29, 4, 4  # blocks of 4 and a last one of 1


def _arrays():
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (1, T, 2, 8)) for key in keys]


@functools.cache
def _compiled(**options):
  def run(q, k, v):
    given: dict[str, Any] = {
      "block": BLOCK,
      "text": TEXT,
      "return_plan": True,
      "impl": "reference",
    }
    return rectified_sparse.attend(q, k, v, **given | options)

  return jax.jit(run)


def _dense(q, k, v):
  return dot_product.attend(q, k, v, impl="reference")


class AttendTest(parameterized.TestCase):
  def test_with_all_critical_it_is_softmax_attention(self):
    heads = _arrays()
    out, plan = _compiled(mass=1.0)(*heads)
    np.testing.assert_allclose(out, _dense(*heads), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plan.factor, 1, rtol=1e-6)

  def test_with_equal_tokens_in_blocks_it_is_softmax_attention(self):
    q, k, v = _arrays()
    number = jnp.where(jnp.arange(T) < T - TEXT, jnp.arange(T) // BLOCK, jnp.arange(T))
    q, k = q[:, number], k[:, number]
    out, plan = _compiled(mass=0.2)(q, k, v)
    self.assertGreater(float(plan.rectified.mean()), 0.3)
    np.testing.assert_allclose(out, _dense(q, k, v), rtol=1e-4, atol=1e-5)

  def test_without_correction_it_is_block_sparse(self):
    heads = _arrays()
    out, plan = _compiled(correction="none")(*heads)
    seen = jnp.repeat(jnp.repeat(plan.critical, BLOCK, axis=2), BLOCK, axis=3)
    mask = jnp.ones((1, 2, T, T), bool)
    mask = mask.at[:, :, :-TEXT, :-TEXT].set(seen[:, :, : T - TEXT, : T - TEXT])
    want = dot_product.attend(*heads, mask=mask, impl="reference")
    self.assertLess(float(seen.mean()), 0.8)
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)

  @parameterized.parameters(True, False)
  def test_masses_sum_to_one(self, gain_test):
    _, plan = _compiled(gain_test=gain_test)(*_arrays())
    rest = jnp.where(plan.rectified, plan.probability[..., :-1], 0).sum(-1)
    np.testing.assert_allclose(plan.factor + rest, 1, rtol=1e-5)
    self.assertFalse((plan.rectified & plan.critical).any())
    if not gain_test:
      self.assertTrue((plan.rectified | plan.critical).all())

  def test_the_order_inside_blocks_does_not_choose(self):
    heads = _arrays()
    swap = np.arange(T).reshape(-1)
    swap[:BLOCK] = [2, 0, 3, 1]
    run = _compiled()
    plan, other = run(*heads)[1], run(*(x[:, swap] for x in heads))[1]
    for name in ("critical", "rectified", "gain"):
      np.testing.assert_array_equal(getattr(plan, name), getattr(other, name))
    np.testing.assert_allclose(plan.addition, other.addition, rtol=1e-4, atol=1e-5)

  def test_no_query_drops_the_text(self):
    q, k, v = _arrays()
    # The least that a key can get: its score is far below the others'.
    k = k.at[:, -TEXT:].set(-2 * jnp.sign(q[:, :1]))
    run = _compiled()
    change = run(q, k, v.at[:, -TEXT:].add(100.0))[0] - run(q, k, v)[0]
    self.assertGreater(float(abs(change).max(axis=-1).min()), 1e-4)

  def test_blocks_that_touch(self):
    order = partition.hilbert_order((4, 4))
    table = rectified_sparse.touching(order, (4, 4), 4)  # the curve's four quadrants
    ring = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]])
    np.testing.assert_array_equal(table, ring == 1)

  @parameterized.parameters(
    ({"mass": 1.5}, "mass = 1.5"),
    ({"text": T}, "text = 29 of 29"),
    ({"correction": "all"}, "correction 'all'"),
    ({"neighbours": jnp.ones((3, 3), bool)}, r"neighbours \(3, 3\) for 8 blocks"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      rectified_sparse.attend(*_arrays(), **{"block": BLOCK} | options)


class LayerTest(absltest.TestCase):
  def test_films_with_all_critical_are_seen_whole(self):
    layer = rectified_sparse.Layer(
      8,
      form="video",
      heads=2,
      block=4,
      mass=1.0,
      qkv_bias=False,
      out_bias=False,
      impl="reference",
      rngs=nnx.Rngs(0),
    )
    plain = dot_product.Layer(
      8, form="sequence", heads=2, rope_theta=0.0, impl="reference", rngs=nnx.Rngs(0)
    )
    plain.qkv, plain.out = layer.qkv, layer.out
    x = jax.random.normal(jax.random.key(1), (1, 3, 2, 3, 8))
    run = jax.jit(lambda f, x: f(x))
    want = run(plain, x.reshape(1, -1, 8)).reshape(x.shape)
    np.testing.assert_allclose(run(layer, x), want, rtol=1e-4, atol=1e-6)

  def test_images_follow_the_definition_along_the_curve(self):
    layer = rectified_sparse.Layer(
      8, form="image", heads=2, block=4, mass=0.3, rngs=nnx.Rngs(0)
    )
    for part in (layer.qkv.query, layer.qkv.key):
      part.kernel[...] *= 9
    # Blocks are squares of 2 x 2 tokens that differ little, so that many may be pooled.
    keys, order = jax.random.split(jax.random.key(1)), partition.hilbert_order((8, 8))
    x = jnp.kron(jax.random.normal(keys[0], (1, 4, 4, 8)), jnp.ones((1, 2, 2, 1)))
    x = x + 0.4 * jax.random.normal(keys[1], x.shape)
    square = np.stack(np.divmod(order[::BLOCK], 8)) // 2
    near = abs(square[:, :, None] - square[:, None]).sum(axis=0) <= 1

    @jax.jit
    def run(layer, x):
      heads = layer.project(x)
      return layer.mix(heads), (heads.q, heads.k, heads.v)

    got, heads = run(layer, x)
    found = [
      _definition(*(np.asarray(y)[0, order, n] for y in heads), BLOCK, 0.3, near)
      for n in range(2)
    ]
    np.testing.assert_allclose(
      got[0, order], np.stack(found, axis=1), rtol=1e-4, atol=1e-5
    )

  def test_what_a_form_cannot_take_is_named(self):
    with self.assertRaisesRegex(ValueError, "text = 3.*form 'image'"):
      rectified_sparse.Layer(8, form="image", text=3, rngs=nnx.Rngs(0))


def _definition(q, k, v, block, mass, neighbours):
  """Rectified attention of one head (T, H) in whole blocks, without text."""

  def pool(x):
    parts = x.reshape(-1, block, x.shape[1])
    mean = parts.mean(axis=1)
    return mean, abs(parts - mean[:, None]).mean(axis=1)

  def softmax(x):
    weight = np.exp(x - x.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)

  (q_mean, q_far), (k_mean, k_far), (v_mean, _) = map(pool, (q, k, v))
  score, scale = q_mean @ k_mean.T, q.shape[1] ** -0.5
  share = softmax(scale * score)
  critical = neighbours.copy()
  for row, chosen in zip(share, critical):
    order = np.argsort(-row)
    chosen[order[: (np.cumsum(row[order]) <= mass).sum() + 1]] = True
  gain = abs(score) > abs(q_far @ k_mean.T) + abs(q_mean @ k_far.T)
  rest = np.where(~critical & gain, share, 0)
  seen = np.kron(critical, np.ones((block, block))) > 0
  exact = softmax(np.where(seen, scale * q @ k.T, -np.inf)) @ v
  factor, addition = 1 - rest.sum(axis=1), rest @ v_mean
  return exact * np.repeat(factor, block)[:, None] + np.repeat(addition, block, axis=0)


if __name__ == "__main__":
  absltest.main()
