"""The sizes of the GPU kernels: offsets beyond 2^31, grids, one kernel for all lengths.

They compile in a child process (`tests.compiling`).
"""

import re

from absl.testing import absltest

from tests.compiling import child

_HEADER = """
import json
import jax
import jax.numpy as jnp
from attnjax.core.scalar_functions import elementwise
from attnjax.core.scores import Program
from experiments.bench import gpu_calls

def bias(*shape):
  f, i = "float32", "int32"
  score = elementwise(lambda x, t, s, b: x + b, [f, i, i], [f])
  return Program((jax.ShapeDtypeStruct(shape, f),), score=score)
"""
# Every kernel's code for arrays of 2^31 numbers and more, with tables (T, S) too.
_CODE = """
import types
from jax_triton import triton_lib

def read(module, backend, options, target):
  code = backend.make_ttir(module, {}, options, target.arch)
  return types.SimpleNamespace(binary="", shared_mem_bytes=0, ttgir=str(code))

triton_lib.compile_ttir_inplace = read
shape = B, T, S, N, K = 1, 2**17, 2**17, 256, 256
given = gpu_calls.calls(90, 64, 64, program=bias(1, N, T, S), shape=shape)
print(json.dumps({name: call.compile(90).ttgir for name, call in given.items()}))
"""
_GRIDS = """
grids = {}
real = gpu_calls.from_equation
def kept(equation):
  grids[equation.params["name"]] = equation.params["grid"]
  return real(equation)
gpu_calls.from_equation = kept
B, T, N = 30000, 49, 3
gpu_calls.calls(90, 32, 32, program=bias(1, N, T, T), shape=(B, T, T, N, N))
print(json.dumps(grids))
"""
# What all arrays of a gradient have together, less the operand's own.
_MEMORY = """
from pallas_kernels.flash import triton_gpu
B, T, N, H = 32, 2048, 16, 64
x = jax.ShapeDtypeStruct((B, T, N, H), "bfloat16")
tiles = triton_gpu.fitting(x, x, x, bias(1, N, T, T))
row = jax.ShapeDtypeStruct((B, T, N), "float32")
lists = gpu_calls.schedule(T, T, tiles.backward_blocks)

def run(x, row, table, lists):
  p = Program((table,), score=bias(1, N, T, T).score)
  return triton_gpu.backward(
    x, x, x, x, row, row, row, p, lists, scale=0.1, tiles=tiles
  )

found = []
for shape in ((1, N, T, T), (1, 1, T, T), (B, 1, T, T)):
  table = jax.ShapeDtypeStruct(shape, "float32")
  jaxpr = jax.make_jaxpr(run)(x, row, table, lists)
  most = max(v.aval.size for e in jaxpr.jaxpr.eqns for v in e.outvars)
  found.append([most, table.size, [v.aval.shape for v in jaxpr.jaxpr.outvars][3]])
print(json.dumps(found))
"""
_SHAPES = """
from jax.sharding import AbstractDevice, AbstractMesh
from attnjax.core.masks import Causal
from attnjax.core.scores import Scores
from pallas_kernels import flash
from pallas_kernels.flash.triton_gpu import launch

def run(q, k, v, bias):
  def attend(q, k, v, bias):
    scores = Scores(mask=Causal(), bias=bias)
    return flash.attend(q, k, v, scores, scale=0.1, impl="triton")[0]
  out, pull = jax.vjp(attend, q, k, v, bias)
  return pull(out)

device = AbstractDevice("NVIDIA H100", None, "gpu")
with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
  for B, T in ((2, 256), (3, 256), (2, 512), (5, 1024)):
    x = jax.ShapeDtypeStruct((B, T, 4, 32), "bfloat16")
    table = jax.ShapeDtypeStruct((1, 4, T, T), "float32")
    jax.jit(run).trace(x, x, x, table).lower(lowering_platforms=("cuda",))
kernels = (
  launch.forward_kernel, launch.queries_kernel, launch.keys_kernel, launch.tables_kernel
)
print(json.dumps([len(kernel._jT_kernel_cache) for kernel in kernels]))
"""


def narrow_products(code: str) -> list[str]:
  """The 32-bit products, but those with a tile's size, that lead to an address."""
  lines = re.findall(r"(%[\w#]+) = ([\w.]+) (.*)", code)
  made = {name: (kind, rest) for name, kind, rest in lines}
  found, seen = [], set()
  todo = [rest.split(",")[1].split(":")[0].strip() for _, kind, rest in lines
          if kind == "tt.addptr"]  # fmt: skip
  while todo:
    name = todo.pop()
    if name in seen or name not in made:
      continue
    seen.add(name)
    kind, rest = made[name]
    given = re.findall(r"%[\w#]+", rest.split(" : ")[0])
    if kind == "arith.muli" and not re.search(r"i64", rest):
      factors = [re.search(r"\d+", made[g][1]) for g in given
                 if g in made and made[g][0] == "arith.constant"]  # fmt: skip
      if not any(f and int(f[0]) <= 256 for f in factors):
        found.append(f"{name} = {kind} {rest}")
    if kind != "tt.load":  # a number that was read is no product
      todo += given
  return found


class SizesLoweringTest(absltest.TestCase):
  def test_offsets_have_64_bits(self):
    codes = child(_HEADER + _CODE)
    self.assertEqual(set(codes), {"forward", "queries", "keys", "tables"})
    for name, code in codes.items():
      self.assertGreater(code.count("tt.addptr"), 4)
      self.assertEmpty(narrow_products(code), name)

  def test_a_narrow_product_is_found(self):
    code = """
    %c = arith.constant dense<4096> : tensor<128x1xi32>
    %small = arith.constant 128 : i32
    %first = arith.muli %i, %small : i32
    %r = tt.splat %first : i32 -> tensor<128x1xi32>
    %x = arith.muli %r, %c : tensor<128x1xi32>
    %p = tt.addptr %q, %x : tensor<128x1x!tt.ptr<bf16>>, tensor<128x1xi32>
    """
    self.assertLen(narrow_products(code), 1)

  def test_grids_have_one_axis(self):
    """The others end at 65,535 programs, and windows are many."""
    grids = child(_HEADER + _GRIDS)
    names = {"forward", "backward_queries", "backward_keys", "backward_tables"}
    self.assertEqual(set(grids), {f"flash_{name}" for name in names})
    for name, grid in grids.items():
      self.assertLen(grid, 1, name)
      self.assertLess(grid[0], 2**31)
    self.assertGreaterEqual(grids["flash_forward"][0], 90000)

  def test_a_bias_gradient_is_as_large_as_the_bias(self):
    (a, own_a, shape_a), (b, own_b, shape_b), (c, own_c, _) = child(_HEADER + _MEMORY)
    self.assertEqual(shape_a, [1, 16, 2048, 2048])
    self.assertEqual(shape_b, [1, 1, 2048, 2048])
    # q and its like have B T N H numbers; 64 MiB of sums are allowed.
    for most, own in ((a, own_a), (b, own_b), (c, own_c)):
      self.assertLessEqual(most, max(own, 32 * 2048 * 16 * 64, 2**24))

  def test_batches_and_lengths_share_kernels(self):
    self.assertEqual(child(_HEADER + _SHAPES), [1, 1, 1, 1])


if __name__ == "__main__":
  absltest.main()
