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
_OUTSIDE = """
import json
import jax.numpy as jnp
from experiments.bench import bundles, tpu
from pallas_kernels.flash import mosaic_tpu
from pallas_kernels.flash.mosaic_tpu import slopes

slopes.ROOM = 0
tpu.T = 512
bias = tpu._shape(1, 1, 512, 512)
lines = [tpu._shape(1, 1, *x, dtype="int32") for x in ((512, 1), (1, 512))]
program = tpu._program(
  (bias, *lines),
  lambda x, t, s, b, *_: x + b,
  lambda t, s, _, m, n: (s <= t) & (m == n),
)
problem = tpu.Problem(program, N=4, K=2)
tile = mosaic_tpu.Tile(256, 256, 128, 128)
estimate = mosaic_tpu.estimate(mosaic_tpu.Tiles(tile, tile), *problem.arrays(), program)
tiles = mosaic_tpu.Tiles(tile, tile, estimate.backward - 1)
inside = mosaic_tpu.estimate(tiles, *problem.arrays(), program)
read = tpu.compiled("v5e", "backward", problem, tiles)
taken = sum(read.memory.values())
print(json.dumps(dict(resident=inside.resident, taken=taken, estimate=inside.backward)))
"""
_LAYER = """
import json, re
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from attnjax import dot_product_attention

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
place = SingleDeviceSharding(devices[0])

def layer(x, wq, wk, wv, wo):
  q, k, v = (jnp.einsum("btd,dnh->btnh", x, w) for w in (wq, wk, wv))
  turn = jnp.cos(jnp.arange(512.0))[None, :, None, None].astype(x.dtype)
  out = dot_product_attention(q * turn, k * turn, v, is_causal=True, impl="pallas")
  return jnp.einsum("btnh,nhd->btd", out, wo).astype(jnp.float32).sum()

shapes = (2, 512, 256), (256, 4, 128), (256, 2, 128), (256, 2, 128), (4, 128, 256)
given = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=place) for s in shapes]
text = jax.jit(jax.grad(layer, range(5))).lower(*given).compile().as_text()
pattern = r"= bf16\\[2,([0-9,]+)\\]\\S* (?:copy|transpose)\\("
copied = re.findall(pattern, text[text.index("ENTRY"):])
flops = [int(x) for x in re.findall(r'"cost_estimate":{"flops":"([0-9]+)"', text)]
print(json.dumps(dict(copied=copied, flops=flops)))
"""


class TpuLoweringTest(parameterized.TestCase):
  @parameterized.parameters(("v5e", "causal", 128, 128), ("v5e", "slope", 192, 128))
  def test_compiles_within_the_estimate(self, machine, feature, H, V):
    code = _ONE.format(machine=machine, feature=feature, H=H, V=V)
    found = child(code)
    for taken, estimate in found["kernels"].values():
      self.assertBetween(estimate, taken, 2.5 * taken)
      self.assertLessEqual(estimate, found["limit"])

  def test_a_mesh_that_is_only_described_is_refused(self):
    """A known gap: compilers without their chips cannot ask how to divide a kernel.

    On chips, and on eight CPU devices (tests/sharding_test.py), it is divided.
    """
    with self.assertRaisesRegex(AssertionError, "CustomSPMDPartitioning not found"):
      child(_MESH)

  def test_gradients_that_gather_outside_fast_memory_compile(self):
    found = child(_OUTSIDE)
    self.assertFalse(found["resident"])
    self.assertBetween(found["estimate"], found["taken"], 4 * found["taken"])

  def test_a_layer_copies_no_tokens_for_the_kernels(self):
    found = child(_LAYER)
    self.assertEqual(found["copied"], [])
    product = 2 * (2 * 4 * 512 * 512) * 128
    self.assertEqual(found["flops"], [2 * product, 5 * product])


if __name__ == "__main__":
  absltest.main()
