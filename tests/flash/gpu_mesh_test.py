"""Score functions in the GPU kernels under a mesh, where JAX traces them otherwise."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax import dot_product_attention, sharding


def alibi(slopes, table):
  return lambda score, b, n, q, k: score - slopes[n] * jnp.abs(q - k)


def scale_and_table(slopes, table):
  return lambda score, b, n, q, k: score * slopes[n] + table[k]


class MeshTest(parameterized.TestCase):
  @parameterized.parameters(alibi, scale_and_table)
  def test_score_functions(self, make):
    keys = jax.random.split(jax.random.key(0), 5)
    q, k, v = (jax.random.normal(key, (1, 20, 2, 16)) for key in keys[:3])
    slopes, table = jnp.array([0.5, 1.5]), jax.random.normal(keys[3], (20,))

    def loss(impl, q, k, v, slopes, table):
      out = dot_product_attention(
        q, k, v, is_causal=True, score=make(slopes, table), impl=impl
      )
      return jnp.sum(out * jnp.cos(v)), out

    def run(impl):
      return jax.grad(loss, (1, 2, 3, 4, 5), has_aux=True)(impl, q, k, v, slopes, table)

    want = run("reference")
    with simulate.accelerators(), jax.set_mesh(sharding.make_mesh()):
      found = run("triton")
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5), found, want
    )


if __name__ == "__main__":
  absltest.main()
