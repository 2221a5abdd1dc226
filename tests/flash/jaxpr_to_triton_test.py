"""Each primitive of JAX that reaches Triton, against JAX."""

# ruff: noqa: E402, I001
from tests import simulate  # first: sets TRITON_INTERPRET

import jax
import jax.numpy as jnp
import jax_triton
import numpy as np
import triton
import triton.language as tl
from absl.testing import absltest, parameterized
from jax import lax

from attnjax.core.scalar_functions import trace
from pallas_kernels.flash.jaxpr_to_triton import functions, translate

FLOATS = (-3.5, -1.5, -0.5, -1e-4, 0.0, 1e-4, 0.07, 0.2, 0.31, 0.5, 2.5, 9.0)
SHORT = (-3.5, -1.5, -0.5, 0.0, 0.25, 0.5, 2.5, 9.0)
POSITIVE = (1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 3.0, 7.0, 30.0, 1e6)
INTEGERS = (-9, -7, -2, -1, 0, 1, 2, 3, 5, 8, 13, 1 << 30)
ONE = {
  "abs exp exp2 expm1 neg sin cos tan sinh cosh tanh logistic erf floor ceil "
  "sign square is_finite": FLOATS,
  "log log1p sqrt rsqrt": POSITIVE,
  "neg abs sign not": INTEGERS,
}
TWO = {
  "add sub mul div rem max min eq ne lt le gt ge": (FLOATS, POSITIVE[::-1]),
  "add sub mul div rem max min and or xor eq ne lt le gt ge": (
    INTEGERS,
    (2, -3, 4, 5, 7, 1, -1, 2, 3, -5, 9, 6),
  ),
  "shift_left shift_right_logical shift_right_arithmetic": (INTEGERS, (3, 1, 0) * 4),
}
PRIMITIVES = {
  "not": lax.bitwise_not, "and": lax.bitwise_and, "or": lax.bitwise_or,
  "xor": lax.bitwise_xor,
}  # fmt: skip
FUNCTIONS = {
  "where": (lambda x: jnp.where(x > 0, x, 2.0), FLOATS),
  "clip": (lambda x: lax.clamp(-1.0, x, 1.0), FLOATS),
  "integer_pow": (lambda x: x**3 + x**-2, POSITIVE),
  "pow": (lambda x: x**0.3 + 1.5**x, POSITIVE[:10]),
  "round_even": (jnp.round, FLOATS),
  "round_away": (lax.round, FLOATS),
  "to_integer": (lambda x: x.astype(jnp.int32), FLOATS),
  "to_boolean": (lambda x: x.astype(bool).astype(jnp.float32), INTEGERS),
  "to_bfloat16": (lambda x: x.astype(jnp.bfloat16).astype(jnp.float32) + x, FLOATS),
  "precision": (lambda x: lax.reduce_precision(x, 8, 7), SHORT),
  "infinity": (lambda x: jnp.where(x > 0, x, -jnp.inf), FLOATS),
  "constant": (lambda x: 3.0, FLOATS),
  "nested": (lambda x: jax.nn.softplus(x) + jax.nn.relu(x), FLOATS),
  "floor_division": (lambda x: x // 4 + x % 3, INTEGERS),
  "one_minus_square": (lambda x: jax.jvp(jnp.tanh, (x,), (x,))[1], FLOATS[2:9]),
  "erfc": (lambda x: 1 + lax.erfc(x), FLOATS),
  "hash": (
    lambda x: (x.astype(jnp.uint32) * np.uint32(2654435761) >> 16) ^ np.uint32(77),
    INTEGERS,
  ),
}


@triton.jit
def apply(x, y, out, FUNCTION: tl.constexpr):
  place = tl.arange(0, 16)[:, None]
  result = FUNCTION(tl.load(x + place), tl.load(y + place))
  tl.store(out + place, tl.broadcast_to(result, [16, 1]).to(out.dtype.element_ty))


def run(function, x, y):
  """The function of two numbers in Triton, elementwise."""
  closed, _ = trace(function, [x.dtype, y.dtype])
  lines, (result,) = translate(closed, ["x", "y"], "v")
  body = "".join(f"  {line}\n" for line in [*lines, f"return {result}"])
  translated = functions(f"@triton.jit\ndef f(x, y):\n{body}")["f"]
  with simulate.accelerators():
    return jax_triton.triton_call(
      *(np.pad(a, (0, 16 - a.size), constant_values=1) for a in (x, y)),
      kernel=apply,
      out_type=jax.ShapeDtypeStruct((16,), closed.out_avals[0].dtype),
      grid=(1,),
      FUNCTION=translated,
    )[: x.size]


def array(values):
  kind = np.int32 if isinstance(values[0], int) else np.float32
  return np.array(values, kind)


class TranslationTest(parameterized.TestCase):
  def compare(self, function, x, y):
    want = np.broadcast_to(jax.jit(function)(x, y), x.shape)
    got = run(function, x, y)
    self.assertEqual(got.dtype, want.dtype)
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-37)

  @parameterized.parameters((n, v) for names, v in ONE.items() for n in names.split())
  def test_one(self, name, values):
    primitive = PRIMITIVES.get(name) or getattr(lax, name)
    self.compare(lambda x, y: primitive(x), array(values), array(values))

  @parameterized.parameters((n, v) for names, v in TWO.items() for n in names.split())
  def test_two(self, name, values):
    primitive = PRIMITIVES.get(name) or getattr(lax, name)
    self.compare(primitive, *map(array, values))

  @parameterized.named_parameters((n, *f) for n, f in FUNCTIONS.items())
  def test_functions(self, function, values):
    self.compare(lambda x, y: function(x), array(values), array(values))

  def test_names_what_it_cannot_translate(self):
    closed, _ = trace(lax.lgamma, [np.float32])
    with self.assertRaisesRegex(NotImplementedError, "lgamma"):
      translate(closed, ["x"])

  def test_derivatives_under_a_mesh(self):
    """JAX then sums them over no axes, lest a mesh's devices differ in them."""

    def score(x, slope):
      return 2.0 * jnp.tanh(x / 2.0) - slope

    def pull(cotangent, x, slope):
      return jax.vjp(score, x, slope)[1](cotangent)

    types = [np.float32] * 3
    plain, _ = trace(pull, types)
    with jax.set_mesh(jax.make_mesh((1,), ("x",))):
      shared, _ = trace(pull, types)
    names = ["cotangent", "x", "slope"]
    self.assertEqual(translate(shared, names), translate(plain, names))

  def test_the_same_source_is_the_same_function(self):
    source = "@triton.jit\ndef f(x):\n  return x\n"
    self.assertIs(functions(source)["f"], functions(source)["f"])


if __name__ == "__main__":
  absltest.main()
