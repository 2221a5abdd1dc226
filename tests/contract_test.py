"""Every implementation of every system against its definition, and forms' checks."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax import contract
from attnjax.contract.subject import Subject
from tests import dense, listing, precision


def _problems(module):
  for case in module.CASES:
    for impl in module.IMPLEMENTATIONS[1:]:  # [0] is the reference
      yield f"{case.name}_{impl}", case, impl


@contextlib.contextmanager
def _kernels():
  """Kernels are evaluated densely, since their own tests simulate them."""
  with simulate.accelerators(), dense.replacing_kernels():
    yield


def _checks(module):
  for form in module.FORMS:
    for check in contract.form(form).CHECKS:
      yield f"{form}_{check.__name__}", Subject(module, form), check


@functools.cache
def _wanted(module, name):
  """Returns what the definition gives for a case."""
  case = next(case for case in module.CASES if case.name == name)
  return _compiled(case.defined(module), case)()


def _compiled(function, case, **how):
  """Returns what maps arrays to the values and gradients of a case, as NumPy arrays."""
  options = case.arguments()

  @jax.jit
  def both(arrays):
    def loss(arrays):
      out = function(**arrays, **options, **how)
      return finite_loss(out), out

    (_, out), grads = jax.value_and_grad(loss, has_aux=True)(arrays)
    return {"out": out, "grads": grads}

  def run(arrays=None):
    with _kernels():
      return jax.tree.map(np.asarray, both(arrays or case.arrays()))

  return run


def finite_loss(out):
  """Returns a sum over all outputs in which -inf, an empty row's lse, is left out."""
  leaves = jax.tree.leaves(out)
  return sum(jnp.sum(jnp.sin(jnp.where(jnp.isfinite(y), y, 0))) for y in leaves)


def agrees(module, case, impl) -> None:
  """Raises AssertionError if an implementation is not what the definition says."""
  want = _wanted(module, case.name)
  run = _compiled(case.implemented(module), case, impl=impl)
  got = run()
  types = [jax.tree.map(_type, x) for x in (got, want)]
  assert types[0] == types[1], f"{types[0]} instead of {types[1]}"
  jax.tree.map(_close, got, want)
  if impl == "xla":  # the kernels have tests of their own
    jax.tree.map(np.testing.assert_array_equal, run(), got)
    _check_padding(case, run)


def _check_padding(case, run):
  """Nothing of what stands at padding reaches what is seen, or its gradients."""
  options, arrays = case.arguments(), case.arrays()
  real = options.get("valid", options.get("segment_ids"))
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


class FunctionTest(parameterized.TestCase):
  @parameterized.named_parameters(*listing.each(_problems))
  def test_value_and_gradients(self, module, error, case: Any = None, impl=None):
    listing.check(error)
    if case.name in getattr(module, "REFUSED", {}).get(impl, ()):
      with self.assertRaisesRegex(NotImplementedError, rf"{impl}.*\w+ .*\w+"):
        _compiled(case.implemented(module), case, impl=impl)()
    else:
      agrees(module, case, impl)

  @parameterized.named_parameters(*listing.each())
  def test_bfloat16_is_the_float32_answer_rounded(self, module, error):
    listing.check(error)
    case = module.CASES[0]
    rough = case.arrays("bfloat16")
    exact = jax.tree.map(lambda x: x.astype("float32"), rough)
    options, definition = case.arguments(), case.defined(module)
    reference = jax.jit(lambda a: definition(**a, **options))
    want, plain = reference(exact), reference(rough)
    function = case.implemented(module)
    for impl in module.IMPLEMENTATIONS[1:]:
      if impl in ("pallas", "triton"):
        continue  # simulators are slow; the kernels' own tests have this type
      got = jax.jit(lambda a, i=impl: function(**a, **options, impl=i))(rough)
      self.assertLessEqual(precision.worst(got, want, plain), 1.0, impl)

  @parameterized.named_parameters(*listing.each())
  def test_vmap_is_a_loop(self, module, error):
    listing.check(error)
    case = module.CASES[0]
    options, two = case.arguments(), [case.arrays(seed=s) for s in (0, 1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *two)
    definition, function = case.defined(module), case.implemented(module)
    single = jax.jit(lambda a: definition(**a, **options))
    want = jax.tree.map(lambda *x: jnp.stack(x), *map(single, two))
    for impl in module.IMPLEMENTATIONS[1:]:

      def run(arrays, impl=impl):
        return function(**arrays, **options, impl=impl)

      with _kernels():
        got = jax.jit(jax.vmap(run))(stacked)
        jax.tree.map(_close, got, want)

  @parameterized.named_parameters(*listing.each())
  def test_unknown_implementation_is_named(self, module, error):
    listing.check(error)
    case = module.CASES[0]
    with self.assertRaisesRegex(ValueError, "'cuda'.*reference"):
      case.implemented(module)(**case.arrays(), **case.arguments(), impl="cuda")


class FormTest(parameterized.TestCase):
  @parameterized.named_parameters(*listing.each(_checks))
  def test_form(self, module, error, subject: Any = None, check: Any = None):
    """What the forms' own files say, by `attnjax.contract.forms.<form>.CHECKS`."""
    listing.check(error)
    check(_kept(subject))


@functools.cache
def _kept(subject: Subject) -> Subject:
  """Returns an equal subject, always the same: what it has compiled is shared."""
  return subject


def _type(x):
  return x.shape, x.dtype


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
