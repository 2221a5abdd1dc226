"""Hosts opened: traces and edits, what goes from layer to layer, fewer tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.contract.trace import Edits
from attnjax.models import language, pyramid, vision
from attnjax.nn import mlp
from attnjax.nn.stack import Stack
from attnjax.variants.local import davit

DIM, HEADS, T = 16, 2, 12


def _builds(*slugs):
  options = {"heads": HEADS}
  return [contract.constructor(slug, options, language.FORMS) for slug in slugs]


@functools.cache
def _model():
  builds = _builds("lightning2", "dot_product")
  return language.Model(builds, vocab=17, dim=DIM, depth=4, rngs=nnx.Rngs(0))


TOKENS = jax.random.randint(jax.random.key(0), (2, T), 0, 17)
_traced = jax.jit(lambda model, tokens, **context: model.trace(tokens, **context))


class TraceTest(parameterized.TestCase):
  def test_is_the_call_taken_apart(self):
    model, places = _model(), jnp.arange(T)[None] * 3
    trace = _traced(model, TOKENS, positions=places)
    _close(trace.output, model(TOKENS, positions=places))
    self.assertLen(trace.hidden, 5)
    _close(trace.hidden[0], model._embed(TOKENS))
    block = jax.tree.map(lambda leaf: leaf[1], model.stack.blocks[1])
    given = {"index": 3, "positions": places}
    _close(trace.hidden[4], block(trace.hidden[3], **given))
    heads = block.mixer.project(block.mixed(trace.hidden[3], {}), **given)
    _close(trace.heads[3].k, heads.k)
    _close(trace.mixed[3], block.mixer.mix(heads))

  def test_heads_give_the_weights(self):
    model = _model()
    trace, weights = _traced(model, TOKENS), model.weights(TOKENS)
    for index, _, block, _ in model.stack.each():
      _close(contract.shares(block.mixer, trace.heads[index]), weights[index])

  def test_an_edit_changes_what_follows_only(self):
    def edit(index, heads):
      if index != 2:
        return heads
      return dataclasses.replace(heads, v=heads.v.at[..., 0, :].set(0))

    model = _model()
    plain, edited = _traced(model, TOKENS), model.trace(TOKENS, edit=edit)
    for before in range(3):
      _close(edited.hidden[before], plain.hidden[before])
    _close(edited.mixed[2][:, :, 0], jnp.zeros_like(plain.mixed[2][:, :, 0]))
    _close(edited.mixed[2][:, :, 1], plain.mixed[2][:, :, 1])
    for changed in (edited.hidden[3] - plain.hidden[3], edited.output - plain.output):
      self.assertGreater(jnp.abs(changed).max(), 1e-3)

  def test_parts_add_up(self):
    model, real = _model(), jnp.arange(T) < jnp.array([[T], [9]])
    trace = _traced(model, TOKENS, valid=real)
    np.testing.assert_array_equal(trace.tokens, TOKENS)
    np.testing.assert_array_equal(trace.ids, jnp.where(real, 0, -1))
    self.assertIsNone(_traced(model, TOKENS).ids)
    for index, _, block, _ in model.stack.each():
      before, feed = trace.hidden[index], trace.feeds[index]
      after = before + trace.attended[index] + feed["output"]
      _close(after, trace.hidden[index + 1])
      normed = block.mlp_norm(before + trace.attended[index])
      _close(feed["input"], normed)
      _close(feed["active"], jax.nn.silu(normed @ block.mlp.gate.kernel[...]))
      _close(feed["inner"], feed["active"] * (normed @ block.mlp.up.kernel[...]))
      _close(feed["output"], feed["inner"] @ block.mlp.down.kernel[...])

  @parameterized.parameters("swiglu", "sglu", "gelu")
  def test_parts_of_every_mlp(self, kind):
    feed = mlp.KINDS[kind](8, 24, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 8))
    parts = mlp.parts(feed, x)
    one = parts["up"] if kind == "gelu" else parts["gate"]
    act = {"swiglu": jax.nn.silu, "sglu": lambda y: y, "gelu": jax.nn.gelu}[kind](one)
    inner = act if kind == "gelu" else act * parts["up"]
    _close(parts["inner"], inner)
    _close(feed(x), feed.down(inner))
    _close(mlp.parts(feed.up, x)["output"], feed.up(x))  # shows no parts

  def test_edits_elsewhere(self):
    model = _model()
    plain = _traced(model, TOKENS)

    def mixed(index, y, heads):
      self.assertEqual(y.shape[:-1], heads.q.shape[:-1])
      return y.at[:, :, 1].set(0) if index == 1 else y

    found = {
      "mixed": model.trace(TOKENS, edit=Edits(mixed=mixed)),
      "feed": model.trace(TOKENS, edit=Edits(feed=lambda i, y: y * (i != 1))),
      "hidden": model.trace(TOKENS, edit=Edits(hidden=lambda i, x: x + (i == 1))),
    }
    for name, trace in found.items():
      _close(trace.hidden[1], plain.hidden[1])
      self.assertGreater(jnp.abs(trace.output - plain.output).max(), 1e-3, name)
    _close(found["mixed"].mixed[1], plain.mixed[1].at[:, :, 1].set(0))
    _close(found["feed"].feeds[1]["inner"], plain.feeds[1]["inner"])
    _close(found["feed"].hidden[2], plain.hidden[1] + plain.attended[1])
    _close(found["hidden"].hidden[2], plain.hidden[2] + 1)

  @parameterized.parameters(
    (vision, "dot_product"), (vision, "lone"), (pyramid, "davit")
  )
  def test_images(self, host, slug):
    options = {"heads": 2} | ({"window": 3} if slug == "davit" else {})
    form = ("sequence",) if slug == "lone" else host.FORMS
    slug = "dot_product" if slug == "lone" else slug
    build = contract.constructor(slug, options, form)
    given = {"dims": (8, 8), "depths": (1, 2)} if host is pyramid else {"dim": 8}
    if host is vision:
      given["depth"] = 2
    model = host.Model([build], channels=1, classes=3, **given, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (2, 10, 12, 1))

    def edit(index, heads):
      return dataclasses.replace(heads, v=heads.v * (index != 1))

    @jax.jit
    def run(model, images):
      plain = model.trace(images)
      return model(images), plain, model.trace(images, edit=edit)

    logits, plain, edited = run(model, images)
    _close(plain.output, logits)
    layers = 3 if host is pyramid else 2
    self.assertLen(plain.heads, layers)
    self.assertLen(plain.hidden, layers + len(model.stages.stages))
    _close(edited.mixed[0], plain.mixed[0])
    _close(edited.mixed[1], jnp.zeros_like(plain.mixed[1]))
    whole = plain.hidden[0] + plain.attended[0] + plain.feeds[0]["output"]
    _close(plain.hidden[1], whole)

  def test_published_networks_show_their_maps(self):
    model = davit.Model(1, 3, **davit.SIZES["mini"], rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (1, 12, 12, 1))
    logits, trace = jax.jit(lambda m, x: (m(x), m.trace(x)))(model, images)
    _close(trace.output, logits)
    self.assertEqual({h is None for h in trace.heads}, {True})
    with self.assertRaisesRegex(NotImplementedError, "edit: blocks 0"):
      model.trace(images, edit=lambda index, heads: heads)

  def test_refuses_to_edit_what_mixes_no_heads(self):
    stack = Stack([_Counting], dim=DIM, depth=1, hidden=8, rngs=nnx.Rngs(0))
    x = jnp.ones((1, T, DIM))
    trace = stack.trace(x)
    _close(trace.output, stack(x))
    self.assertEqual(trace.heads, (None,))
    with self.assertRaisesRegex(NotImplementedError, "inside_test mixes no heads"):
      stack.trace(x, edit=lambda index, heads: heads)
    silent = Edits(feed=lambda index, y: 0 * y)
    _close(stack.trace(x, edit=silent).hidden[1], x + stack.trace(x).attended[0])
    bare = Stack([_Counting], dim=DIM, depth=1, hidden=0, rngs=nnx.Rngs(0))
    self.assertEqual(bare.trace(x).feeds, (None,))
    with self.assertRaisesRegex(NotImplementedError, "block 0 has no MLP"):
      bare.trace(x, edit=silent)


class SharedTest(absltest.TestCase):
  def test_goes_from_layer_to_layer(self):
    builds = [_Counting, *_builds("dot_product")]
    model = language.Model(builds, vocab=17, dim=DIM, depth=4, rngs=nnx.Rngs(0))
    cache = model.init_cache(2, T)
    logits, cache, shared = model.step(TOKENS[:, :5], cache, shared=jnp.int32(1))
    self.assertEqual(shared, 4)  # doubled by two layers, left alone by the others
    again, _, shared = model.step(TOKENS[:, 5:], cache, shared=shared)
    self.assertEqual(shared, 16)
    _close(jnp.concatenate([logits, again], axis=1), model(TOKENS))

  def test_is_no_result_where_none_is_given(self):
    model = _model()
    logits, _ = model.step(TOKENS, model.init_cache(2, T))
    _close(logits, model(TOKENS))


class BetweenTest(absltest.TestCase):
  def _stack(self, between, slug="dot_product"):
    options = {"dim": DIM, "depth": 4, "hidden": 24, "rngs": nnx.Rngs(1)}
    stack = Stack(_builds(slug), between=between, **options)
    # Larger than at the start of training, so that scores and positions matter.
    return jax.tree.map(lambda leaf: 5 * leaf, stack)

  def test_tokens_are_dropped_and_their_context_with_them(self):
    x = jax.random.normal(jax.random.key(2), (2, T, DIM))
    ids = jnp.repeat(jnp.array([[3, 1, 4]]), T // 3, axis=1) + jnp.zeros((2, 1), int)
    real = jnp.ones((2, T), bool).at[1, :2].set(False)
    context = {"segment_ids": ids, "valid": real}
    got = jax.jit(lambda s, x: s(x, **context))(self._stack({1: _Odd, 3: _Odd}), x)
    self.assertEqual(got.shape, (2, T // 4, DIM))
    whole, places = self._stack({}), jnp.arange(T)
    want = x
    for index, _, block, _ in whole.each():
      if index in (1, 3):
        want, places = want[:, 1::2], places[1::2]
        context = {name: rows[:, 1::2] for name, rows in context.items()}
      want = block(want, index=index, positions=places, **context)
    _close(got, want)
    trace = self._stack({1: _Odd, 3: _Odd}).trace(x, segment_ids=ids, valid=real)
    _close(trace.output, want)
    self.assertEqual([h.shape[1] for h in trace.hidden], [T, T // 2, T // 2, 3, 3])

  def test_no_positions_for_who_reads_none(self):
    x = jax.random.normal(jax.random.key(2), (2, T, DIM))
    stack = self._stack({2: _Odd}, "lightning2")
    self.assertEqual(stack(x).shape, (2, T // 2, DIM))

  def test_errors_name_value_and_rule(self):
    for cut in (0, 4):
      with self.assertRaisesRegex(ValueError, f"between = {cut}: .* 4 blocks"):
        self._stack({cut: _Odd})
    stack = self._stack({2: _Odd})
    with self.assertRaisesRegex(NotImplementedError, r"\(2,\): no step drops tokens"):
      stack.step(jnp.ones((1, 1, DIM)), stack.init_cache(1, 4))


class _Odd(nnx.Module):
  """Keeps tokens 1, 3, 5, ..."""

  def __init__(self, dim, *, rngs):
    pass

  def __call__(self, x, **context):
    kept = jnp.arange(x.shape[1], dtype=jnp.int32)[1::2]
    return x[:, 1::2], jnp.broadcast_to(kept, (x.shape[0], kept.size))


class _Counting(nnx.Module):
  """Doubles what is shared."""

  form = "causal"

  def __init__(self, dim, *, layers, rngs):
    self.scale = nnx.Param(jnp.ones(dim))

  def __call__(self, x, *, index, **context):
    return self.scale * x

  def init_cache(self, batch, length, dtype):
    return jnp.zeros(batch, dtype)

  def step(self, x, cache, *, shared=None, index, **context):
    return self.scale * x, cache, 2 * shared


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
