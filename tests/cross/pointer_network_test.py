"""Pointer networks by hand, by NumPy's loops and by trying every answer."""

import functools
import inspect
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.nn.lstm import LSTM
from attnjax.variants.cross.pointer_network import scores

pointer = contract.load("pointer_network")


def _draw(*shape, seed=0):
  drawn = np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)
  return jnp.asarray(drawn)


class FunctionsTest(parameterized.TestCase):
  def test_numbers_by_hand(self):
    keys = jnp.array([[[0.0, 1.0], [1.0, -1.0], [9.0, 9.0]]])
    queries, vector = jnp.array([[[0.5, 0.0]]]), jnp.array([2.0, 1.0])
    valid = jnp.array([[True, True, False]])
    u = [2 * np.tanh(0.5) + np.tanh(1), 2 * np.tanh(1.5) - np.tanh(1), -np.inf]
    got = pointer.pointer_logits(keys, queries, vector, valid=valid)
    np.testing.assert_allclose(got[0, 0], u, rtol=1e-6)
    got = pointer.pointer_logits(keys, queries, vector, valid=valid, clip=10.0)
    clipped = [10 * np.tanh(u[0]), 10 * np.tanh(u[1]), -np.inf]
    np.testing.assert_allclose(got[0, 0], clipped, rtol=1e-6)
    dots = pointer.pointer_logits(keys, queries)
    np.testing.assert_allclose(dots[0, 0], np.array([0, 0.5, 4.5]) / 2**0.5, rtol=1e-6)
    p = np.exp(u[:2]) / np.exp(u[:2]).sum()
    for target, want in ((0, -np.log(p[0])), (1, -np.log(p[1])), (2, np.inf), (-1, 0)):
      targets = jnp.array([[target]])
      loss = pointer.pointer_loss(keys, queries, vector, targets=targets, valid=valid)
      np.testing.assert_allclose(loss, [[want]], rtol=1e-5)
    mean = pointer.glimpse(keys, queries, vector, valid=valid)
    np.testing.assert_allclose(mean[0, 0], [p[1], p[0] - p[1]], rtol=1e-5)

  def test_tiles_are_the_whole(self):
    keys, queries, vector = _draw(2, 5, 4), _draw(2, 7, 4), _draw(4)
    targets = jnp.arange(14).reshape(2, 7) % 5
    mask = _draw(2, 7, 5) > -0.5

    @functools.partial(jax.jit, static_argnums=3)
    def run(keys, queries, vector, tile):
      with mock.patch.object(scores, "_TILE", tile):
        arrays = keys, queries, vector
        logits = pointer.pointer_logits(*arrays, mask=mask)
        loss = pointer.pointer_loss(*arrays, targets=targets, mask=mask)
        return logits, loss, pointer.glimpse(*arrays, mask=mask)

    whole, tiled = (run(keys, queries, vector, t) for t in (1 << 20, 3 * 2 * 5 * 4))
    for got, want in zip(tiled, whole):
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

  def test_no_array_of_all_tanh_is_kept(self):
    T, S, H = 64, 64, 32
    shapes = [
      jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, S, H), (1, T, H), (H,))
    ]

    def loss(keys, queries, vector):
      targets = jnp.zeros((1, T), jnp.int32)
      return pointer.pointer_loss(keys, queries, vector, targets=targets).sum()

    with mock.patch.object(scores, "_TILE", 4 * S * H):
      compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*shapes).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    self.assertLess(analysis.temp_size_in_bytes, 4 * T * S * H / 4)

  def test_keys_in_another_order_give_logits_in_that_order(self):
    keys, queries, vector = _draw(2, 5, 4), _draw(2, 3, 4), _draw(4)
    order = np.array([3, 0, 4, 1, 2])
    got = pointer.pointer_logits(keys[:, order], queries, vector)
    want = pointer.pointer_logits(keys, queries, vector)
    np.testing.assert_allclose(got, want[..., order], rtol=1e-6)

  @parameterized.parameters(
    ({"queries": (2, 3, 5)}, r"queries \(2, 3, 5\), keys \(2, 5, 4\)"),
    ({"vector": (3,)}, r"vector \(3,\); it must be \(4,\)"),
    ({"valid": (2, 4)}, r"valid \(2, 4\); it must be \(2, 5\)"),
    ({"mask": (2, 5, 3)}, r"mask \(2, 5, 3\); it must be \(2, 3, 5\)"),
  )
  def test_errors_name_the_rule(self, wrong, message):
    shapes = {"keys": (2, 5, 4), "queries": (2, 3, 4)} | wrong
    run = inspect.unwrap(pointer.pointer_logits)  # without the check of types
    with self.assertRaisesRegex(ValueError, message):
      run(**{name: jnp.ones(s) for name, s in shapes.items()})


class LSTMTest(absltest.TestCase):
  def test_is_that_of_flax(self):
    layer = LSTM(3, 4, rngs=nnx.Rngs(0))
    cell = nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(1))
    cell.dense_i.kernel = nnx.Param(layer.kernel[...])
    cell.dense_h.kernel = nnx.Param(layer.recurrent[...])
    cell.dense_h.bias = nnx.Param(layer.bias[...])
    x = _draw(2, 3, 3)

    @jax.jit
    def both(layer, cell, x):
      carry, found = layer.empty(2), []
      for t in range(3):
        carry, out = cell(carry, x[:, t])
        found.append(out)
      return layer(x), (jnp.stack(found, 1), carry)

    own, wanted = both(layer, cell, x)
    for got, want in zip(jax.tree.leaves(own), jax.tree.leaves(wanted), strict=True):
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


_OPTIONS = (
  {"embedding": 3, "glimpses": 2, "clip": 1.5},
  {"score": "dot", "end_symbol": False},
  {"kind": "attention"},
  {"kind": "sequence", "end_symbol": False},
)
_loss = jax.jit(lambda model, *given: model.loss(*given))
_run = jax.jit(lambda model, *given, **more: model(*given, **more))


def _model(**options):
  made = pointer.Model(2, 6, hidden=4, init=1.0, **options, rngs=0)
  return jax.tree.map(lambda leaf: 2 * leaf, made)


class ModelTest(parameterized.TestCase):
  @parameterized.parameters(*_OPTIONS)
  def test_is_its_equations(self, **options):
    model = _model(**options)
    points, labels = _draw(1, 5, 2), np.array([[2, 1, 4, 3, 5, 0]])
    got = _run(model, points, labels)
    want = _definition(model, np.asarray(points[0]), labels[0], **options)
    np.testing.assert_allclose(got[0], want, rtol=2e-4, atol=1e-5)

  @parameterized.parameters("pointer", "attention")
  def test_the_loss_counts_the_end_and_no_padding(self, kind):
    model = _model(kind=kind)
    points = _draw(2, 5, 2)
    labels = np.array([[2, 1, 4, 0], [3, 0, -1, -1]])
    both = jax.jit(lambda m, *given: (m.loss(*given), m(*given)))
    loss, logits = both(model, points, labels)
    log = np.asarray(jax.nn.log_softmax(logits))
    first = log[0, range(4), labels[0]].sum()
    second = log[1, 0, 3] + log[1, 1, 0]
    np.testing.assert_allclose(loss, [-first, -second], rtol=1e-5)

  def test_parameters_are_those_of_the_paper(self):
    model = jax.eval_shape(lambda: pointer.Model(2, rngs=nnx.Rngs(0)))
    H = 256
    lstms = 2 * (2 * 4 * H + H * 4 * H + 4 * H)
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    self.assertEqual(count, lstms + 2 * H * H + H + H + 2)
    drawn = np.concatenate([np.ravel(x) for x in jax.tree.leaves(
      pointer.Model(2, hidden=16, rngs=0))])  # fmt: skip
    self.assertLess(np.abs(drawn).max(), 0.08)
    self.assertGreater(np.abs(drawn).max(), 0.079)
    self.assertLess(np.abs(drawn.mean()), 0.005)

  def test_errors_name_the_rule(self):
    with self.assertRaisesRegex(ValueError, "symbols = 0; a 'sequence' needs"):
      pointer.Model(2, kind="sequence", rngs=0)
    with self.assertRaisesRegex(ValueError, "score 'additiv'.*additive"):
      pointer.Model(2, score="additiv", rngs=0)
    with self.assertRaisesRegex(ValueError, "7 points; .* has 6 symbols"):
      _model(kind="sequence").encode(jnp.ones((1, 7, 2)))
    points = jnp.ones((1, 3, 2))
    for how, message in (
      ({"steps": 0}, "steps = 0, width = 1"),
      ({"steps": 1, "width": 0}, "steps = 1, width = 0"),
      ({"steps": 1, "constraint": "tours"}, "constraint 'tours'.*tour"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        jax.eval_shape(lambda m, how=how: m.search(points, **how), _model())


@functools.partial(jax.jit, static_argnames=("steps", "width", "constraint"))
def _search(model, points, **how):
  return model.search(points, **how)


class SearchTest(parameterized.TestCase):
  @parameterized.parameters(
    ("none", 3, 4, True, lambda row: True),
    ("once", 3, 4, True, lambda row: len(set(row)) == len(row)),
    ("tour", 3, 4, True, lambda row: set(row) == {1, 2, 3} and len(row) == 3),
    ("tour", 3, 5, False, lambda row: set(row) == {1, 2, 3} and len(row) == 3),
    ("triples", 5, 4, True, lambda row: len(row) in (0, 3) and sorted(set(row)) == row),
  )
  def test_all_beams_find_the_best_of_all(self, constraint, S, steps, end, fits):
    model = _model(end_symbol=end)
    points = _draw(1, S, 2, seed=3)
    rows = []
    for length in range(steps + 1):
      for row in itertools.product(range(1, S + 1), repeat=length):
        stops = end and length < steps
        if fits(list(row)) and (stops or length == steps or constraint == "tour"):
          own = [*row, *[0] * stops]
          rows.append(own + [-1] * (steps - len(own)))
    rows = np.array(rows)
    padded = np.pad(rows, ((0, 128 - len(rows)), (0, 0)))  # one shape, one program
    log = -_loss(model, jnp.repeat(points, 128, 0), padded)[: len(rows)]
    how = {"steps": steps, "constraint": constraint}
    found, best = _search(model, points, width=130, **how)
    np.testing.assert_array_equal(found[0], rows[log.argmax()])
    np.testing.assert_allclose(best[0], log.max(), rtol=1e-4)

  def test_a_fixed_dictionary_can_name_what_is_no_point(self):
    model = _model(kind="sequence")
    bias = jnp.zeros(7).at[6].set(50.0)
    model.head.bias = nnx.Param(bias)
    points = _draw(1, 3, 2)
    found, _ = _search(model, points, steps=2)
    np.testing.assert_array_equal(found, [[6, 6]])
    found, _ = _search(model, points, steps=5, constraint="tour")
    self.assertEqual(set(np.asarray(found[0]).tolist()), {-1, 0, 1, 2, 3})

  def test_two_triples_rise_each_and_end(self):
    model = _model()
    found, log = _search(
      model, _draw(3, 4, 2), steps=7, width=4, constraint="triples"
    )  # fmt: skip
    for row in np.asarray(found):
      row = row[row > 0]
      self.assertEqual(len(row) % 3, 0)
      for triple in row.reshape(-1, 3):
        self.assertEqual(sorted(set(triple)), list(triple))
    self.assertTrue(np.isfinite(log).all())


def _definition(
  model,
  points,
  labels,
  embedding=0,
  glimpses=0,
  clip=0.0,
  score="additive",
  end_symbol=True,
  kind="pointer",
):
  """Returns the logits (T, V) of one example, a step at a time, in NumPy."""
  get = lambda leaf: np.asarray(leaf[...], np.float64)  # noqa: E731
  x = points @ get(model.embed) if embedding else points
  state, states = (np.zeros(4), np.zeros(4)), []
  for one in x:
    state = _cell(model.encoder, one, state, get)
    states.append(state[1])
  first = get(model.end) if end_symbol and kind == "pointer" else np.zeros(4)
  keys = np.stack([first, *states])
  rows, fed = [], get(model.start)

  def scored(scorer, d):
    e, q = keys @ get(scorer.keys), d @ get(scorer.queries)
    if score == "dot":
      return e, e @ q / 2
    return e, np.tanh(e + q) @ get(scorer.vector)

  def soft(u):
    return np.exp(u) / np.exp(u).sum()

  for label in labels:
    state = _cell(model.decoder, fed, state, get)
    d = state[1]
    for _ in range(glimpses):
      e, u = scored(model.look, d)
      d = soft(u) @ e
    if kind == "pointer":
      _, row = scored(model.point, d)
      row = clip * np.tanh(row) if clip else row
    else:
      if kind == "attention":
        _, u = scored(model.point, d)
        d = np.concatenate([d, soft(u[1:]) @ keys[1:]])
      row = d @ get(model.head.kernel) + get(model.head.bias)
    rows.append(row if end_symbol else np.concatenate([[-np.inf], row[1:]]))
    fed = x[label - 1] if label > 0 else np.zeros_like(fed)
  return np.stack(rows)


def _cell(cell, x, state, get):
  c, h = state
  gates = x @ get(cell.kernel) + h @ get(cell.recurrent) + get(cell.bias)
  i, f, g, o = np.split(gates, 4)
  i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
  c = f * c + i * np.tanh(g)
  return c, o * np.tanh(c)


if __name__ == "__main__":
  absltest.main()
