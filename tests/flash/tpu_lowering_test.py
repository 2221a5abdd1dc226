"""The TPU kernels compile for chips that are not here, alone and on a mesh."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_ONE = """
import dataclasses, json
from experiments.bench import tpu, tpu_schedule
from pallas_kernels.flash import mosaic_tpu

# More than fast memory holds: XLA would put whole operands there, and no windows.
problem = dataclasses.replace(tpu.features()[{feature!r}], N=64, K=32, H={H}, V={V})
_, kind = tpu_schedule.TOPOLOGIES[{machine!r}]
tiles = mosaic_tpu.defaults(*problem.arrays(), problem.program, kind)
estimate = mosaic_tpu.estimate(tiles, *problem.arrays(), problem.program)
found = dict()
for kernel in tpu.KERNELS:
  read = tpu.compiled({machine!r}, kernel, problem, tiles)
  steps = tpu.steps(read) if problem.program.seen else None
  found[kernel] = [sum(read.memory.values()), getattr(estimate, kernel), steps]
print(json.dumps(dict(kernels=found, limit=tiles.memory)))
"""
_MESH = """
import contextlib, json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from attnjax import dot_product_attention, sharding

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices

def loss(q, k, v):
  out = dot_product_attention(q, k, v, is_causal=True, impl="pallas")
  return out.astype(jnp.float32).sum()

def run(sizes, names, kind, spec, in_force, setting):
  mesh = Mesh(np.array(devices).reshape(sizes), names, axis_types=(kind,) * len(sizes))
  place = NamedSharding(mesh, spec)
  q = jax.ShapeDtypeStruct((4, 512, 8, 128), jnp.bfloat16, sharding=place)
  k = jax.ShapeDtypeStruct((4, 512, 4, 128), jnp.bfloat16, sharding=place)
  context = jax.set_mesh(mesh) if in_force else contextlib.nullcontext()
  with context, sharding.mesh_axes(**setting) if setting else contextlib.nullcontext():
    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k).compile().as_text()
  moving = "all-gather", "all-to-all", "collective-permute", "all-reduce"
  sent = [name for name in moving if f" {name}(" in text]
  return dict(kernels=text.count("tpu_custom_call"), sent=sent)

auto, explicit = AxisType.Auto, AxisType.Explicit
print(json.dumps([
  run((4, 2), ("fsdp", "tensor"), auto, P("fsdp", None, "tensor"), False, None),
  run((2, 2, 2), ("a", "b", "c"), explicit, P(("a", "b"), None, "c"), True, None),
  run((4, 2), ("data", "model"), explicit, P("data"), True, None),
  run((2, 4), ("x", "y"), auto, P("x", None, "y"), True, dict(batch="x", heads="y")),
]))
"""
_OUTSIDE = """
import json
import jax.numpy as jnp
from experiments.bench import tpu, tpu_schedule
from pallas_kernels.flash import mosaic_tpu
from pallas_kernels.flash.mosaic_tpu import operand_gradients

operand_gradients.ROOM = 0
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
    for taken, estimate, steps in found["kernels"].values():
      self.assertBetween(estimate, taken, 2.5 * taken)
      self.assertLessEqual(estimate, found["limit"])
      self.assertEqual(steps is not None, feature == "causal")
      if steps is not None:  # Masks and the test for NaN; what NaN runs is little code.
        self.assertLessEqual(steps["partial"], 1.1 * steps["full"])
        self.assertBetween(steps["rare"], 1, 0.2 * steps["full"])

  def test_compiles_on_meshes_and_nothing_is_sent(self):
    for found in child(_MESH):
      self.assertEqual(found, {"kernels": 2, "sent": []})

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
