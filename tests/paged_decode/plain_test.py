"""Attention to pages in plain JAX, against loops in NumPy, and its derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from attnjax.core.softmax import paged
from tests.paged_decode.problems import SIZES, arrays, expected

_PLAIN = ("reference", "xla")


class DefinitionTest(parameterized.TestCase):
  @parameterized.product(name=tuple(SIZES), impl=_PLAIN)
  def test_definitions(self, name, impl):
    given = arrays(name)
    run = jax.jit(
      lambda *x: attnjax.paged_decode(*x, scale=0.4, page_scores=True, impl=impl)
    )
    got, want = run(*given), expected(*given, scale=0.4)
    for one, other in zip(got, want):
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(*_PLAIN)
  def test_scale_and_scores_by_default(self, impl):
    given = arrays("one_list")
    got = attnjax.paged_decode(*given, impl=impl)
    np.testing.assert_allclose(got.out, expected(*given)[0], rtol=1e-5, atol=1e-6)
    self.assertIsNone(got.scores)

  @parameterized.parameters("one_list", "lists_of_heads")
  def test_gradients_of_what_is_read_alone(self, name):
    *floats, table, lengths = arrays(name)
    weight = np.random.default_rng(1).standard_normal(SIZES[name][2] * 64)

    def loss(impl, *x):
      pages: Any = *x, table, lengths
      found = attnjax.paged_decode(*pages, page_scores=True, impl=impl)
      lse = jnp.where(jnp.isfinite(found.lse), found.lse, 0)
      total = sum(jnp.sin(y + 1).sum() for y in (found.out, lse))
      return total + (found.scores * weight[: table.shape[2]]).sum()

    got, want = (
      jax.jit(jax.grad(lambda *x, i=impl: loss(i, *x), (0, 1, 2)))(*floats)
      for impl in _PLAIN
    )
    for one, other in zip(got, want):
      self.assertGreater(np.abs(other).max(), 1e-3)
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    (B, G, _), (_, page, K, _) = table.shape, floats[1].shape
    read = np.zeros(floats[1].shape[:3], bool)
    for b, g in np.ndindex(B, G):
      heads = range(K) if G == 1 else [g * K // G]
      for place in range(lengths[b, g]):
        read[table[b, g, place // page], place % page, heads] = True
    self.assertFalse(read.all())
    np.testing.assert_array_equal(np.asarray(got[2])[~read], 0)

  @parameterized.parameters(*_PLAIN)
  def test_what_is_not_read_may_be_anything(self, impl):
    q, k, v, table, lengths = arrays("one_list")
    lengths = np.minimum(lengths, 3 * 16 - 5)
    want = attnjax.paged_decode(q, k, v, table, lengths, impl=impl)
    read = np.zeros(k.shape[:2], bool)
    for row, length in zip(table[:, 0], lengths[:, 0]):
      for place in range(length):
        read[row[place // 16], place % 16] = True
    k, v = (np.where(read[..., None, None], x, np.nan) for x in (k, v))
    table = np.where(np.arange(4) * 16 < lengths[..., None], table, 10**6)
    got = attnjax.paged_decode(q, k, v, table, lengths, impl=impl)
    for one, other in zip(got[:2], want[:2]):
      np.testing.assert_array_equal(one, other)

  @parameterized.parameters(*_PLAIN)
  def test_pages_may_begin_anywhere(self, impl):
    """Runs of a cache that is not paged, the last one shorter than a page."""
    draw = np.random.default_rng(3).standard_normal
    q, k, v = (
      jnp.asarray(draw(s), jnp.float32) for s in [(1, 2, 4)] + [(20, 1, 4)] * 2
    )
    starts, counts = jnp.array([[[7, 1, 18]]]), jnp.array([[[4, 3, 2]]])
    plain = {"reference": paged.reference, "xla": paged.gathered}[impl]
    got = plain(q, k, v, starts, counts, page=4, scale=1.0, scores=True)
    tokens = np.array([7, 8, 9, 10, 1, 2, 3, 18, 19])
    weight = jax.nn.softmax(q[0] @ k[tokens, 0].T, axis=1)
    np.testing.assert_allclose(got.out[0], weight @ v[tokens, 0], rtol=1e-5)
    most = np.asarray(weight).max(axis=0)
    want = [most[:4].sum(), most[4:7].sum(), most[7:].sum()]
    np.testing.assert_allclose(got.scores[0, 0], want, rtol=1e-5)

  def test_half_precision_sums_in_float32(self):
    *given, table, lengths = arrays("many_pages")
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in given)
    got = attnjax.paged_decode(q, k, v, table, lengths, impl="xla")
    q, k, v = (np.asarray(x, np.float32) for x in (q, k, v))
    want = expected(q, k, v, table, lengths)
    self.assertEqual((got.out.dtype, got.lse.dtype), (jnp.bfloat16, jnp.float32))
    np.testing.assert_allclose(got.lse, want[1], rtol=1e-5)
    np.testing.assert_allclose(
      np.asarray(got.out, np.float32), want[0], rtol=4e-3, atol=1e-5
    )

  def test_rows_under_vmap(self):
    q, k, v, table, lengths = arrays("one_list")
    two = np.stack([q, 2 * q])
    got = jax.vmap(lambda q: attnjax.paged_decode(q, k, v, table, lengths).out)(two)
    want = attnjax.paged_decode(2 * q, k, v, table, lengths).out
    np.testing.assert_allclose(got[1], want, rtol=1e-6, atol=1e-6)

  def test_bad_input(self):
    q, k, v, table, lengths = (jnp.asarray(x) for x in arrays("one_list"))
    run = attnjax.paged_decode
    with self.assertRaisesRegex(ValueError, "3 lists.* 1, or 2 or 4"):
      run(q, k, v, jnp.tile(table, (1, 3, 1)), jnp.tile(lengths, (1, 3)))
    with self.assertRaisesRegex(ValueError, "lengths .3, 2. of lists .3, 1, 4."):
      run(q, k, v, table, jnp.tile(lengths, (1, 2)))
    with self.assertRaisesRegex(ValueError, "keys .* and values .* both are"):
      run(q, k, v[:, :3], table, lengths)
    with self.assertRaisesRegex(ValueError, "2 key heads must divide 3"):
      run(q[:, :3], k, v, table, lengths)
    with self.assertRaisesRegex(ValueError, "keys have 8 elements, queries 4"):
      run(q[..., :4], k, v, table, lengths)
    with self.assertRaisesRegex(ValueError, "for 2 rows"):
      run(q[:2], k, v, table, lengths)
    with self.assertRaisesRegex(ValueError, "impl 'cuda'"):
      run(q, k, v, table, lengths, impl="cuda")


if __name__ == "__main__":
  absltest.main()
