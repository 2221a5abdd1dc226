"""Cache policies of three lines each keep the form, and layers say what they take."""

import dataclasses
import types
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract, policies
from attnjax.contract.forms import policy as form
from attnjax.contract.subject import Subject
from attnjax.core import masks
from attnjax.core.cache import KeyValueCache
from attnjax.core.policies import Choice
from attnjax.models import language
from attnjax.ops import policy_step


@dataclasses.dataclass(frozen=True)
class Recent:
  """The last `keys` places; the first layer shares how many of them later ones see."""

  keys: int = 4
  heads: int = 1  # choices

  def fitted(self, layers):
    return self

  def init(self, batch, length, heads, size, dtype):
    return jnp.zeros((batch,), jnp.int32)

  def start(self, batch, length):
    return jnp.zeros((batch,), jnp.int32)

  def observe(self, own, news):
    del news
    return own

  def choose(self, q, past, own, shared, index):
    places = past.count[:, None, None] - 1 - jnp.arange(self.keys)
    less = jnp.arange(self.heads)[:, None]  # later heads see less
    shared = jnp.where(index == 0, self.keys, shared)
    real = (places >= 0) & (jnp.arange(self.keys) < shared[:, None, None] - less)
    places = jnp.broadcast_to(places, real.shape)
    return Choice(jnp.maximum(places, 0), real), own, shared

  def reads(self, places, layers) -> Any:
    return min(places, self.keys) * layers, 0


@dataclasses.dataclass(frozen=True)
class Alike(Recent):
  """In a prompt, the own block and those whose first keys are most alike the query's.

  Head n sees n blocks more; the prompt is all that is chosen in.
  """

  block: int = 4
  blocks: int = 1

  def prefill(self, q, k, count, index):
    (_, T, N, _), K = q.shape, k.shape[2]
    first = k[:, :: self.block] * k.sum(axis=1, keepdims=True)  # depends on all keys
    first = jnp.repeat(first, N // K, axis=2)
    score = jnp.einsum("bjnh,binh->bnij", first, q[:, :: self.block])
    number = jnp.arange(score.shape[-1])
    past = number < number[:, None]
    rank = (jnp.where(past, score, -jnp.inf)[..., None] < score[..., None, :]) & past[
      :, None
    ]
    more = jnp.arange(N)[:, None, None]
    kept = past & (rank.sum(axis=-1) < self.blocks + more) | jnp.eye(
      len(number), dtype=bool
    )
    index = jnp.argsort(~kept, axis=-1)
    sizes = self.block, self.block, T, T
    return masks.Blocks(index, kept.sum(axis=-1), *sizes)

  def choose(self, *given):
    choice, *rest = super().choose(*given)
    return dataclasses.replace(choice, dense=True), *rest

  def reads(self, places, layers):
    return places * layers, 0


@dataclasses.dataclass(frozen=True)
class Counted(Recent):
  """The same, of many places, with the number of those that are real, times `share`."""

  share: float = 1.0

  def choose(self, *given):
    choice, *rest = super().choose(*given)
    upto = (self.share * choice.real.sum(axis=2).max()).astype(jnp.int32)
    return dataclasses.replace(choice, upto=upto), *rest


def _module(policy=Recent, covering=None, **options):
  made = types.ModuleType("attnjax.toys.recent")
  vars(made).update(Policy=policy, POLICY=options, COVERING=covering or {"keys": 24})
  return made


_SUBJECTS = {
  "shared": Subject(_module(keys=5), "policy"),
  "by_group": Subject(_module(keys=5, heads=2), "policy"),
  "by_head": Subject(_module(keys=6, heads=4), "policy"),
  "in_prompt": Subject(_module(Alike, {"blocks": 6}, blocks=0), "policy"),
}


class FormTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (f"{name}_{check.__name__}", subject, check)
    for name, subject in _SUBJECTS.items()
    for check in form.CHECKS
  )
  def test_form(self, subject, check):
    check(subject)


def _layer(slug, **options):
  options = {"heads": 4, **options}
  return contract.load(slug).Layer(16, form="causal", **options, rngs=nnx.Rngs(0))


def _decoded(layer, x, policy, prompt=0):
  cache = policies.under(policy, layer.init_cache(*x.shape[:2]), prompt=prompt)
  out = []
  step = jax.jit(lambda layer, x, cache: layer.step(x, cache))
  for t in range(x.shape[1]):
    y, cache = step(layer, x[:, t : t + 1], cache)
    out.append(y)
  return jnp.concatenate(out, axis=1)


class SizesTest(absltest.TestCase):
  def test_a_step_reads_no_more_than_a_size_that_holds_what_is_chosen(self):
    layer = _layer("dot_product")
    x = jax.random.normal(jax.random.key(0), (1, 16, 16))
    want = _decoded(layer, x, Recent(16))
    with mock.patch.object(policy_step, "LEAST", 4):
      got = _decoded(layer, x, Counted(16))
      few = _decoded(layer, x, Counted(16, share=0.5))
    np.testing.assert_allclose(got, want, atol=2e-6)
    # Half of t tokens are said to be real: 4 of the 16 places hold them up to t = 9.
    np.testing.assert_allclose(
      few[:, :9], _decoded(layer, x, Recent(4))[:, :9], atol=2e-6
    )
    self.assertGreater(np.abs(few - want).max(), 1e-3)


class PlacesTest(absltest.TestCase):
  def test_places_are_those_of_the_current_run_of_ids(self):
    ids = jnp.array([[-1, 4, 4, -1, 4, 4, 4, 2], [3, 3, -1, 5, 3, 3, -1, -1]])
    held = KeyValueCache.empty(2, 8, (1, 1), (1, 1), jnp.float32)
    start = policies.under(Recent(), held)
    heads = jnp.zeros((2, 8, 1, 1))
    # After 7 tokens, and after all: the slots of the places that are taken.
    want = {7: [[1, 2, 4, 5, 6], [4, 5]], 8: [[7], [4, 5]]}
    step = jax.jit(lambda cache, x, ids: cache.appended(x, x, x, ids))
    for cuts in ([0, 2, 8], [0, 3, 4, 7, 8], [0, 8]):
      cache = start
      for first, last in zip(cuts, cuts[1:]):
        cache, past = step(cache, heads[:, first:last], ids[:, first:last])
        for row, slots in enumerate(want.get(last, [])):
          self.assertEqual(int(past.count[row]), len(slots), cuts)
          self.assertEqual(past.slots[row, : len(slots)].tolist(), slots, cuts)
    np.testing.assert_array_equal(past.taken().sum(axis=1), [1, 2])
    np.testing.assert_array_equal(past.real, [True, False])


class LayersTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.x = jax.random.normal(jax.random.key(0), (2, 9, 16))

  @parameterized.parameters(
    ("dot_product", {"kv_heads": 2}),
    ("gated_attention", {"kv_heads": 2}),
    ("mixture_of_head", {}),
    ("specialized_heads", {}),
    ("gaussian_adaptive", {"apply_to": "key"}),
  )
  def test_the_last_keys_are_a_window(self, slug, options):
    layer: Any = _layer(slug, rope_theta=0.0, **options)
    got = _decoded(layer, self.x, Recent(keys=3))
    # A token that sees three keys sees what it would if the row began there.
    for t in (2, 5, 8):
      want = layer(self.x[:, t - 2 : t + 1])[:, -1]
      np.testing.assert_allclose(got[:, t], want, rtol=1e-4, atol=1e-5)

  def test_heads_see_what_is_chosen_for_them(self):
    layer: Any = _layer("dot_product", kv_heads=2, rope_theta=0.0)
    got = _decoded(layer, self.x, Recent(keys=4, heads=4))
    heads, out = layer.project(self.x), []
    for n in range(4):
      q, k, v = heads.q[:, :, n], heads.k[:, :, n // 2], heads.v[:, :, n // 2]
      first = 9 - 4 + n
      score = jnp.einsum("bh,bsh->bs", q[:, -1], k[:, first:]) / 2
      out.append(jnp.einsum("bs,bsh->bh", jax.nn.softmax(score), v[:, first:]))
    want = layer.out(jnp.stack(out, axis=1)[:, None])[:, 0]
    np.testing.assert_allclose(got[:, -1], want, rtol=1e-4, atol=1e-5)

  @parameterized.parameters("dot_product", "mixture_of_head")
  def test_covering_the_row_changes_no_bit_of_masked_keys(self, slug):
    layer: Any = _layer(slug)
    got = _decoded(layer, self.x, Recent(keys=9))
    want = _decoded(layer, self.x, None)
    if layer.chosen_keys == "masked":
      np.testing.assert_array_equal(got, want)
    else:
      np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)

  def test_a_cache_is_put_under_one_policy(self):
    cache = policies.under(Recent(), _layer("dot_product").init_cache(2, 9))
    with self.assertRaisesRegex(ValueError, "Recent.*already"):
      policies.under(Recent(), cache)
    with self.assertRaisesRegex(NotImplementedError, "asks no policy"):
      cache.append(cache.k, cache.v)

  def test_a_full_cache_is_nan(self):
    layer: Any = _layer("dot_product")
    cache = policies.under(Recent(keys=2), layer.init_cache(2, 4), prompt=0)
    step = jax.jit(lambda layer, x, cache: layer.step(x, cache))
    for t in range(5):
      y, cache = step(layer, self.x[:, t : t + 1], cache)
      good = jnp.isnan(y) if t == 4 else jnp.isfinite(y)
      self.assertTrue(good.all(), t)

  @parameterized.parameters("dot_product", "gated_attention", "gaussian_adaptive")
  def test_a_prompt_sees_what_is_chosen_for_each_head(self, slug):
    options = {"apply_to": "key"} if slug == "gaussian_adaptive" else {"kv_heads": 2}
    layer: Any = _layer(slug, **options)
    policy = Alike(block=2, blocks=0)
    cache = policies.under(policy, layer.init_cache(2, 11))
    step = jax.jit(lambda layer, x, cache, **given: layer.step(x, cache, **given)[0])
    got = step(layer, self.x, cache)
    heads = layer.project(self.x)
    mask = policy.prefill(heads.q, heads.k, jnp.array([9, 9]), 0).dense(9, 9)
    self.assertEqual(mask.shape, (2, 4, 9, 9))
    self.assertTrue((mask[:, 0].sum(axis=(1, 2)) == 17).all())  # own blocks
    seen = heads.seen | {"mask": mask}
    want = layer.merge(layer.mix(dataclasses.replace(heads, seen=seen)), heads)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    valid = jnp.ones((2, 9), bool)
    np.testing.assert_allclose(step(layer, self.x, cache, valid=valid), got, atol=1e-5)

  def test_a_document_of_a_prompt_is_all_tokens_of_its_id(self):
    layer: Any = _layer("dot_product", rope_theta=0.0)
    ids = jnp.array([[0, 0, 1, 1, 0, 0, 1, 1, 0], [-1, 2, 2, -1, 5, 2, 5, 5, -1]])
    got, want = (
      layer.step(
        self.x, policies.under(policy, layer.init_cache(2, 9)), segment_ids=ids
      )[0]
      for policy in (Alike(blocks=3), None)
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

  def test_layers_refuse_by_name(self):
    layer: Any = _layer("superlinear")
    cache = policies.under(Recent(), layer.init_cache(2, 9))
    with self.assertRaisesRegex(NotImplementedError, "superlinear.*chosen_keys"):
      layer.step(self.x, cache)
    layer = _layer("mixture_of_head")
    cache = policies.under(Recent(heads=4), layer.init_cache(2, 9))
    with self.assertRaisesRegex(NotImplementedError, "mixture_of_head.*one choice"):
      layer.step(self.x, cache)
    cache = policies.under(Alike(), layer.init_cache(2, 9))
    with self.assertRaisesRegex(NotImplementedError, "mixture_of_head.*'masked'"):
      layer.step(self.x, cache)
    with self.assertRaisesRegex(NotImplementedError, "prompt = 3.*whole prompt"):
      policies.under(Alike(), layer.init_cache(2, 9), prompt=3)
    layer = _layer("rcmha")
    with self.assertRaisesRegex(NotImplementedError, "rcmha.layer.Cache"):
      policies.under(Recent(), layer.init_cache(2, 9))

  def test_what_the_layers_share_is_the_third_result(self):
    build = contract.constructor("dot_product", {"heads": 2}, language.FORMS)
    model = language.Model([build], vocab=5, dim=8, depth=2, rngs=nnx.Rngs(0))
    cache = policies.under(Recent(keys=3), model.init_cache(1, 4), prompt=0)
    tokens = jnp.zeros((1, 2), jnp.int32)
    none = jax.eval_shape(lambda m, c: m.step(tokens, c), model, cache)
    self.assertLen(none, 2)
    start = policies.start(cache, 2)
    step = jax.jit(lambda m, c, s: m.step(tokens, c, shared=s))
    *_, shared = step(model, cache, start)
    np.testing.assert_array_equal(shared, [[3], [3]])


if __name__ == "__main__":
  absltest.main()
