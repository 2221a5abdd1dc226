"""ITCFN: what the sheet of the paper and the authors' code say, stream by stream."""

import dataclasses
import functools
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx
from scipy.interpolate import BSpline

from attnjax.core.streams import Stream
from attnjax.variants.cross import triple_modal
from attnjax.variants.cross.triple_modal import block, weights

B, T, D, N = 3, 4, 6, 2
NAMES = triple_modal.STREAMS
DIMS = dict.fromkeys(NAMES, D)
PRESENT = np.array([[True, True, True], [True, False, True], [False, False, True]])


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _layer(kind="joint", **options):
  """Returns a layer with parameters of which none is 0 or 1."""
  made = triple_modal.Layer(DIMS, kind=kind, rngs=nnx.Rngs(0), **options)
  leaves, tree = jax.tree.flatten(made)
  moved = [x + 0.3 * _draw(*x.shape, seed=i) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, moved)


X = [_draw(B, T, D, seed=i) for i in range(3)]
LAYERS = {kind: _layer(kind) for kind in triple_modal.KINDS}
_run: Any = jax.jit(triple_modal.tri_coattention, static_argnames=("kind", "heads"))
_defined: Any = jax.jit(
  triple_modal.reference_tri_coattention, static_argnames=("kind", "heads")
)


def _wide(x):
  return np.asarray(x, np.float64)


def _softmax(score):
  power = np.exp(score - score.max())
  return power / power.sum()


def _linear(x, own, name, m=None):
  matrix, bias = (_wide(getattr(own, n)) for n in (name, f"{name}_bias"))
  return x @ matrix + bias if m is None else x @ matrix[m] + bias[m]


def _context(q, k, v, heads):
  """One query (D,), keys and values (S, D), in float64."""
  found = []
  for n in range(heads):
    at = slice(n * D // heads, (n + 1) * D // heads)
    share = _softmax(np.array([q[at] @ row[at] for row in k]) / math.sqrt(D // heads))
    found.append(share @ v[:, at])
  return np.concatenate(found)


def _by_hand(kind, heads, present=PRESENT):
  """(3, B, T, D), token by token."""
  own, out = LAYERS[kind].weights, np.zeros((3, B, T, D))
  for i in range(B):
    x = [_wide(X[m][i]) for m in range(3)]
    for m in range(3):
      if not present[i, m]:
        x[m] = np.tile(_wide(own.absent[m]), (T, 1))
    for m in range(3):
      asked = {0: 1, 1: 2, 2: 0}[m] if kind == "ring" else m
      k, v = (_linear(x[asked], own, name, asked) for name in ("key", "value"))
      for t in range(T):
        if kind == "ring":
          q = _linear(x[m][t], own, "query", m)
        else:
          q = _linear(np.concatenate([y[t] for y in x]), own, "joint")
        if kind == "joint_mha":
          q = _linear(q, own, "query", m)
        c = _context(q, k, v, heads) if present[i, asked] else np.zeros(D)
        given = c if kind == "joint_mha" else np.concatenate([x[m][t], c])
        out[m, i, t] = _linear(given, own, "out", m)
  return out


class CoattentionTest(parameterized.TestCase):
  @parameterized.parameters(("joint", 1), ("ring", 2), ("joint_mha", 3))
  def test_every_token_by_hand(self, kind, heads):
    given: dict[str, Any] = {"kind": kind, "heads": heads, "present": PRESENT}
    x = [np.where(PRESENT[:, m, None, None], X[m], np.nan) for m in range(3)]
    own = LAYERS[kind].weights
    *outs, fused = _run(*x, own, **given)
    want = _by_hand(kind, heads)
    _close(outs, want, 1e-4)
    rows = [want[m][:, t] for m in range(3) for t in range(T)]
    if kind == "joint":
      rows = [want[m][:, t] for t in range(T) for m in (0, 1)]
      rows += [want[2][:, t] for t in range(T)]
    _close(fused, np.stack(rows, axis=1), 1e-4)
    defined = _defined(*x, own, **given)
    _close(defined[3], fused, 1e-4)

  def test_the_layer_reads_absent_streams_from_valid(self):
    streams = {
      n: Stream(jnp.asarray(X[m]), jnp.repeat(PRESENT[:, m, None], T, 1))
      for m, n in enumerate(NAMES)
    }
    for kind in ("joint", "ring"):
      found = jax.jit(lambda layer: layer(streams, index=1))(LAYERS[kind])
      self.assertEqual(set(found), set(NAMES))
      _close([found[n] for n in NAMES], _by_hand(kind, 1), 1e-4)

  def test_a_ring_of_equal_streams_is_self_attention(self):
    own = LAYERS["ring"].weights
    own = jax.tree.map(lambda w: jnp.repeat(w[:1], 3, axis=0), own)
    given: dict[str, Any] = {"kind": "ring", "heads": 2, "present": PRESENT | True}
    one, two, three, _ = _run(X[0], X[0], X[0], own, **given)
    _close(one, two)
    _close(one, three)

  def test_tokens_have_no_order(self):
    order = np.array([2, 0, 3, 1])
    own, given = LAYERS["joint"].weights, {"kind": "joint", "heads": 1}
    moved, want = (
      _run(*x, own, present=PRESENT, **given) for x in ([x[:, order] for x in X], X)
    )
    _close(moved[1], want[1][:, order])

  def test_dropout_of_weights(self):
    ones = jnp.ones((40, 3, 25, 1, 1))
    q, key = jnp.zeros((40, 50, 1, 1)), jax.random.key(1)
    run = jax.jit(functools.partial(triple_modal.attend, drop_rate=0.4))
    out = run(q, ones, ones, key=key)
    self.assertAlmostEqual(float(out.mean()), 1.0, delta=0.02)
    # Each of 25 weights of 1 / 25 is 0 or 1 / 0.6 as large.
    self.assertAlmostEqual(float(out.var()), 0.4 / 0.6 / 25, delta=0.005)
    self.assertGreater(float(jnp.abs(out[:, 0] - out[:, 1]).mean()), 0.05)
    _close(run(q, ones, ones), jnp.ones((40, 3, 50, 1, 1)))

  def test_a_key_turns_dropout_on(self):
    streams = {n: Stream(jnp.asarray(x)) for n, x in zip(NAMES, X)}
    layer, key = LAYERS["joint"], jax.random.key(0)
    given: dict[str, Any] = {"kind": "joint", "heads": 1, "present": PRESENT | True}
    plain, *_ = _run(*X, layer.weights, **given)
    dropped = jax.jit(lambda layer: layer(streams, key=key)["mri"])(layer)
    self.assertGreater(float(jnp.abs(plain - dropped).max()), 1e-3)
    options = inspect.signature(triple_modal.tri_coattention).parameters
    self.assertEqual((layer.drop_rate, options["drop_rate"].default), (0.1, 0.1))

  def test_errors_name_value_and_rule(self):
    own, x = LAYERS["joint"].weights, [jnp.asarray(x) for x in X]
    run: Any = triple_modal.tri_coattention
    q, k = jnp.ones((1, 2, 1, 3)), jnp.ones((1, 3, 2, 1, 3))
    streams = {n: Stream(x[0]) for n in NAMES}
    for call, message in (
      (lambda: run(*x, own, kind="v1"), "unknown kind 'v1'"),
      (lambda: run(*x, own, kind="ring"), r"weights.query is None; kind 'ring'"),
      (lambda: run(*x, own, heads=4), "heads = 4; it must divide D = 6"),
      (lambda: triple_modal.attend(q[:, None], k, k), r"q .*\(B, 3, T, N, H\)"),
      (lambda: _layer(drop_rate=1.0), "drop_rate = 1.0; it must be from 0"),
      (lambda: _layer("joints"), "unknown kind 'joints'; did you mean joint"),
      (
        lambda: triple_modal.Layer(DIMS | {"pet": 5}, rngs=nnx.Rngs(0)),
        "dims = .*5.*of one width",
      ),
      (
        lambda: LAYERS["ring"](streams | {"pet": Stream(x[0][:, 1:])}),
        "token t of each belongs together",
      ),
    ):
      with self.subTest(message), self.assertRaisesRegex(ValueError, message):
        call()
    with self.assertRaisesRegex(NotImplementedError, "reference.*no dropout"):
      run(*x, own, key=jax.random.key(0), impl="reference")

  def test_parameters(self):
    for kind, count in (("ring", 27), ("joint", 25), ("joint_mha", 28)):
      # Those of the authors' modules, and a token for each stream.
      sizes = map(math.prod, weights.shapes(kind, 1).values())
      self.assertEqual(sum(sizes), count + 3, kind)
      shapes = [x.shape for x in jax.tree.leaves(LAYERS[kind].weights)]
      self.assertCountEqual(shapes, weights.shapes(kind, D).values())
    dims = dict.fromkeys(NAMES, 16)
    makes = [
      functools.partial(triple_modal.Layer, dims, kind=k)
      for k in ("joint", "joint_mha")
    ]
    fresh, mha = jax.jit(lambda: [make(rngs=nnx.Rngs(0)) for make in makes])()
    self.assertEqual((fresh.heads, fresh.impl), (1, "auto"))
    for made, name, bound in (
      (fresh, "key", 16**-0.5),
      (fresh, "value_bias", 16**-0.5),
      (fresh, "joint", 48**-0.5),
      (fresh, "joint_bias", 48**-0.5),
      (fresh, "out", 32**-0.5),
      (fresh, "out_bias", 32**-0.5),
      (mha, "query", (6 / 64) ** 0.5),
      (mha, "out", 16**-0.5),
      (mha, "key_bias", 0.0),
      (mha, "out_bias", 0.0),
      (mha, "joint", 48**-0.5),
    ):
      most = float(jnp.abs(getattr(made, name)[...]).max())
      self.assertLessEqual(most, bound, name)
      self.assertGreaterEqual(most, 0.7 * bound, name)
    self.assertAlmostEqual(float(fresh.weights.absent.std()), 0.02, delta=0.01)


class BlockTest(absltest.TestCase):
  def test_every_token_by_hand(self):
    made = triple_modal.SelfAttention(D, heads=2, rngs=nnx.Rngs(0))
    leaves, tree = jax.tree.flatten(made)
    made = jax.tree.unflatten(
      tree, [x + 0.3 * _draw(*x.shape, seed=i) for i, x in enumerate(leaves)]
    )
    own, x = made.weights, _wide(X[0])
    q, k, v = (_linear(x, own, name) for name in ("query", "key", "value"))
    want = np.zeros((B, T, D))
    for i in range(B):
      for t in range(T):
        y = _linear(_context(q[i, t], k[i], v[i], 2), own, "dense") + x[i, t]
        y = (y - y.mean()) / math.sqrt(y.var() + 1e-12)
        want[i, t] = y * _wide(own.norm_scale) + _wide(own.norm_bias)
    _close(jax.jit(lambda m, x: m(x))(made, X[0]), want, 1e-4)
    self.assertEqual(block.EPSILON, 1e-12)

  def test_dropout_of_weights_and_branch(self):
    eye, zero = jnp.eye(D), jnp.zeros(D)
    own = triple_modal.BlockWeights(
      0 * eye, zero, 0 * eye, zero, 0 * eye, zero + 1, eye, zero, zero + 1, zero
    )
    x = jnp.zeros((40, 25, D)).at[..., 0].set(1.0)

    @jax.jit
    def kept(key):
      found = {}
      for name, rates in (("branch", (0.2, 0.0)), ("weights", (0.0, 0.5))):
        y = block.self_attend(
          x, own, heads=1, drop_rate=rates[0], weight_drop_rate=rates[1], key=key
        )
        found[name] = y
      return found

    found = kept(jax.random.key(0))
    # Values of 1 on 5 channels and 2 on the first: a norm shows which are dropped.
    lost = found["branch"][..., 1:] < found["branch"][..., 1:].max(-1, keepdims=True)
    none = (jnp.ptp(found["branch"][..., 1:], axis=-1) < 1e-3).mean()
    self.assertAlmostEqual(float(none), 0.8**5 + 0.2**5, delta=0.05)
    self.assertAlmostEqual(float(lost.mean()), 0.2, delta=0.03)
    self.assertLess(float(jnp.ptp(found["weights"][..., 1:], axis=-1).max()), 1e-3)
    plain = jax.eval_shape(lambda: block.SelfAttention(32, rngs=nnx.Rngs(0)))
    self.assertEqual((plain.heads, plain.drop_rate), (16, 0.2))
    self.assertEqual((plain.weight_drop_rate, plain.impl), (0.5, "auto"))

  def test_heads_divide_the_width(self):
    with self.assertRaisesRegex(ValueError, "heads = 4; it must divide D = 6"):
      triple_modal.SelfAttention(6, heads=4, rngs=nnx.Rngs(0))


class SplinesTest(parameterized.TestCase):
  @parameterized.parameters((5, 3, -1.0, 1.0), (4, 2, -2.0, 1.5))
  def test_they_are_scipys(self, intervals, order, low, high):
    step = (high - low) / intervals
    knots = low + step * np.arange(-order, intervals + order + 1)
    x = np.linspace(knots[0] - 1, knots[-1] + 1, 101) + 1e-3
    given = {"intervals": intervals, "order": order, "low": low, "high": high}
    run = jax.jit(functools.partial(triple_modal.b_splines, **given))
    found = run(jnp.asarray(x, "f4"))
    self.assertEqual(found.shape, (101, intervals + order))
    for g in range(intervals + order):
      one = BSpline.basis_element(knots[g : g + order + 2], extrapolate=False)
      _close(found[:, g], np.nan_to_num(one(x)), 1e-4)
    inside = (x > low) & (x < high)
    _close(found.sum(axis=1)[inside], np.ones(inside.sum()))

  def test_the_layer_by_hand(self):
    x, base, spline, scaler = (
      _draw(7, 2), _draw(2, 3), _draw(2, 8, 3, seed=1), _draw(2, 3, seed=2)
    )  # fmt: skip
    want = np.zeros((7, 3))
    knots = -1 + 0.4 * np.arange(-3, 9)
    for i in range(2):
      silu = x[:, i] / (1 + np.exp(-x[:, i]))
      for o in range(3):
        curve = BSpline(knots, spline[i, :, o].astype(float), 3, extrapolate=False)
        # SciPy's curve ends at the inner knots; outside the sum is over elements.
        outer: Any = sum(
          spline[i, g, o]
          * np.nan_to_num(
            BSpline.basis_element(knots[g : g + 5], extrapolate=False)(x[:, i])
          )
          for g in range(8)
        )
        inner = np.abs(x[:, i]) < 1
        _close(outer[inner], curve(x[inner, i]), 1e-4)
        want[:, o] += silu * base[i, o] + scaler[i, o] * outer
    _close(jax.jit(triple_modal.kan_linear)(x, base, spline, scaler), want, 1e-4)

  def test_curves_begin_as_noise_at_the_knots(self):
    made = jax.jit(lambda: triple_modal.KANLinear(9, 16, rngs=nnx.Rngs(0)))()
    shapes = [getattr(made, n)[...].shape for n in ("base", "spline", "scaler")]
    self.assertEqual(shapes, [(9, 16), (9, 8, 16), (9, 16)])
    basis = jax.jit(triple_modal.b_splines)(np.linspace(-1, 1, 6, dtype="f4"))
    noise = np.abs(np.einsum("sg,igo->sio", basis, made.spline[...]))
    self.assertLess(noise.max(), 0.0101)  # 0.1 (uniform - 1 / 2) / 5
    self.assertGreater(noise.max(), 0.0095)
    for name in ("base", "scaler"):
      most = float(jnp.abs(getattr(made, name)[...]).max())
      self.assertBetween(most, 0.9 / 3, 1 / 3)
    x, run = _draw(5, 9), jax.jit(triple_modal.kan_linear)
    given = (made.base[...], made.spline[...], made.scaler[...])
    _close(jax.jit(lambda made, x: made(x))(made, x), run(x, *given))
    with self.assertRaisesRegex(ValueError, "intervals = 0, order = 3"):
      triple_modal.b_splines(jnp.ones(2), 0)


LABELS = np.array([0, 1, 1, 0, 2], np.int32)
_focal_loss: Any = jax.jit(triple_modal.focal_loss, static_argnames=("alpha", "gamma"))
_sdm_loss: Any = jax.jit(triple_modal.sdm_loss, static_argnames="length")
_itcfn_loss: Any = jax.jit(
  triple_modal.itcfn_loss, static_argnames=("pair_weight", "matching_weight")
)
SCORES, A, C = _draw(5, 3), _draw(5, D, seed=1), _draw(5, D, seed=2)


def _focal(alpha=0.25, gamma=2.0):
  share = np.array([_softmax(_wide(row))[y] for row, y in zip(SCORES, LABELS)])
  return float((-alpha * (1 - share) ** gamma * np.log(share)).mean())


def _divergence(a, b, labels, length=2.0):
  a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in _wide((a, b)))
  total = 0.0
  for one, other in ((a, b), (b, a)):
    for i, label in enumerate(labels):
      share = _softmax(length * other @ one[i])
      same = (labels == label).astype(float)
      total += (share * np.log(share / (same / same.sum() + 1e-8))).sum()
  return total / len(labels)


class LossTest(parameterized.TestCase):
  def test_focal(self):
    run = _focal_loss
    _close(run(SCORES, LABELS), _focal())
    # alpha 1 and gamma 0 is the cross entropy.
    got = _focal_loss(SCORES, LABELS, alpha=1.0, gamma=0.0)
    log = jax.nn.log_softmax(SCORES)[np.arange(5), LABELS]
    _close(got, -log.mean())
    some = np.where(np.arange(5) == 3, -1, LABELS)
    kept = np.arange(5) != 3
    _close(run(SCORES, some), run(SCORES[kept], LABELS[kept]))

  def test_matching(self):
    run = _sdm_loss
    want = _divergence(A, C, LABELS)
    _close(run(A, C, LABELS), want)
    _close(run(C, 7 * A, LABELS), want)  # both ways, whatever the lengths
    _close(_sdm_loss(A, C, LABELS, length=1.0), _divergence(A, C, LABELS, 1.0))
    some = np.where(np.arange(5) == 1, -1, LABELS)
    kept = np.arange(5) != 1
    _close(run(A, C, some), _divergence(A[kept], C[kept], LABELS[kept]))
    classes = np.eye(3)[LABELS] @ np.eye(3, D)
    self.assertLess(run(classes, classes, LABELS), want)
    slope = jax.grad(_sdm_loss)(jnp.asarray(A).at[2].set(0), C, LABELS)
    self.assertTrue(jnp.isfinite(slope).all())

  def test_of_three_streams(self):
    other, run = _draw(5, D, seed=3), _itcfn_loss
    pairs = [_divergence(*p, LABELS) for p in ((A, C), (C, other), (A, other))]
    mixed = 0.8 * pairs[0] + 0.2 * (pairs[1] + pairs[2]) / 2
    _close(run(A, C, other, SCORES, LABELS), _focal() + 0.01 * mixed)
    rates = {"pair_weight": 1.0, "matching_weight": 0.5}
    got = run(A, C, other, SCORES, LABELS, **rates)
    _close(got, _focal() + 0.25 * (pairs[1] + pairs[2]))
    present = np.ones((5, 3), bool)
    present[0, 1] = False
    rest = np.arange(1, 5)
    want = 0.8 * _divergence(A[rest], C[rest], LABELS[rest])
    want += 0.1 * (_divergence(C[rest], other[rest], LABELS[rest]) + pairs[2])
    got = run(A, C, other, SCORES, LABELS, present=present)
    _close(got, _focal() + 0.01 * want)

  def test_kernels_are_refused(self):
    for impl in ("pallas", "triton"):
      with self.assertRaisesRegex(NotImplementedError, f"'{impl}' has no loss"):
        triple_modal.focal_loss(jnp.asarray(SCORES), jnp.asarray(LABELS), impl=impl)

  def test_weights_are_a_tree(self):
    own = LAYERS["joint"].weights
    self.assertIsNone(own.query)
    self.assertLen(jax.tree.leaves(own), 9)
    self.assertTrue(dataclasses.is_dataclass(own))


if __name__ == "__main__":
  absltest.main()
