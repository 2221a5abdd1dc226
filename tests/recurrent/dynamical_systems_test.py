"""The Dynamical Systems Framework: what the common form and its layers promise."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.recurrent import dynamical_systems as ds
from tests import dense, precision

_DIM = 12
_LAYERS = {
  "softmax": {"kind": "softmax", "state_size": 4},
  "linear": {"kind": "linear", "state_size": 8},
  "normalised": {"kind": "normalised", "state_size": 8, "eta": "exp"},
  "s6": {"kind": "s6", "state_size": 3},
  "ssd": {"kind": "ssd", "state_size": 3},
  "bare": {"kind": "ssd", "state_size": 3, "bare": True},
  "rglru": {"kind": "rglru"},
  "selru": {"kind": "selru", "state_size": 3},
  "qlstm": {"kind": "qlstm"},
  "coupled": {"kind": "qlstm", "coupled": True},
}
_RECURRENT = tuple(name for name in _LAYERS if name != "softmax")


def _close(found, wanted, tolerance=1e-4):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance),
    found,
    wanted,
  )


@functools.cache
def _layer(name):
  return ds.Layer(_DIM, heads=2, **_LAYERS[name], rngs=nnx.Rngs(0))


def _input(B=2, T=18):
  return jax.random.normal(jax.random.key(1), (B, T, _DIM))


def _finished(layer, out, x):
  """What the layer makes of the output of its system."""
  if layer.kind in ("softmax", "linear", "normalised"):
    return layer.mixer.out(out)
  conv = layer.mixer.init_cache(x.shape[0], x.dtype)
  return layer.mixer.finish(out, layer.mixer.drive(x, conv, None)[2])


class CommonFormTest(parameterized.TestCase):
  @parameterized.parameters(*_LAYERS)
  def test_every_kind_is_a_system(self, name):
    layer, x = _layer(name), 0.5 * _input()
    options = {"degree": 8} if name == "softmax" else {}

    @jax.jit
    def run(layer, x):
      system, v = layer.system(x, **options)
      phi = system.matrix()
      phi = jnp.broadcast_to(phi, (*phi.shape[:4], v.shape[-1]))
      product = jnp.einsum("bntse,bsne->btne", phi, v)
      outs = system.recurrent(v), system.scan(v), product
      outs = [_finished(layer, out, x) for out in outs]
      return outs, layer(x), system.log_decay.max()

    found, native, decay = run(layer, x)
    for y in found:
      _close(y, native)
    self.assertLessEqual(float(decay), 0)

  def test_one_step_of_a_system(self):
    system, v = _layer("ssd").system(_input(2, 5))
    state, outs = jnp.zeros((2, 2, 3, 12)), []
    for t in range(5):
      out, state = jax.jit(ds.System.step)(system, state, v[:, t], t)
      outs.append(out)
    want = system.scan(v, return_state=True)
    _close((jnp.stack(outs, axis=1), state), want)

  @parameterized.parameters("softmax", "linear", *ds.ETAS)
  def test_the_normaliser_may_be_in_the_state(self, name):
    q, k = (jax.random.normal(jax.random.key(i), (1, 7, 2, 3)) for i in (0, 1))
    arrays = {"q": q, "k": k}
    if name in ds.ETAS:
      arrays |= {"x": q[..., 0], "eta": name}
    kind = "normalised" if name in ds.ETAS else name
    read = ds.to_dsf(kind, **arrays)
    ratio = ds.to_dsf(kind, **arrays, ratio=True)
    _close(ratio.matrix(), read.matrix())
    # Then the decay is eta_{t-1} / eta_t, which may also be above 1.
    self.assertGreater(float(abs(ratio.log_decay).max()), 0.01)
    _close(read.log_decay, jnp.zeros_like(read.log_decay), 0)

  def test_linear_attention_is_s6_without_coupling(self):
    # One channel, Lambda = eta_{t-1} / eta_t and B = psi(k) / eta: an S6 whose delta,
    # were it to give that decay, would not give that input.
    q, k = (jax.random.normal(jax.random.key(i), (1, 9, 1, 4)) for i in (0, 1))
    v = jax.random.normal(jax.random.key(2), (1, 9, 1, 3))
    psi_q, psi_k = (jax.nn.elu(y) + 1 for y in (q, k))
    eta = jnp.einsum("btnh,bsnh->bts", psi_q, psi_k)
    eta = jnp.where(jnp.tri(9), eta, 0).sum(-1)[..., None, None, None]
    ratio = jnp.ones_like(eta).at[:, 1:].set(eta[:, :-1] / eta[:, 1:])
    system = ds.System(jnp.log(ratio), psi_k[..., None] / eta, psi_q[..., None])
    _close(system.scan(v), ds.to_dsf("linear", q=q, k=k).recurrent(v))

  def test_s6_ties_what_it_forgets_to_what_it_writes(self):
    b, c = (jax.random.normal(jax.random.key(i), (1, 1, 3)) for i in (0, 1))
    a = -jnp.ones((2, 3))
    small, large = (
      ds.to_dsf("s6", delta=jnp.full((1, 1, 2), d), a=a, b=b, c=c) for d in (1e-6, 50.0)
    )
    _close(jnp.exp(small.log_decay), jnp.ones((1, 1, 1, 3, 2)))
    _close(small.write, jnp.zeros((1, 1, 1, 3, 2)))
    _close(jnp.exp(large.log_decay), jnp.zeros((1, 1, 1, 3, 2)))
    _close(large.write, 50 * jnp.broadcast_to(b[..., None], (1, 1, 1, 3, 2)))

  def test_coupled_qlstm_is_s6_with_a_of_minus_one(self):
    gate, out = (jax.random.normal(jax.random.key(i), (1, 5, 4)) for i in (0, 1))
    system = ds.to_dsf("qlstm", gate=gate, out=out)
    delta = jax.nn.softplus(gate)
    ones = jnp.ones((1, 5, 1))
    s6 = ds.to_dsf("s6", delta=delta, a=-jnp.ones((4, 1)), b=ones, c=ones)
    _close(system.log_decay, s6.log_decay)
    _close(system.write, 1 - jnp.exp(system.log_decay))
    free = ds.to_dsf("qlstm", gate=gate, out=out, forget=gate)
    _close(jnp.exp(free.log_decay), free.write)

  def test_conserving_gates_keep_the_variance(self):
    x, base = jax.random.normal(jax.random.key(0), (1, 9, 4)), jnp.linspace(-9, -4, 4)
    system = ds.to_dsf("rglru", forget=x, base=base, gate=jnp.full((1, 9, 4), 99.0))
    _close(system.write**2 + jnp.exp(2 * system.log_decay), 1.0, 1e-5)

  def test_state_sizes(self):
    sizes = {
      "softmax": 2 * math.comb(2 + 6, 6) * 6,
      "linear": 2 * 4 * 6,
      "normalised": 2 * 4 * 6,
      "s6": 3 * 24,
      "ssd": 3 * 24,
      "bare": 3 * 24,
      "rglru": 24,
      "selru": 3 * 12,
      "qlstm": 24,
    }
    for name, size in sizes.items():
      system, v = jax.eval_shape(_layer(name).system, _input())
      self.assertEqual(system.state_size(v.shape[-1]), size, name)

  def test_errors_name_the_array(self):
    v, one = jnp.ones((1, 3, 2, 4)), jnp.ones((1, 3, 2, 1, 1))
    with self.assertRaisesRegex(ValueError, r"write \(1, 2, 2, 1, 1\) does not broad"):
      ds.System(one, one[:, :2], one).check(v)
    with self.assertRaisesRegex(ValueError, r"skip \(1, 3, 2, 3\) does not broadcast"):
      ds.System(one, one, one, v[..., :3]).check(v)
    with self.assertRaisesRegex(ValueError, "unknown kind 's4'.* s6"):
      ds.to_dsf("s4")
    with self.assertRaisesRegex(ValueError, "unknown eta 'relu'"):
      ds.to_dsf("normalised", q=v, k=v, x=v[..., 0], eta="relu")
    with self.assertRaisesRegex(ValueError, "kind 's6' takes no ratio"):
      _layer("s6").system(_input(), ratio=True)


class DefinitionTest(parameterized.TestCase):
  """Numbers computed by hand, or by NumPy token by token."""

  @parameterized.parameters(
    ("exp", 1.0, 1 / 3),
    ("softplus", 1 / math.log(2), 1 / math.log(4)),
    ("sigmoid", 2.0, 4 / 3),
  )
  def test_normalisers(self, eta, zero, log_three):
    one, x = jnp.ones((1, 2, 1, 1)), jnp.array([[[0.0], [math.log(3)]]])
    system = ds.to_dsf("normalised", q=one, k=one, x=x, eta=eta)
    _close(system.read.ravel(), np.array([zero, log_three]), 1e-6)

  @parameterized.parameters("s6", "ssd", "bare")
  def test_state_spaces(self, name):
    layer, x = _layer(name), _input(1, 6)
    define = _s6 if name == "s6" else _ssd
    _close(jax.jit(lambda layer, x: layer(x))(layer, x)[0], define(layer, x[0]), 1e-5)

  def test_the_block_shares_its_norm(self):
    block = ds.Block(_DIM, hidden=5, heads=2, kind="qlstm", rngs=nnx.Rngs(0))
    block.skip[...] = jnp.array([0.6])
    block.norm.scale[...] = jnp.linspace(0.5, 2, _DIM)
    block.norm.bias[...] = jnp.linspace(-1, 1, _DIM)
    x = _input(1, 3)

    def norm(y):
      y = y - y.mean(-1, keepdims=True)
      y = y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-5)
      return y * np.linspace(0.5, 2, _DIM) + np.linspace(-1, 1, _DIM)

    def gelu(y):
      return y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2

    def linear(part, y):
      return y @ np.asarray(part.kernel) + np.asarray(part.bias)

    @jax.jit
    def run(block, x):
      y, cache = block.step(x[:, :2], block.init_cache(1, 3))
      rest, _ = block.step(x[:, 2:], cache)
      return block(x), jnp.concatenate([y, rest], axis=1), block.mixer(block.norm(x))

    whole, decoded, mixed = run(block, x)
    h = 0.6 * np.asarray(x) + np.asarray(mixed)
    _close(whole, h + linear(block.down, gelu(linear(block.up, norm(h)))), 1e-5)
    _close(decoded, whole, 1e-5)


def _silu(x):
  return x / (1 + np.exp(-x))


def _softplus(x):
  return np.log1p(np.exp(x))


def _convolved(part, x):
  """The silu of a causal convolution of x (T, D)."""
  taps, y = np.asarray(part.taps.kernel), np.zeros_like(x) + np.asarray(part.bias)
  for t, i in itertools.product(range(len(x)), range(len(taps))):
    y[t] += taps[i] * x[t - i] if t >= i else 0
  return _silu(y)


def _numbers(mixer):
  return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(mixer)))


def _s6(layer, x):
  """Mamba's block."""
  mixer, x = layer.mixer, np.asarray(x)
  w, state = _numbers(mixer), layer.mixer.state
  u, z = np.moveaxis(np.einsum("td,dse->tse", x, w["input"]["kernel"]), 1, 0)
  u = _convolved(mixer.conv, u)
  rank, b, c = np.split(u @ w["select"]["kernel"], [-2 * state, -state], axis=1)
  delta = _softplus(rank @ w["delta"]["kernel"] + w["delta"]["bias"])
  h, y = np.zeros((u.shape[1], state)), np.zeros_like(u)
  for t in range(len(x)):
    decay = np.exp(-delta[t][:, None] * np.exp(w["log_a"]))
    h = decay * h + np.outer(delta[t] * u[t], b[t])
    y[t] = h @ c[t] + w["skip"] * u[t]
  return y * _silu(z) @ w["output"]["kernel"]


def _ssd(layer, x):
  """Mamba-2's block, or if bare its recurrence alone."""
  mixer, x = layer.mixer, np.asarray(x)
  w, (heads, state, size) = _numbers(mixer), mixer.state_shape
  u = x @ w["input"]["kernel"]
  u = u if mixer.conv is None else _convolved(mixer.conv, u)
  v, b, c = np.split(u, [-2 * state, -state], axis=1)
  v = v.reshape(-1, heads, size)
  delta = _softplus(x @ w["delta"]["kernel"] + w["delta"]["bias"])
  h, y = np.zeros((heads, state, size)), np.zeros_like(v)
  for t, n in itertools.product(range(len(x)), range(heads)):
    decay = np.exp(-delta[t, n] * np.exp(w["log_a"][n]))
    h[n] = decay * h[n] + delta[t, n] * np.outer(b[t], v[t, n])
    y[t, n] = c[t] @ h[n] + w["skip"][n] * v[t, n]
  y = y.reshape(len(x), -1)
  if mixer.gate is not None:
    y = y * _silu(x @ w["gate"]["kernel"])
    y = y / np.sqrt((y * y).mean(axis=1, keepdims=True) + 1e-5) * w["norm"]["scale"]
  return y @ w["output"]["kernel"]


class SoftmaxTest(absltest.TestCase):
  def test_taylor_features_converge_to_softmax(self):
    q, k = (jax.random.normal(jax.random.key(i), (1, 12, 1, 3)) for i in (0, 1))
    v = jax.random.normal(jax.random.key(2), (1, 12, 1, 4))
    q, k = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k)
    weight = jax.nn.softmax(jnp.where(jnp.tri(12), scores, -jnp.inf))
    exact, errors = jnp.einsum("bnts,bsne->btne", weight, v), []
    for degree in (1, 2, 4, 6):
      system = ds.to_dsf("softmax", q=q, k=k, scale=1.0, degree=degree)
      self.assertEqual(system.write.shape[3], math.comb(3 + degree, degree))
      errors.append(float(abs(system.recurrent(v) - exact).max()))
    self.assertEqual(errors, sorted(errors, reverse=True))
    self.assertLess(errors[-1], 1e-4)


class LayerTest(parameterized.TestCase):
  @parameterized.parameters(*_LAYERS)
  def test_decodes_as_the_whole(self, name):
    layer, x, T, chunk = _layer(name), _input(3), 18, 3
    ids = jnp.array([[0] * T, [4] * 5 + [1] * 7 + [4] * 6, [2] * 9 + [3] * 9])
    real = jnp.arange(T) >= jnp.array([[7], [0], [2]])

    @jax.jit
    def run(layer, x):
      def one(cache, part):
        x, ids, real = (jnp.moveaxis(y, 0, 1) for y in part)
        y, cache = layer.step(x, cache, segment_ids=ids, valid=real)
        return cache, jnp.moveaxis(y, 1, 0)

      parts = [
        jnp.moveaxis(y, 1, 0).reshape(-1, chunk, *y.shape[:1], *y.shape[2:])
        for y in (x, ids, real)
      ]
      _, y = jax.lax.scan(one, layer.init_cache(3, T, x.dtype), tuple(parts))
      y = jnp.moveaxis(y.reshape(T, 3, _DIM), 0, 1)
      # Last, the first document of the last row alone.
      return y, layer(x, segment_ids=ids, valid=real), layer(x[2:, 2:9])

    got, want, alone = run(layer, x)
    _close(got[real], want[real])
    _close(want[2, 2:9], alone[0])

  @parameterized.parameters(
    ("softmax", "triton"),
    ("linear", "pallas"),
    ("normalised", "triton"),
    ("ssd", "pallas"),
  )
  def test_kernels_compute_what_has_one_decay_a_head(self, name, impl):
    layer, x = _layer(name), _input(2, 9)
    given = {"segment_ids": jnp.array([[0] * 4 + [-1] + [1] * 4, [3] * 9])}
    fused = ds.Layer(_DIM, heads=2, **_LAYERS[name], impl=impl, rngs=nnx.Rngs(0))

    def run(layer, x):
      return jnp.sin(layer(x, **given)).sum(), layer(x, **given)

    def gradients(layer):
      return jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(layer, x)

    want = gradients(layer)
    with dense.replacing_kernels():
      got = gradients(fused)
    _close(jax.tree.leaves(got), jax.tree.leaves(want))

  @parameterized.parameters("s6", "rglru", "selru", "qlstm", "coupled")
  def test_kernels_refuse_a_decay_of_each_channel(self, name):
    for impl in ("pallas", "triton"):
      layer = ds.Layer(_DIM, heads=2, **_LAYERS[name], impl=impl, rngs=nnx.Rngs(0))
      with self.assertRaisesRegex(
        NotImplementedError, f"impl '{impl}' has one decay.*log_decay"
      ):
        jax.eval_shape(layer, _input(1, 3))

  @parameterized.parameters(
    ("log_decay", (1, 3, 2, 4, 1)),
    ("log_decay", (1, 3, 2, 1, 5)),
    ("write", (1, 3, 2, 4, 5)),
    ("read", (1, 3, 2, 4, 5)),
  )
  def test_kernels_refuse_any_array_of_each_element(self, name, shape):
    one, each = jnp.zeros((1, 3, 2, 1, 1)), jnp.zeros((1, 3, 2, 4, 1))
    arrays = {
      "log_decay": one,
      "write": each,
      "read": each,
      "v": jnp.ones((1, 3, 2, 5)),
    }
    run = functools.partial(jax.eval_shape, functools.partial(ds.attend, impl="pallas"))
    self.assertEqual(run(**arrays).shape, (1, 3, 2, 5))
    with self.assertRaisesRegex(NotImplementedError, "pallas.*'xla' can do"):
      run(**arrays | {name: jnp.zeros(shape)})

  def test_kernels_run_in_the_simulator(self):
    """The system of a layer, as kernels get it: shared heads and a broadcast batch."""
    cases = {case.name: case for case in ds.CASES}
    arrays = {n: x[:1, :17] for n, x in cases["shared"].arrays().items()}
    want = ds.attend(**arrays)
    with simulate.accelerators(detect_races=False):
      for impl in ("pallas", "triton"):
        _close(jax.jit(lambda a, i=impl: ds.attend(**a, impl=i))(arrays), want)
      program = jax.make_jaxpr(lambda a: ds.attend(**a, impl="pallas"))(arrays)
    self.assertEqual(simulate.calls(program, "decayed_linear_forward"), 1)

  @parameterized.parameters("softmax", "linear", "ssd", "selru")
  def test_weights_are_the_matrix(self, name):
    layer, x = _layer(name), _input(1, 9)
    ids = jnp.array([[5] * 4 + [1] * 5])

    @jax.jit
    def run(layer, x):
      weights, rest = layer.weights(x, segment_ids=ids), None
      if layer.kind in ("softmax", "linear"):
        v = layer.mixer.value(x)
      else:
        conv = layer.mixer.init_cache(1, x.dtype)
        _, v, rest, _ = layer.mixer.drive(x, conv, ids)
      channels = weights.shape[1] != v.shape[2]
      v = jnp.moveaxis(v, 2, 3) if channels else v
      out = jnp.einsum("bnts,bsne->btne", weights, v)
      out = jnp.moveaxis(out, 3, 2) if channels else out
      if rest is None:
        return weights, layer.mixer.out(out), layer(x, segment_ids=ids)
      return weights, layer.mixer.finish(out, rest), layer(x, segment_ids=ids)

    weights, found, wanted = run(layer, x)
    self.assertEqual((weights.dtype, weights.shape[2:]), ("float32", (9, 9)))
    _close(found, wanted)

  def test_eta_is_a_scale_of_each_token(self):
    run, x = jax.jit(lambda layer: layer(x)), _input()
    layer = jax.tree.map(jnp.asarray, _layer("normalised"))
    bias = layer.mixer.out.bias[...]
    before = run(layer) - bias
    layer.mixer.normaliser.bias[...] += 0.7
    _close(run(layer) - bias, math.exp(-0.7) * before)

  def test_normalised_attention_starts_small(self):
    layer = ds.Layer(64, kind="normalised", rngs=nnx.Rngs(0))
    for leaf in jax.tree.leaves(layer):
      self.assertLessEqual(float(abs(leaf).max()), 1 / 8)

  def test_the_state_does_not_grow(self):
    for name in _RECURRENT:
      layer = _layer(name)
      short, long = (
        jax.eval_shape(functools.partial(layer.init_cache, 2, length))
        for length in (1, 99)
      )
      self.assertEqual(short, long, name)

  @parameterized.parameters("normalised", "selru", "coupled")
  def test_bfloat16_is_computed_in_float32(self, name):
    """Nothing but its result is rounded."""
    run, layer = jax.jit(lambda layer, x: layer(x)), _layer(name)
    x = _input(1, 9).astype("bfloat16")
    y, want = run(layer, x), run(layer, x.astype("float32"))
    self.assertEqual(y.dtype, "bfloat16")
    self.assertLessEqual(precision.worst(y, want, want), 1.0)

  @parameterized.parameters(
    ({"kind": "lstm"}, "unknown kind 'lstm'.*qlstm"),
    ({"eta": "tanh"}, "unknown eta 'tanh'"),
    ({"impl": "cuda"}, "unknown impl 'cuda'.*reference"),
    ({"form": "sequence"}, "unknown form 'sequence'.*causal"),
    ({"heads": 5}, "dim = 12 does not divide by heads = 5"),
    ({"heads": 3}, "state = 64 does not divide by heads = 3"),
    ({"kind": "s6", "bare": True}, "bare = True is of kind 'ssd', not of 's6'"),
    ({"kind": "ssd", "heads": 5}, "expand \\* dim = 24 does not divide by heads = 5"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      ds.Layer(_DIM, **options, rngs=nnx.Rngs(0))


def _state_shapes(system, v):
  return [
    *(x.shape[2:] for x in (system.log_decay, system.write, system.read)),
    (v.shape[2], 1, v.shape[3]),
  ]


if __name__ == "__main__":
  absltest.main()
