"""The GPU kernels compile for chips that are not here: no spills, tensor cores used.

The compiler runs in a child process: one that has imported Triton to interpret cannot
compile, and the test runner's processes are shared by many files.
"""

from absl.testing import absltest, parameterized

from tests.compiling import child

HEADER = """
import json
import jax
import jax.numpy as jnp
from experiments.bench import gpu, gpu_calls
"""
LOWER = """
from jax.sharding import AbstractDevice, AbstractMesh
from pallas_kernels.flash import triton_gpu

# jax-triton knows no such GPU by its name, which has less memory than this host's
# default, an H100.
tiles = triton_gpu.defaults((256, 256, 64, 64), "bfloat16", 89)
program = gpu_calls.causal_program()
blocks = tiles.forward_blocks, tiles.backward_blocks
lists = [gpu_calls.schedule(256, 256, b) for b in blocks]

def run(q, k, v, g, first, second):
  given = dict(scale=0.125, tiles=tiles)
  out, *rows = triton_gpu.forward(q, k, v, None, program, first, **given)
  return out, triton_gpu.backward(q, k, v, g, *rows, rows[0], program, second, **given)

spec = jax.ShapeDtypeStruct((1, 256, 2, 64), "bfloat16")
device = AbstractDevice("NVIDIA L40S", None, "gpu")
with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
  traced = jax.jit(run).trace(*[spec] * 4, *lists)
  lowered = traced.lower(lowering_platforms=("cuda",))
count = lowered.as_text().count("triton_kernel_call")
calls = (e for e in traced.jaxpr.eqns if e.primitive.name == "triton_kernel_call")
print(json.dumps([count, [e.params["compute_capability"] for e in calls]]))
"""


class GpuLoweringTest(parameterized.TestCase):
  @parameterized.parameters(
    ((90, 128, 128), ("forward", "queries", "keys")),
    ((90, 128, 128, "bfloat16", "causal", 1), ("decode", "queries", "keys")),
    ((120, 64, 64), ("forward", "queries", "keys")),
  )
  def test_compiles_without_spills(self, call, parts):
    """With the oldest assembler that jax[cuda13] allows."""
    table = child(f"{HEADER}print(json.dumps(gpu.lowered(*{call})))")
    self.assertEqual([line["part"] for line in table], list(parts))
    for line in table:
      self.assertEqual(line["problems"], "", line)
      self.assertGreater(line["tensor"], 0)
      self.assertLessEqual(line["shared"], line["estimate"])

  def test_bench_against_peer(self):
    """Few more instructions a score than the flash kernel of fla, as it was read.

    It has 0.434, 0.346 and 0.553. Three tiles in flight leave room for narrower ones.
    """
    # Its numbers are below; compiling it takes twice as long as our kernels.
    alone = "gpu.gpu_peer.calls = lambda *_: []\n"
    table = child(HEADER + alone + "print(json.dumps(gpu.rows((90,))[0]))")
    ours = {line["part"]: line["a score"] for line in table}
    self.assertLess(ours["forward"], 0.434)
    self.assertLess(ours["queries"], 1.05 * 0.346)
    self.assertLess(ours["keys"], 0.553)

  def test_lowers_through_jax_triton(self):
    self.assertEqual(child(HEADER + LOWER), [3, [89, 89, 89]])


if __name__ == "__main__":
  absltest.main()
