"""What every Triton kernel is compiled with, read from its call and from its PTX."""

from absl.testing import absltest

from tests.compiling import child

# Traces every package's kernels, and compiles one of them.
_CALLS = """
import json
import jax
import jax.numpy as jnp
from jax.extend import core as jex
from experiments.bench import gpu_calls
from experiments.bench.kernels import prefix_softmax as bench
from pallas_kernels import decayed_linear
from pallas_kernels.prefix_softmax import triton_gpu

x = jax.ShapeDtypeStruct((1, 64, 2, 64), jnp.bfloat16)

def decayed(q, k, v):
  out, state = decayed_linear.attend(q, k, v, impl="triton")
  return out.astype(jnp.float32).sum() + state.sum()

def equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jex.jaxprs_in_params(equation.params):
      yield from equations(inner)

traced = [jax.make_jaxpr(jax.grad(decayed, (0, 1, 2)))(x, x, x)]
for kernel in ("forward", "backward"):
  given = bench.arguments(kernel, 64)
  tiles = triton_gpu.fitting(given[1])
  traced.append(jax.make_jaxpr(bench.call(triton_gpu, kernel, tiles))(*given))
found = [
  [e.params["name"], e.params["backend_options"]["ptx_version"]]
  for whole in traced
  for e in equations(whole.jaxpr)
  if e.primitive.name == "triton_kernel_call"
]
for name, call in gpu_calls.calls(90, 64, 64, shape=(1, 64, 64, 2, 1)).items():
  found.append([f"flash_{name}", call.options["ptx_version"]])
  if name == "forward":
    ptx = call.compile(90).ptx
    version = [line for line in ptx.splitlines() if line.startswith(".version")]
print(json.dumps([found, version]))
"""


class CallingLoweringTest(absltest.TestCase):
  def test_ptx_is_of_a_version_that_the_oldest_cuda_assembles(self):
    found, version = child(_CALLS)
    packages = [name.split("_")[0] for name, _ in found]
    self.assertEqual(set(packages), {"flash", "decayed", "prefix"})
    self.assertEqual({number for _, number in found}, {88}, found)
    self.assertEqual(version, [".version 8.8"])


if __name__ == "__main__":
  absltest.main()
