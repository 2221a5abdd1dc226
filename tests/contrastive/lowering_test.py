"""The kernels compile for chips that are not here, within their memory, unspilled."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_COMPILED = """
import json
from experiments.bench.kernels import contrastive as bench

print(json.dumps(bench.{kind}_rows({machine!r}, {D}, {case!r}, only={kernel!r}{more})))
"""
_MESH = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import attnjax

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices), ("data",), (AxisType.Auto,))
rows = NamedSharding(mesh, P("data"))
x = jax.ShapeDtypeStruct((4096, 256), jnp.bfloat16, sharding=rows)

def loss(q, items):
  return attnjax.contrastive_loss(q, items, log_scale=0.0, impl="pallas")

with jax.set_mesh(mesh):
  text = jax.jit(jax.grad(loss, (0, 1))).lower(x, x).as_text()
found = re.findall(r"tpu_custom_call.*-> \\(?tensor<([\\dx]+)xf32>", text)
print(json.dumps(found))
"""


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(
    ("tpu", "v5e", 256, "backward", "diagonal", ", compare=True"),
    ("gpu", 90, 512, "backward", "mask", ""),
  )
  def test_compiles(self, kind, machine, D, kernel, case, more):
    given = {"kind": kind, "machine": machine, "D": D, "kernel": kernel, "more": more}
    (row,) = child(_COMPILED.format(case=case, **given))
    self.assertEqual(row["problems"], "", f"{row}")

  def test_each_device_of_a_mesh_has_rows_of_its_own(self):
    self.assertEqual(child(_MESH), ["1x1024"] * 2 + ["1024x256"] * 2)


if __name__ == "__main__":
  absltest.main()
