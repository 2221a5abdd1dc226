"""Batch norm: its definition in NumPy, and that it is right wherever JAX puts it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.nn import running
from attnjax.nn.norms import BatchNorm, Moments, Stats


def _defined(x, scale, bias, stats, mask=None, momentum=0.9, epsilon=1e-5):
  """(y, running mean, running variance) of a step of training, in float64."""
  x = np.asarray(x, np.float64)
  rows = x.reshape(-1, x.shape[-1])
  if mask is not None:
    rows = rows[np.asarray(mask).ravel()]
    x = np.where(np.asarray(mask)[..., None], x, 0)
  mean, var = rows.mean(0), rows.var(0)
  y = scale * (x - mean) / np.sqrt(var + epsilon) + bias
  unbiased = rows.var(0, ddof=1)
  return (
    y,
    momentum * stats.mean + (1 - momentum) * mean,
    momentum * stats.var + (1 - momentum) * unbiased,
  )


def _norm(dim=3, **options) -> Any:
  norm: Any = BatchNorm(dim, **options)
  norm.scale[...], norm.bias[...] = jnp.arange(1.0, dim + 1), jnp.arange(dim) / 2
  return norm


def _stats(dim=3):
  return Stats(jnp.linspace(-1, 1, dim), jnp.linspace(0.5, 2, dim))


def _x(*shape, seed=0):
  return 2 + 3 * jax.random.normal(jax.random.key(seed), shape)


_train = jax.jit(lambda norm, x, stats, **o: norm(x, stats, train=True, **o))


class BatchNormTest(parameterized.TestCase):
  @parameterized.parameters(((7, 3), 0.9), ((2, 4, 5, 3), 0.99), ((2, 3), 0.0))
  def test_training_is_the_definition(self, shape, momentum):
    norm, x, stats = _norm(momentum=momentum, epsilon=1e-3), _x(*shape), _stats()
    y, new = _train(norm, x, stats)
    options = {"momentum": momentum, "epsilon": 1e-3}
    want = _defined(x, norm.scale, norm.bias, stats, **options)
    for found, wanted in zip((y, new.mean, new.var), want):
      _close(found, wanted)

  def test_evaluation_uses_the_running_statistics(self):
    norm, x, stats = _norm(), _x(2, 4, 3), _stats()
    y, new = norm(x, stats)
    want = (x - stats.mean) / np.sqrt(stats.var + 1e-5) * norm.scale + norm.bias
    _close(y, want)
    jax.tree.map(np.testing.assert_array_equal, new, stats)

  def test_begins_with_mean_0_and_variance_1_apart_from_the_parameters(self):
    norm = BatchNorm(3)
    np.testing.assert_array_equal(norm.init_stats().mean, np.zeros(3))
    np.testing.assert_array_equal(norm.init_stats().var, np.ones(3))
    shapes = [leaf.shape for leaf in jax.tree.leaves(norm)]
    self.assertEqual(shapes, [(3,), (3,)])

  def test_a_large_mean_does_not_cancel(self):
    x = 1e4 + _x(64, 3)
    y, new = _train(BatchNorm(3), x, BatchNorm(3).init_stats())
    _close(np.var(y, 0), np.ones(3), 1e-3)
    _close(new.var, 0.9 + 0.1 * np.var(np.asarray(x, np.float64), 0, ddof=1), 1e-3)

  @parameterized.parameters(0.0, np.nan)
  def test_masked_rows_do_not_enter(self, anything):
    norm, stats = _norm(), _stats()
    mask = jnp.arange(12).reshape(2, 6) % 3 > 0
    x = jnp.where(mask[..., None], _x(2, 6, 3), anything)

    def loss(norm, x):
      y, new = norm(x, stats, mask=mask, train=True)
      return jnp.sum(jnp.sin(y) * mask[..., None]), (y, new)

    slope = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (by_norm, by_x), (y, new) = slope(norm, x)
    want = _defined(x, norm.scale, norm.bias, stats, mask)
    for found, wanted in zip((y, new.mean, new.var), want):
      _close(found, wanted)
    self.assertFalse(by_x[~mask].any())
    self.assertTrue(all(np.isfinite(g).all() for g in jax.tree.leaves(by_norm)))

  @parameterized.parameters((False, (2, 3)), (True, (0, 3)))
  def test_a_batch_of_nothing_moves_nothing(self, real, shape):
    norm, stats = _norm(), _stats()
    mask = jnp.full(shape[:-1], real)

    def loss(norm, x):
      y, new = norm(x, stats, mask=mask, train=True)
      return jnp.sum(y), (y, new)

    grads, (y, new) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(norm, _x(*shape))
    jax.tree.map(np.testing.assert_array_equal, new, stats)
    for leaf in jax.tree.leaves((grads, y)):
      self.assertTrue(np.isfinite(leaf).all())

  def test_one_row_has_the_variance_0(self):
    _, new = _train(_norm(), _x(1, 3), _stats())
    _close(new.var, 0.9 * _stats().var)

  def test_the_gradient_is_through_the_batch_and_not_into_the_running(self):
    norm, x, stats = _norm(), _x(4, 3), _stats()

    def loss(x, stats, train, by_running=0.0):
      y, new = norm(x, stats, train=train)
      running = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(new))
      return jnp.sum(jnp.sin(y)) + by_running * running

    by_x = jax.jit(jax.grad(loss), static_argnums=2)
    plain = by_x(x, stats, True)
    self.assertGreater(np.abs(plain).max(), 1e-2)
    eps, far = 1e-3, np.zeros((4, 3), np.float32)
    far[1, 2] = eps
    up, down = (
      np.sin(_defined(x + s * far, norm.scale, norm.bias, stats)[0]).sum()
      for s in (1, -1)
    )
    _close(plain[1, 2], (up - down) / (2 * eps), 1e-2)
    _close(by_x(x, stats, True, 1.0), plain)
    for train in (True, False):
      found = jax.jit(jax.grad(loss, 1), static_argnums=2)(x, stats, train, 1.0)
      for leaf in jax.tree.leaves(found):
        np.testing.assert_array_equal(leaf, 0)

  def test_statistics_are_float32_in_bfloat16(self):
    norm = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), _norm())
    x = _x(2, 50, 3).astype("bfloat16")
    y, new = _train(norm, x, _stats())
    self.assertEqual(y.dtype, jnp.bfloat16)
    self.assertEqual([leaf.dtype for leaf in jax.tree.leaves(new)], [jnp.float32] * 2)
    want = _defined(x.astype("float32"), norm.scale, norm.bias, _stats())
    _close(new.mean, want[1])
    _close(new.var, want[2])
    _close(y.astype("float32"), want[0], 0.05)

  @parameterized.parameters(
    ({"momentum": 1.5}, {}, "momentum = 1.5"),
    ({"epsilon": 0.0}, {}, "epsilon = 0.0"),
    ({}, {}, r"BatchNorm has batch norm: pass stats=layer.init_stats\(\)"),
    ({}, {"stats": Moments(*np.zeros((3, 3)))}, "evaluation takes the running"),
    ({}, {"stats": _stats(), "mask": jnp.ones(3, bool)}, r"mask \(3,\): .* \(2,\)"),
  )
  def test_errors(self, options, given, message):
    with self.assertRaisesRegex(ValueError, message):
      BatchNorm(3, **options)(jnp.ones((2, 3)), **given)


class PartsTest(parameterized.TestCase):
  @parameterized.parameters(((8, 8), False), ((2, 6, 5, 3), False), ((4, 4, 8), True))
  def test_parts_are_joined_as_one_batch(self, sizes, masked):
    norm, x, stats = _norm(), _x(sum(sizes), 4, 3), _stats()
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (sum(sizes), 4))
    mask = mask.at[: sizes[0]].set(False)  # a part of nothing comes first
    given = {"mask": mask} if masked else {}
    _, want = _train(norm, x, stats, **given)
    moments, start = running.init_moments(stats), 0
    for size in sizes:
      part = slice(start, start + size)
      own = {name: value[part] for name, value in given.items()}
      _, moments = _train(norm, x[part], moments, **own)
      start += size
    found = running.moved(norm, stats, moments)
    jax.tree.map(lambda a, b: _close(a, b, 1e-6), found, want)

  def test_without_parts_nothing_moves(self):
    stats = {"a/0": _stats(), "b": {"c": _stats(2)}}
    module: Any = nnx.Module()
    module.a, module.b = nnx.List([_norm()]), nnx.Module()
    module.b.c = _norm(2)
    found = running.moved(module, stats, running.init_moments(stats))
    jax.tree.map(np.testing.assert_array_equal, found, stats)


class _Pair(nnx.Module):
  """Two linear maps, a norm after each of the sort that is asked for."""

  init_stats = running.init_stats

  def __init__(self, dim=4, batch=True, *, rngs):
    self.linears = nnx.List(nnx.Linear(dim, dim, rngs=rngs) for _ in range(2))
    one = BatchNorm(dim) if batch else nnx.LayerNorm(dim, rngs=rngs)
    self.norms, self.last = nnx.List([one]), nnx.LayerNorm(dim, rngs=rngs)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    x = jnp.tanh(carry(self.norms[0], self.linears[0](x)))
    return carry.result(carry(self.last, self.linears[1](x)))


class _Deep(nnx.Module):
  """Pairs that are stacked and scanned."""

  init_stats = running.init_stats

  def __init__(self, depth=2):
    keys = jax.random.split(jax.random.key(0), depth)
    self.blocks = jax.vmap(lambda key: _Pair(rngs=nnx.Rngs(key)))(keys)
    self.depth = depth

  def __call__(self, x, *, stats, train, remat=False, scan=True):
    carry = running.Carry(self, stats, train)

    def one(x, part):
      block, own = part
      return running.apply(block, x, stats=own, train=train)

    one = jax.checkpoint(one) if remat else one
    parts = self.blocks, carry.of(self.blocks)
    if scan:
      x, new = jax.lax.scan(one, x, parts)
    else:
      found = []
      for i in range(self.depth):
        x, own = one(x, jax.tree.map(lambda leaf, i=i: leaf[i], parts))
        found.append(own)
      new = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    carry.keep(self.blocks, new)
    return carry.result(x)


class CarryTest(parameterized.TestCase):
  def test_statistics_have_the_paths_of_the_norms(self):
    stats = _Pair(rngs=nnx.Rngs(0)).init_stats()
    self.assertEqual(list(stats), ["norms/0"])
    self.assertEqual(_Deep().init_stats()["blocks"]["norms/0"].mean.shape, (2, 4))
    self.assertEqual(_Pair(batch=False, rngs=nnx.Rngs(0)).init_stats(), ())

  def test_without_batch_norm_statistics_are_nothing(self):
    module, x = _Pair(batch=False, rngs=nnx.Rngs(0)), _x(5, 4)
    y, stats = module(x, stats=(), train=True)
    self.assertEqual(stats, ())
    np.testing.assert_array_equal(module(x), y)

  def test_refuses_statistics_that_are_missing_or_of_another(self):
    pair, x = _Pair(rngs=nnx.Rngs(0)), _x(5, 4)
    for stats in (None, ()):
      message = r"_Pair has batch norm: pass stats=layer.init_stats\(\)"
      with self.assertRaisesRegex(ValueError, message):
        pair(x, stats=stats)
    other = {"norm": _stats()}
    with self.assertRaisesRegex(ValueError, r"\['norm'\]: _Pair .* \['norms/0'\]"):
      pair(x, stats=other)
    plain = _Pair(batch=False, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(ValueError, r"stats of \['norm'\].* in \[\]"):
      plain(x, stats=other)

  def test_scan_and_remat_are_a_loop(self):
    model, x = _Deep(), _x(6, 5, 4)
    stats = model.init_stats()

    def run(**how):
      def loss(model, stats):
        y, new = model(x, stats=stats, train=True, **how)
        return jnp.sum(jnp.sin(y)), (y, new)

      return jax.jit(jax.grad(loss, has_aux=True))(model, stats)

    want = run(scan=False)
    for how in ({"scan": True}, {"remat": True}):
      jax.tree.map(lambda a, b: _close(a, b, 1e-4), run(**how), want)
    _, (_, new) = want
    moves = np.abs(new["blocks"]["norms/0"].mean).max(axis=1)
    self.assertGreater(moves.min(), 1e-3)


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


if __name__ == "__main__":
  absltest.main()
