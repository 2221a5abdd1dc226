"""Visual sinks by hand, in NumPy and in the host: values, selection, redistribution."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.contract.trace import Edits
from attnjax.models import fusion
from attnjax.variants.analysis import visual_sinks as vs


def _weights(rows):
  """Weights (1, 1, T, S)."""
  return jnp.array(rows, jnp.float32)[None, None]


# Keys: a word that is a sink, a visual sink, two other places, a word.
SINKS = jnp.array([[True, True, False, False, False]])
IMAGE = jnp.array([[False, True, True, True, False]])


class ByHandTest(parameterized.TestCase):
  def test_sink_values(self):
    x = jnp.array([[3.0, -4.0, 0.0, 0.0], [0.0, 1.0, 7.0, -1.0]])
    got = vs.sink_values(x, (0, 1))
    np.testing.assert_allclose(got, [4 / 2.5, 1 / np.sqrt(51 / 4)], rtol=1e-5)
    np.testing.assert_allclose(vs.sink_values(1e3 * x, (0, 1)), got, rtol=1e-5)
    np.testing.assert_allclose(
      vs.sink_values(jnp.full((1, 4), 1e-3), (0,)), [2**-0.5], rtol=1e-4
    )
    for dims in ((), (4,), (-1,)):
      with self.assertRaisesRegex(ValueError, "of a width of 4"):
        vs.sink_values(x, dims)

  def test_sinks_are_above_tau_and_real(self):
    x = jnp.array([[[3.0, -4.0, 0.0, 0.0], [0.0, 1.0, 7.0, -1.0], [5, 0, 0, 0]]])
    valid = jnp.array([[True, True, False]])
    self.assertEqual(vs.sinks(x, (0, 1), tau=1.5)[0].tolist(), [True, False, True])
    self.assertEqual(
      vs.sinks(x, (0, 1), tau=1.5, valid=valid)[0].tolist(), [True, False, False]
    )
    self.assertFalse(vs.sinks(x, (0, 1)).any())  # tau is 20

  def test_dimensions_are_those_of_the_first_token_in_middle_layers(self):
    hidden = np.ones((6, 2, 3, 40), np.float32)
    hidden[2:5, :, 0, 7], hidden[3, :, 0, 9] = 60.0, 90.0
    hidden[:2, :, 0, 1] = hidden[5, :, 0, 1] = 1000.0  # not in the middle
    hidden[:, :, 1, 3] = 1000.0  # another token
    self.assertEqual(vs.find_sink_dims(list(hidden), 3, tau=1.5), (7, 9))
    self.assertEqual(vs.find_sink_dims(list(hidden), 1, tau=1.5), (7,))
    self.assertEqual(vs.find_sink_dims(list(hidden), tau=10.0), ())
    self.assertEqual(vs.find_sink_dims(list(hidden), token=1, tau=5.0), (3,))

  @parameterized.parameters(
    # On sinks 0.1 of 0.5: a fifth.
    ([0.2, 0.1, 0.3, 0.1, 0.3], 0.79, 0.5, True),
    ([0.2, 0.1, 0.3, 0.1, 0.3], 0.81, 0.5, False),
    ([0.2, 0.1, 0.3, 0.1, 0.3], 0.79, 0.51, False),
    ([0.2, 0.0, 0.0, 0.0, 0.8], 0.0, 0.0, False),  # nothing to give to
  )
  def test_selection(self, row, rho, summ, want):
    got = vs.image_head_mask(_weights([row]), IMAGE, SINKS, rho=rho, summ=summ)
    self.assertEqual(got.tolist(), [[[want]]])
    none = vs.image_head_mask(_weights([row]), IMAGE, SINKS & ~IMAGE, rho=0.0, summ=0.0)
    self.assertFalse(none.any())  # no visual sink

  def test_a_millionth_for_each_token_of_the_image(self):
    row = [0.5, 3e-6, 3e-6, 0.0, 0.5]  # 3 of 6 millionths, of 9 with the code's
    for rho, want in ((0.6, True), (0.7, False)):
      got = vs.image_head_mask(_weights([row]), IMAGE, SINKS, rho=rho, summ=0.0)
      self.assertEqual(bool(got[0, 0, 0]), want)

  def test_redistribution(self):
    attn = _weights([[0.2, 0.1, 0.3, 0.1, 0.3], [0.2, 0.1, 0.3, 0.1, 0.3]])
    select = jnp.array([[[True, False]]])
    got = vs.redistribute(attn, SINKS, IMAGE, select, p=0.5)
    want = [0.1, 0.05, 0.3 + 0.15 * 0.75, 0.1 + 0.15 * 0.25, 0.3]
    np.testing.assert_allclose(got[0, 0, 0], want, rtol=1e-6)
    np.testing.assert_array_equal(got[0, 0, 1], attn[0, 0, 1])
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-6)
    default = vs.redistribute(attn, SINKS, IMAGE, select)
    np.testing.assert_allclose(default[0, 0, 0, :2], [0.12, 0.06], rtol=1e-6)
    same = vs.redistribute(attn, SINKS, IMAGE, select, p=0.0)
    np.testing.assert_allclose(same, attn, rtol=1e-6)

  def test_overlap(self):
    rows = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    # 1, 1/3, 1/3, and 0 with the empty row, three times.
    self.assertAlmostEqual(vs.overlap(rows), (1 + 2 / 3) / 6)
    self.assertEqual(vs.overlap(rows[:2]), 1.0)
    self.assertTrue(np.isnan(vs.overlap(rows[3:])))
    self.assertTrue(np.isnan(vs.overlap(rows[:1])))

  def test_random_tokens_are_others_and_as_many(self):
    chosen = np.zeros((2, 9), bool)
    chosen[0, 2:4] = chosen[1, 5] = True
    among = np.tile(np.arange(9) > 1, (2, 1))
    got = vs.random_like(chosen, among, 3)
    self.assertEqual(got.sum(1).tolist(), [2, 1])
    self.assertFalse((got & (chosen | ~among)).any())
    with self.assertRaisesRegex(ValueError, "row 0: 2 of 0 other tokens"):
      vs.random_like(chosen, chosen)


def _problem(seed=0, T=9, S=12, N=4, K=2):
  draw = np.random.default_rng(seed).standard_normal
  q, k, v = (jnp.asarray(draw(s), jnp.float32) for s in (
    (2, T, N, 8), (2, S, K, 8), (2, S, K, 8)))  # fmt: skip
  place = np.arange(S)
  sinks = np.isin(place, (0, 3, 6)) & np.ones((2, 1), bool)
  image = np.broadcast_to((place > 1) & (place < 9), (2, S))
  sinks[1] = np.isin(place, (0, 5))
  masks = {"sink_mask": jnp.asarray(sinks), "vis_mask": jnp.asarray(image)}
  return q, k, v, masks


class AttendTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.25, 1.0)
  def test_is_the_edit_of_weights(self, p):
    q, k, v, masks = _problem()
    weights = jnp.einsum("btnh,bsnh->bnts", q, jnp.repeat(k, 2, axis=2)) / 8**0.5
    seen = np.arange(12) <= np.arange(9)[:, None] + 3
    weights = jax.nn.softmax(jnp.where(seen, weights, -jnp.inf), axis=-1)
    chosen = vs.image_head_mask(weights, masks["vis_mask"], masks["sink_mask"], rho=0.5)
    self.assertBetween(chosen.mean(), 0.2, 0.9)
    queries = jnp.broadcast_to(jnp.arange(9) > 2, (2, 9))
    edited = vs.redistribute(
      weights, masks["sink_mask"], masks["vis_mask"], chosen & queries[:, None], p=p
    )
    want = jnp.einsum("bnts,bsnv->btnv", edited, jnp.repeat(v, 2, axis=2))
    given = {"rho": 0.5, "p": p, "query_mask": queries, **masks}
    how = {"causal": True, "return_selected": True}
    for impl in ("xla", "reference"):
      run = jax.jit(functools.partial(vs.attend, **how, impl=impl))
      got, which = run(q, k, v, **given)
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
      np.testing.assert_array_equal(which, chosen & queries[:, None])

  def test_defaults_are_the_papers(self):
    q, k, v, masks = _problem(3)
    got = jax.jit(vs.attend)(q, k, v, **masks)
    papers = {"rho": 0.8, "summ": 0.2, "p": 0.4, "impl": "reference"}
    paper, other = (
      vs.attend(q, k, v, **masks, **papers | change) for change in ({}, {"rho": 0.5})
    )
    np.testing.assert_allclose(got, paper, rtol=1e-4, atol=1e-5)
    default = vs.reference(q, k, v, **masks)
    np.testing.assert_allclose(default, paper, rtol=1e-6)
    self.assertGreater(jnp.abs(got - other).max(), 1e-2)

  def test_plain_attention_without_visual_sinks_and_without_rest(self):
    q, k, v, masks = _problem()
    plain = jax.nn.dot_product_attention(q, k, v)
    masks |= {"rho": 0.0, "summ": 0.0, "p": 0.4, "query_mask": jnp.ones((2, 9), bool)}
    run = jax.jit(vs.attend)
    for change in (
      {"sink_mask": masks["sink_mask"] & ~masks["vis_mask"]},
      {"sink_mask": masks["vis_mask"]},
      {"query_mask": jnp.zeros((2, 9), bool)},
      {"p": 0.0},
    ):
      got = run(q, k, v, **masks | change)
      np.testing.assert_allclose(got, plain, rtol=1e-4, atol=1e-5, err_msg=str(change))

  def test_decoding_is_the_last_row(self):
    q, k, v, masks = _problem(T=12)
    ids = jnp.broadcast_to(jnp.where(jnp.arange(15) < 12, 0, -1), (2, 15))

    @jax.jit
    def run(q, k, v, masks):
      def pad(x):  # room in the cache behind the last key
        return jnp.pad(x, [(0, 0), (0, 3)] + [(0, 0)] * (x.ndim - 2))

      given = {"rho": 0.4, "causal": True}
      whole = vs.attend(q, k, v, **masks, **given)
      cached = {"segment_ids": jnp.zeros((2, 1), int), "kv_segment_ids": ids}
      given |= jax.tree.map(pad, masks) | cached | {"offset": 11}
      return whole, vs.attend(q[:, -1:], pad(k), pad(v), **given)

    whole, one = run(q, k, v, masks)
    np.testing.assert_allclose(one, whole[:, -1:], rtol=1e-4, atol=1e-5)

  def test_shares_are_sums_of_weights(self):
    q, k, _, masks = _problem()
    got = jax.jit(vs.group_shares)(q, k, **masks)
    scores = jnp.einsum("btnh,bsnh->bnts", q, jnp.repeat(k, 2, axis=2)) / 8**0.5
    weights = np.asarray(jax.nn.softmax(scores, axis=-1))
    sinks, image = (np.asarray(x)[:, None, None] for x in masks.values())
    groups = image & ~sinks, image & sinks, sinks & ~image, ~sinks & ~image
    for share, group in zip(got, groups):
      np.testing.assert_allclose(share, (weights * group).sum(-1), rtol=1e-4)

  def test_errors_name_value_and_rule(self):
    q, k, v, masks = _problem()
    unchecked = inspect.unwrap(vs.attend)
    with self.assertRaisesRegex(ValueError, r"vis_mask has the shape \(2, 9\), not"):
      unchecked(q, k, v, **masks | {"vis_mask": jnp.ones((2, 9), bool)})


@functools.cache
def _host():
  model, batch = fusion.tiny(nnx.Rngs(0))
  model.embed.embedding = nnx.Param(2 * model.embed.embedding[...])
  images, tokens = (jnp.asarray(batch[n]) for n in ("image", "tokens"))
  plain = jax.jit(lambda m: m.trace(images, tokens))(model)
  return model, images, tokens, plain


OPTIONS = {"tau": 1.2, "rho": 0.3, "summ": 0.1, "p": 0.5}


@functools.cache
def _redirected():
  """The trace of the host, redirected in layer 1 by sinks of the first 16 tokens."""
  model, images, tokens, _ = _host()
  image = model.span(images.shape)
  edit = vs.redirected(
    image, (1, 4), layers=3, first_layer=1, prompt=image[1] + 2, **OPTIONS
  )
  return jax.jit(lambda m: m.trace(images, tokens, edit=edit))(model)


class HostTest(absltest.TestCase):
  def test_redirects_the_words_in_the_middle_layers(self):
    model, images, tokens, plain = _host()
    image = model.span(images.shape)
    got = _redirected()
    for layer in (0, 2):
      _close(got.mixed[layer], model_mix(model, layer, got.heads[layer]))
    place = jnp.broadcast_to(jnp.arange(22), (3, 22))
    x = got.hidden[1]
    sinks = (vs.sink_values(x, (1, 4)) > 1.2) & (place < image[1] + 2)
    heads = got.heads[1]
    want, selected = vs.attend(
      heads.q, heads.k, heads.v, causal=True, sink_mask=sinks,
      vis_mask=(place >= image[0]) & (place < image[1]), query_mask=place >= image[1],
      rho=0.3, summ=0.1, p=0.5, return_selected=True, impl="reference",
    )  # fmt: skip
    self.assertBetween(selected[:, :, image[1] :].mean(), 0.1, 1.0)
    _close(got.mixed[1], want)
    self.assertGreater(jnp.abs(got.output - plain.output).max(), 1e-3)

  def test_an_installed_redirection_decodes(self):
    model, images, tokens, plain = _host()
    image = model.span(images.shape)
    given = OPTIONS | {"first_layer": 1}
    ready = vs.installed(model, image, (1, 4), **given)

    traced = _redirected().output
    step = jax.jit(lambda m, words, cache, **c: m.step(words, cache, **c))
    cache = ready.init_cache(3, 22)
    first, cache = step(ready, tokens[:, :4], cache, images=images)
    _close(jax.jit(lambda m: m(images, tokens[:, :4]))(ready), first)
    out = [first]
    for at in range(4, 10):
      logits, cache = step(ready, tokens[:, at : at + 1], cache)
      out.append(logits)
    _close(jnp.concatenate(out, axis=1), traced)
    self.assertGreater(jnp.abs(plain.output - traced).max(), 1e-3)
    with self.assertRaisesRegex(TypeError, "'rh' is no option; there are tau, rho"):
      vs.installed(model, image, (1, 4), rh=0.5)
    with self.assertRaisesRegex(NotImplementedError, "edit of `redirected`"):
      ready.trace(images, tokens)

  def test_which_layers_are_redirected(self):
    plain = _host()[3]
    for options, want in (
      ({}, {2}),
      ({"layers": 3}, set()),
      ({"layers": 3, "except_last": False}, {2}),
      ({"first_layer": 1}, {1, 2}),
    ):
      given = {"layers": 4} | OPTIONS | options
      edit = vs.redirected((2, 14), (1, 4), **given)
      changed = set()

      def run(trace, edit=edit, changed=changed):
        for index in range(3):
          mixed = edit.mixed(index, trace.mixed[index], trace.heads[index])
          changed |= {index} if mixed is not trace.mixed[index] else set()
          edit.hidden(index, trace.hidden[index + 1])

      jax.eval_shape(run, plain)
      self.assertEqual(changed, want, options)

  def test_a_bias_of_all_layers_and_hidden_tokens(self):
    plain, bias = _host()[3], jnp.zeros((1, 1, 1, 22)).at[..., 5].set(-1e9)
    hidden = vs.redirected((2, 14), (1, 4), layers=3, bias=bias)
    silent = vs.silenced(jnp.broadcast_to(jnp.arange(22) == 5, (3, 22)))
    heads = plain.heads[0]
    v = np.delete(np.asarray(heads.v), 5, axis=1)
    k = np.delete(np.asarray(heads.k), 5, axis=1)
    seen = np.delete(np.tri(22, dtype=bool), 5, axis=1)
    want = jax.nn.dot_product_attention(heads.q, k, v, mask=seen[None, None])

    @jax.jit
    def run(found, heads):
      return [edit.mixed(0, found, heads) for edit in (hidden, silent)]

    for got in run(plain.mixed[0], heads):
      _close(got, want)

  def test_refuses_other_mechanisms_and_early_layers(self):
    with self.assertRaisesRegex(ValueError, "first_layer = 0; it must be at least 1"):
      vs.redirected((0, 1), (1,), layers=2, first_layer=0)
    heads = dataclasses.replace(_host()[3].heads[0], more={"gate": 1})
    edit = vs.silenced(jnp.zeros((3, 22), bool))
    self.assertIsInstance(edit, Edits)
    with self.assertRaisesRegex(NotImplementedError, r"heads with \['gate'\]"):
      edit.mixed(0, heads.q, heads)

  def test_reports_means_over_words(self):
    model, images, tokens, plain = _host()
    trace = jax.device_get(plain)
    report = vs.analyse(trace, dims=(1, 4), tau=1.2, rho=0.3, summ=0.1)
    first, end = model.span(images.shape)
    for index, _, block, _ in model.stack.each():
      weights = np.asarray(contract.shares(block.mixer, plain.heads[index]))
      sinks = report["sinks"][:, index]
      x = np.asarray(plain.hidden[index])
      rms = np.sqrt((x**2).mean(-1) + 1e-6)
      value = np.abs(x[..., [1, 4]]).max(-1) / rms
      np.testing.assert_allclose(report["values"][:, index], value, rtol=1e-4)
      np.testing.assert_array_equal(sinks, value > 1.2)
      rows, s = weights[:, :, end:], sinks[:, None, None]
      picture = (np.arange(22) >= first) & (np.arange(22) < end)
      for name, group in (
        ("image_share", picture),
        ("sink_share", s & picture),
        ("text_sink_share", s & ~picture),
      ):
        got, want = report[name][index], (rows * group).sum(-1).mean()
        self.assertAlmostEqual(got, want, 5, name)
      chosen = (rows * (s & picture)).sum(-1) <= 0.7 * (rows * picture).sum(-1) + 0.7e-6
      chosen &= (rows * picture).sum(-1) >= 0.1
      chosen &= (s & picture).any(-1)
      self.assertAlmostEqual(report["selected"][index], chosen.mean(), 5)
      self.assertAlmostEqual(report["overlap"][index], vs.overlap(sinks & picture))
    with self.assertRaisesRegex(ValueError, "no dimension of the first token is above"):
      vs.analyse(trace)
    blind = dataclasses.replace(trace, tokens=np.zeros((3, 22), int))
    with self.assertRaisesRegex(ValueError, "has no image: no token is -1"):
      vs.analyse(blind)


def model_mix(model, layer, heads):
  """The layer's own mix of heads."""
  block = next(b for i, _, b, _ in model.stack.each() if i == layer)
  return block.mixer.mix(heads)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
