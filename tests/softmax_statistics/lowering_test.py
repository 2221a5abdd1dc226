"""The kernels compile for chips that are not here, within their memory, unspilled."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_ROWS = """
import json
from experiments.bench.kernels import softmax_statistics as bench

print(json.dumps(bench.{kind}_rows({machine!r}, {H})))
"""
_MESH = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import attnjax

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices).reshape(2, 2), ("data", "model"), (AxisType.Auto,) * 2)
spec = NamedSharding(mesh, P("data", None, "model"))
q = jax.ShapeDtypeStruct((2, 512, 4, 64), jnp.bfloat16, sharding=spec)
k = jax.ShapeDtypeStruct((2, 512, 2, 64), jnp.bfloat16, sharding=spec)
lse = jax.ShapeDtypeStruct((2, 512, 4), jnp.float32, sharding=spec)

def run(q, k, lse):
  given = dict(is_causal=True, impl="pallas")
  rows = attnjax.attention_rows(q, k, lse, **given)
  return attnjax.attention_column_sums(q, k, lse, **given), rows

with jax.set_mesh(mesh):
  text = jax.jit(run).lower(q, k, lse).compile().as_text()
sent = [name for name in ("all-gather", "all-to-all") if f" {name}(" in text]
print(json.dumps(dict(kernels=text.count("tpu_custom_call"), sent=sent)))
"""


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(
    ("tpu", "v5e", 128), ("gpu", 90, 128), ("gpu", 90, 64), ("gpu", 120, 64)
  )
  def test_compiles(self, kind, machine, H):
    rows = child(_ROWS.format(kind=kind, machine=machine, H=H))
    names = [row["kernel" if kind == "tpu" else "part"] for row in rows]
    self.assertEqual(names, ["columns", "rows"])
    for row in rows:
      self.assertEqual(row["problems"], "", row)

  def test_compiles_on_a_mesh(self):
    found = child(_MESH)
    self.assertGreaterEqual(found["kernels"], 2)
    self.assertEqual(found["sent"], [])


if __name__ == "__main__":
  absltest.main()
