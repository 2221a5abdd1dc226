"""Every implementation of every system against its reference, and its layers."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from attnjax import contract
from tests import listing, precision

# Cases of a system that run in simulators, which are slow; the tests of a kernel
# itself have many more.
SIMULATED = 2


def _problems(module):
  for number, case in enumerate(module.CASES):
    for impl in module.IMPLEMENTATIONS[1:]:  # [0] is the reference
      if impl == "xla" or number < SIMULATED:
        yield f"{case.name}_{impl}", case, impl


def _forms(module):
  return [(form, form) for form in module.FORMS]


def _sequences(module):
  return [(form, form) for form in module.FORMS if form != "image"]


def _causal(module):
  return [(form, form) for form in module.FORMS if form == "causal"]


@functools.cache
def _wanted(module, name):
  """What the reference gives for a case."""
  case = next(case for case in module.CASES if case.name == name)
  return _compiled(module.reference, case)()


def _compiled(function, case, **how):
  """(arrays) to the values and gradients of a case, as NumPy arrays."""
  options = case.arguments()

  @jax.jit
  def both(arrays):
    def loss(arrays):
      out = function(**arrays, **options, **how)
      return finite_loss(out), out

    (_, out), grads = jax.value_and_grad(loss, has_aux=True)(arrays)
    return {"out": out, "grads": grads}

  def run(arrays=None):
    with simulate.accelerators():
      return jax.tree.map(np.asarray, both(arrays or case.arrays()))

  return run


def finite_loss(out):
  """A sum over all outputs in which -inf, the lse of an empty row, does not count."""
  leaves = jax.tree.leaves(out)
  return sum(jnp.sum(jnp.sin(jnp.where(jnp.isfinite(y), y, 0))) for y in leaves)


@functools.cache
def _layer(module, form):
  return module.Layer(**module.LAYER, form=form, rngs=nnx.Rngs(0))


class FunctionTest(parameterized.TestCase):
  @parameterized.named_parameters(*listing.each(_problems))
  def test_value_and_gradients(self, module, error, case: Any = None, impl=None):
    listing.check(error)
    want, run = _wanted(module, case.name), _compiled(module.attend, case, impl=impl)
    got = run()
    self.assertEqual(jax.tree.map(_type, got), jax.tree.map(_type, want))
    jax.tree.map(_close, got, want)
    if impl == "xla":  # simulators are slow; the kernels have tests of their own
      jax.tree.map(np.testing.assert_array_equal, run(), got)
      self._check_padding(case, run)

  def _check_padding(self, case, run):
    """Nothing of what stands at padding reaches what is seen, or its gradients."""
    options, arrays = case.arguments(), case.arrays()
    real = options.get("padding", options.get("segment_ids"))
    if real is None:
      return
    real = real if real.dtype == bool else real >= 0

    def fill(value, *trees):
      def one(x):
        own = real.reshape(*real.shape, *(1,) * (x.ndim - 2))
        return np.where(own, x, value) if x.shape[:2] == real.shape else x

      return jax.tree.map(one, trees)

    # With agents, `padding` is of the keys: all queries are seen.
    rest = {n: arrays.pop(n) for n in ("q",) if "agents" in arrays}
    want, got = (
      fill(0, *run(fill(value, arrays)[0] | rest).values()) for value in (0, jnp.nan)
    )
    jax.tree.map(_close, got, want)

  @parameterized.named_parameters(*listing.each())
  def test_bfloat16_is_the_float32_answer_rounded(self, module, error):
    listing.check(error)
    case = module.CASES[0]
    rough = case.arrays("bfloat16")
    exact = jax.tree.map(lambda x: x.astype("float32"), rough)
    options = case.arguments()
    reference = jax.jit(lambda a: module.reference(**a, **options))
    want, plain = reference(exact), reference(rough)
    for impl in module.IMPLEMENTATIONS[1:]:
      if impl in ("pallas", "triton"):
        continue  # simulators are slow; the kernels' own tests have this type
      got = jax.jit(lambda a, i=impl: module.attend(**a, **options, impl=i))(rough)
      self.assertLessEqual(precision.worst(got, want, plain), 1.0, impl)

  @parameterized.named_parameters(*listing.each())
  def test_vmap_is_a_loop(self, module, error):
    listing.check(error)
    case = module.CASES[0]
    options, two = case.arguments(), [case.arrays(seed=s) for s in (0, 1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *two)
    single = jax.jit(lambda a: module.reference(**a, **options))
    want = jax.tree.map(lambda *x: jnp.stack(x), *map(single, two))
    for impl in module.IMPLEMENTATIONS[1:]:

      def run(arrays, impl=impl):
        return module.attend(**arrays, **options, impl=impl)

      with simulate.accelerators():
        got = jax.jit(jax.vmap(run))(stacked)
        jax.tree.map(_close, got, want)

  @parameterized.named_parameters(*listing.each())
  def test_unknown_implementation_is_named(self, module, error):
    listing.check(error)
    case = module.CASES[0]
    with self.assertRaisesRegex(ValueError, "'cuda'.*reference"):
      module.attend(**case.arrays(), **case.arguments(), impl="cuda")


class LayerTest(parameterized.TestCase):
  @parameterized.named_parameters(*listing.each(_forms))
  def test_composes_with_jax(self, module, error, form=None):
    listing.check(error)
    dim = module.LAYER["dim"]
    layer = _layer(module, form)
    shape = (2, 9, 10, dim) if form == "image" else (2, 21, dim)
    x = jax.random.normal(jax.random.key(1), shape)

    def loss(layer, x):
      y = layer(x)
      return jnp.sum(jnp.sin(y)), y

    remat = jax.checkpoint(loss)
    grads, y = jax.jit(jax.grad(loss, has_aux=True))(layer, x)
    self.assertEqual(y.shape, x.shape)
    again, _ = jax.jit(jax.grad(remat, has_aux=True))(layer, x)
    jax.tree.map(_close, again, grads)
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, grads))
    for path, leaf in leaves:
      name = jax.tree_util.keystr(path)
      self.assertTrue(np.isfinite(leaf).all(), name)
      self.assertTrue((leaf != 0).any(), name)

  @parameterized.named_parameters(*listing.each(_forms))
  def test_holds_only_float_parameters(self, module, error, form=None):
    listing.check(error)
    layer = _layer(module, form)
    for path, leaf in jax.tree_util.tree_leaves_with_path(layer):
      self.assertEqual(leaf.dtype, jnp.float32, jax.tree_util.keystr(path))

  @parameterized.named_parameters(*listing.each(_causal))
  def test_causal_form_sees_no_future(self, module, error, form=None):
    listing.check(error)
    layer = _layer(module, form)
    x = jax.random.normal(jax.random.key(1), (1, 21, module.LAYER["dim"]))
    run = jax.jit(lambda x: layer(x))
    before, after = run(x), run(x.at[:, 13:].add(1.0))
    _close(after[:, :13], before[:, :13])
    self.assertGreater(jnp.abs(after[:, 13:] - before[:, 13:]).max(), 1e-3)

  @parameterized.named_parameters(*listing.each(_sequences))
  def test_packed_documents_are_as_if_alone(self, module, error, form=None):
    listing.check(error)
    layer = _layer(module, form)
    run = jax.jit(lambda x, **context: layer(x, **context))
    x = jax.random.normal(jax.random.key(1), (1, 24, module.LAYER["dim"]))
    ids = jnp.repeat(jnp.array([[4, 7, 2]]), jnp.array([11, 2, 11]), axis=1)
    try:
      got = run(x, segment_ids=ids)
    except NotImplementedError:
      return  # refused, not ignored
    alone = [run(x[:, a:b]) for a, b in ((0, 11), (11, 13), (13, 24))]
    _close(got, jnp.concatenate(alone, axis=1))

  @parameterized.named_parameters(*listing.each(_sequences))
  def test_padding_on_either_side_changes_nothing(self, module, error, form=None):
    listing.check(error)
    layer = _layer(module, form)
    run = jax.jit(lambda x: layer(x))
    padded = jax.jit(jax.grad(_loss_of_the_real, argnums=(0, 1), has_aux=True))
    x = jax.random.normal(jax.random.key(1), (1, 24, module.LAYER["dim"]))
    for start, stop, anything in ((5, 24, jnp.nan), (0, 19, jnp.inf)):
      real = (jnp.arange(24) >= start) & (jnp.arange(24) < stop)
      try:
        want, got = (
          padded(layer, jnp.where(real[:, None], x, value), real[None])
          for value in (0.0, anything)
        )
      except NotImplementedError:
        return  # refused, not ignored
      # Gradients and results alike are those of zeros where nobody looks.
      jax.tree.map(np.testing.assert_array_equal, got, want)
      (_, by_x), y = got
      self.assertFalse(by_x[:, ~real].any())
      _close(y[:, start:stop], run(x[:, start:stop]))
      self.assertTrue(jnp.isfinite(y).all())

  @parameterized.named_parameters(*listing.each(_forms))
  def test_no_examples_and_no_tokens(self, module, error, form=None):
    listing.check(error)
    layer, dim = _layer(module, form), module.LAYER["dim"]
    shapes = [(0, 4, 6), (2, 0, 6)] if form == "image" else [(0, 7), (2, 0)]

    def loss(layer, x):
      y = layer(x)
      return y.sum(), y

    for shape in shapes:
      x = jnp.ones((*shape, dim))
      grads, y = jax.grad(loss, has_aux=True)(layer, x)
      self.assertEqual((y.shape, y.dtype), (x.shape, x.dtype))
      self.assertFalse(any(leaf.any() for leaf in jax.tree.leaves(grads)))
    if form == "causal":
      cache = layer.init_cache(2, 4, jnp.float32)
      y, after = layer.step(x, cache)
      self.assertEqual(y.shape, x.shape)
      jax.tree.map(np.testing.assert_array_equal, after, cache)

  @parameterized.named_parameters(*listing.each(_forms))
  def test_traces_in_a_checked_shard_map_and_promotes_no_rank(
    self, module, error, form=None
  ):
    """Batches are divided, parameters are not; what nobody computes is cheap to see."""
    listing.check(error)
    layer, dim = _layer(module, form), module.LAYER["dim"]
    shape = (2, 9, 10, dim) if form == "image" else (2, 21, dim)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    mesh = jax.sharding.AbstractMesh((2,), ("x",), (AxisType.Auto,))

    def gradients(layer, x):
      def loss(layer, x):
        return jax.lax.psum(jnp.sum(layer(x)), "x")

      return jax.grad(loss, (0, 1))(layer, x)

    def step(layer, x):
      return layer, layer.step(x, layer.init_cache(1, 21, jnp.float32))[0]

    with jax.numpy_rank_promotion("raise"):
      for run in (gradients, step) if form == "causal" else (gradients,):
        specs = P(), P("x")
        call = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=specs)
        by_layer, by_x = jax.eval_shape(call, layer, x)
        self.assertEqual(by_x.shape, x.shape)
        jax.tree.map(lambda a, b: self.assertEqual(a.shape, b.shape), by_layer, layer)

  @parameterized.named_parameters(*listing.each())
  def test_every_hyper_parameter_has_a_default(self, module, error):
    listing.check(error)
    slug = module.__name__.rpartition(".")[2]
    options = contract.defaults(slug)
    self.assertEqual(set(module.LAYER) - {"dim", "layers"} - set(options), set())
    parameters = inspect.signature(module.Layer.__init__).parameters.values()
    kinds = {p.name: p.kind for p in parameters}
    for name in options:
      self.assertEqual(kinds[name], inspect.Parameter.KEYWORD_ONLY, name)


def _loss_of_the_real(layer, x, real):
  """(a loss of the real tokens' results, all results)."""
  y = layer(x, padding=real)
  return jnp.sum(jnp.sin(y) * real[..., None]), y


def _type(x):
  return x.shape, x.dtype


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
