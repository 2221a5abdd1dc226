"""The TPU kernels compile for chips that are not here, alone and on a mesh."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_ONE = """
import json
from experiments.bench import bundles, tpu
from pallas_kernels.flash import mosaic_tpu

problem = tpu.Problem(tpu.features()[{feature!r}].program, N=4, K=2, H={H}, V={V})
_, kind = bundles.TOPOLOGIES[{machine!r}]
tiles = mosaic_tpu.defaults(*problem.arrays(), problem.program, kind)
estimate = mosaic_tpu.estimate(tiles, *problem.arrays(), problem.program)
found = dict()
for kernel in tpu.KERNELS:
  read = tpu.compiled({machine!r}, kernel, problem, tiles)
  found[kernel] = [sum(read.memory.values()), getattr(estimate, kernel)]
print(json.dumps(dict(kernels=found, limit=tiles.memory)))
"""
_MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from attnjax import dot_product_attention

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices).reshape(2, 2), ("data", "model"), (AxisType.Auto,) * 2)
spec = NamedSharding(mesh, P("data", None, "model"))
q = jax.ShapeDtypeStruct((2, 512, 4, 128), jnp.bfloat16, sharding=spec)
k = jax.ShapeDtypeStruct((2, 512, 2, 128), jnp.bfloat16, sharding=spec)

def loss(q, k, v):
  out = dot_product_attention(q, k, v, is_causal=True, impl="pallas")
  return out.astype(jnp.float32).sum()

with jax.set_mesh(mesh):
  text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k).compile().as_text()
sent = [name for name in ("all-gather", "all-to-all") if f" {name}(" in text]
print(json.dumps(dict(kernels=text.count("tpu_custom_call"), sent=sent)))
"""


class TpuLoweringTest(parameterized.TestCase):
  @parameterized.parameters(("v5e", "causal", 128, 128), ("v5e", "slope", 192, 128))
  def test_compiles_within_the_estimate(self, machine, feature, H, V):
    code = _ONE.format(machine=machine, feature=feature, H=H, V=V)
    found = child(code)
    for taken, estimate in found["kernels"].values():
      self.assertBetween(estimate, taken, 2.5 * taken)
      self.assertLessEqual(estimate, found["limit"])

  def test_on_a_mesh_nothing_is_gathered(self):
    found = child(_MESH)
    self.assertGreaterEqual(found["kernels"], 2)
    self.assertEqual(found["sent"], [])


if __name__ == "__main__":
  absltest.main()
