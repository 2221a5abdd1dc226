"""Steps under policies that choose pages are equal by kernels and by copies."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import backends, contract, policies
from attnjax.core.cache import KeyValueCache
from attnjax.core.policies import Choice
from attnjax.models import language
from attnjax.ops import policy_pages
from pallas_kernels import calling
from pallas_kernels.paged_decode import of_cache

_KERNELS = tuple(calling.BACKENDS)
_ROW, _ROOM = 13, 16
_POLICIES = {
  "delta": {"full_layers": (0,), "pages": 2, "page": 4, "recent_pages": 1},
  "sparse_frontier.quest": {"budget": 4, "page": 4},
}


def _policy(name):
  slug, _, kind = name.partition(".")
  kinds = contract.form("policy").kinds(slug, contract.load(slug))
  return kinds[name](**_POLICIES[name])


def _decoded(name, impl, valid=None):
  """Returns logits of two rows, decoded one token after the other, and the caches."""
  build = contract.constructor(
    "dot_product", {"heads": 4, "kv_heads": 2, "impl": "xla"}, language.FORMS
  )
  model = language.Model([build], vocab=7, dim=32, depth=2, rngs=nnx.Rngs(0))
  model = jax.tree.map(lambda x: 6 * x if x.ndim > 2 else x, model)
  cache = policies.under(_policy(name), model.init_cache(2, _ROOM), prompt=0)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, _ROW)))
  valid = jnp.ones((2, _ROW), bool) if valid is None else valid

  def one(cache, part):
    logits, cache = model.step(part[0][:, None], cache, valid=part[1][:, None])
    return cache, logits[:, 0]

  real = backends.paged_cache

  def chosen(_, *arrays, **given):
    return real(impl, *arrays, **given)

  with mock.patch.object(backends, "paged_cache", chosen):
    run = jax.jit(lambda cache: jax.lax.scan(one, cache, (tokens.T, valid.T)))
    return jax.block_until_ready(run(cache)[1])


class PoliciesTest(parameterized.TestCase):
  @parameterized.product(name=("delta",), impl=_KERNELS)
  def test_kernels_and_copies(self, name, impl):
    with simulate.accelerators(detect_races=False):
      got = _decoded(name, impl)
    want = _decoded(name, "xla")
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

  def test_pages_of_each_key_head_on_gpus(self):
    name = "sparse_frontier.quest"
    with simulate.accelerators():
      got = _decoded(name, "triton")
    np.testing.assert_allclose(got, _decoded(name, "xla"), rtol=1e-4, atol=1e-4)
    with self.assertRaisesRegex(NotImplementedError, "2 lists a row"):
      _decoded(name, "pallas")

  def test_padding_is_gathered(self):
    valid = jnp.asarray(np.arange(_ROW) != np.array([[2], [7]]))
    with simulate.accelerators():
      got = _decoded("delta", "triton", valid)
    want = _decoded("delta", "xla", valid)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


class PagesTest(absltest.TestCase):
  def _pages(self, slots, places, real):
    held = KeyValueCache.empty(1, 12, (1, 2), (1, 2), jnp.float32)
    cache = policies.under(_policy("delta"), held)
    cache = dataclasses.replace(cache, slots=jnp.array([slots], jnp.int32))
    places, real = jnp.array([[places]]), jnp.array([[real]], bool)
    return policy_pages.pages(cache, Choice(places, real, page=4))

  def test_which_pages_lie_whole_in_a_cache(self):
    in_order, some = list(range(12)), [1] * 4 + [1, 1, 0, 0]
    places = [4, 5, 6, 7, 8, 9, 10, 11]
    first, counts, whole = self._pages(in_order, places, some)
    self.assertEqual((first.tolist(), counts.tolist()), ([[[4, 8]]], [[[4, 2]]]))
    self.assertTrue(whole)
    # A token of the first page lies elsewhere; then only one that is not real does.
    self.assertFalse(self._pages([*range(6), 9, 7, *range(8, 12)], places, some)[2])
    self.assertTrue(self._pages([*range(10), 3, 3], places, some)[2])
    # The document begins at the cache's second token.
    self.assertFalse(self._pages([*range(1, 12), 0], places, some)[2])
    # What is real is no beginning of its page; a page of nothing may be anywhere.
    self.assertFalse(self._pages(in_order, places, [1] * 4 + [1, 0, 1, 0])[2])
    none = [1] * 4 + [0] * 4
    self.assertTrue(self._pages([*range(8), 5, 1, 2, 3], places, none)[2])

  def test_only_softmax_alone_is_computed_by_kernels(self):
    cache = policies.under(
      _policy("delta"), KeyValueCache.empty(1, 12, (1, 2), (1, 2), jnp.float32)
    )
    q, choice = jnp.ones((1, 1, 1, 2)), jnp.arange(4)[None, None]
    ids = jnp.zeros((1, 1), jnp.int32)
    layers = [mock.Mock(softmax_alone=alone, impl="xla") for alone in (True, False)]
    asked = mock.Mock(return_value=None)
    with mock.patch.object(backends, "paged_cache", asked):
      for layer, page in zip((*layers, layers[0]), (4, 4, 1)):
        made = Choice(choice, choice >= 0, page=page)
        self.assertIs(policy_pages.mixed(layer, q, ids, cache, made, lambda: q), q)
    asked.assert_called_once()
    self.assertFalse(hasattr(contract.load("gated_attention").Layer, "softmax_alone"))

  def test_derivatives_of_what_lies_in_a_cache(self):
    draw = np.random.default_rng(2).standard_normal
    q, k, v = (
      jnp.asarray(draw(s), jnp.float32) for s in [(2, 2, 4)] + [(3, 2, 8, 1, 4)] * 2
    )
    slots, counts = jnp.array([[[4]], [[0]]]), jnp.array([[[3]], [[2]]])
    data = jnp.int32(1), slots, counts

    def plain(q, k, v):
      rows = [(1, 0, slice(4, 7)), (1, 1, slice(0, 2))]
      weights = [jax.nn.softmax(q[b] @ k[r, b, s, 0].T / 2) for r, b, s in rows]
      return jnp.stack([w @ v[r, b, s, 0] for w, (r, b, s) in zip(weights, rows)])

    with simulate.accelerators():
      run = of_cache(q, k, slots, page=4, impl="triton")
      np.testing.assert_allclose(run(q, k, v, *data), plain(q, k, v), rtol=1e-4)
      got = jax.grad(lambda *x: jnp.sin(run(*x, *data)).sum(), (0, 1, 2))(q, k, v)
    want = jax.grad(lambda *x: jnp.sin(plain(*x)).sum(), (0, 1, 2))(q, k, v)
    for one, other in zip(got, want):
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
  absltest.main()
