"""The GPU kernels as jax-triton would compile them, for chips that are not here."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh

from attnjax.core.masks.schedule import Schedule
from attnjax.core.scalar_functions import elementwise
from attnjax.core.scores import Program


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled kernel: its PTX, bytes of shared memory, and Triton's GPU dialect."""

  ptx: str
  shared: int
  ttgir: str


@dataclasses.dataclass(frozen=True)
class Call:
  """A kernel as jax-triton would compile it."""

  function: object
  signature: dict
  constants: dict
  attributes: dict
  options: dict

  def compile(self, capability: int) -> Compiled:
    """Compiles the kernel as jax-triton does for a compute capability."""
    import jax_triton.triton_lib as lib
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend

    target = GPUTarget("cuda", capability, 32)
    backend: Any = make_backend(target)
    options = backend.parse_options(dict(self.options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = ASTSource(self.function, self.signature, self.constants, self.attributes)
    functions = backend.get_codegen_implementation(options)
    modules = backend.get_module_map()
    module = source.make_ir(target, options, functions, modules, context)
    made = lib.compile_ttir_inplace(module, backend, options, target)
    return Compiled(made.binary, made.shared_mem_bytes, made.ttgir)


def causal_program() -> Program:
  """Returns the program of a causal mask: a query sees keys up to its position."""
  return Program(seen=elementwise(lambda t, s: s <= t, ["int32", "int32"], []))


def calls(
  capability: int,
  H: int = 128,
  V: int = 128,
  dtype="bfloat16",
  program: Program | None = None,
  tiles=None,
  shape: tuple[int, int, int, int, int] = (1, 4096, 4096, 16, 16),
  sinks: bool = False,
) -> dict[str, Call]:
  """Returns the kernels of a problem, by name, traced through the package itself.

  Where a separate kernel computes the gradients of the values, its name is "values".

  Args:
    capability: compute capability, 90 for an H100.
    H: size of a head of queries and keys.
    V: size of a head of values.
    dtype: the type of the inputs.
    program: the program of the scores; causal if not given.
    tiles: the kernels' tiles; the defaults if not given.
    shape: (B, T, S, N, K).
    sinks: whether there are sinks.
  """
  from pallas_kernels.flash import triton_gpu

  T, S, N = shape[1:4]
  program = program or causal_program()
  q, k, v, g, row = _arrays(shape, H, V, dtype)
  with target(capability):
    tiles = tiles or triton_gpu.fitting(q, k, v, program)
  given = dict(scale=H**-0.5, tiles=tiles)

  def run(q, k, v, g, row, sinks, operands, first, second):
    p = dataclasses.replace(program, operands=operands)
    out = triton_gpu.forward(q, k, v, sinks, p, first, **given)
    return out, triton_gpu.backward(q, k, v, g, row, row, row, p, second, **given)

  lists = [schedule(T, S, b) for b in (tiles.forward_blocks, tiles.backward_blocks)]
  like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
  operands = jax.tree.map(like, program.operands)
  extra = jax.ShapeDtypeStruct((N,), jnp.float32) if sinks else None
  with target(capability):
    traced = jax.make_jaxpr(run)(q, k, v, g, row, extra, operands, *lists)
  made: dict[str, Call] = {}
  for equation in traced.jaxpr.eqns:
    if equation.primitive.name == "triton_kernel_call":
      name = equation.params["name"].removeprefix("flash_").removeprefix("backward_")
      made["values" if name in made else name] = from_equation(equation)
  return made


def target(capability: int):
  """Returns a context in which programs are traced for a GPU that is not here."""
  kind = {80: "A100", 89: "L40S", 90: "H100", 100: "B200", 120: "GeForce RTX 5090"}
  device = AbstractDevice(f"NVIDIA {kind[capability]}", None, "gpu")
  mesh = AbstractMesh((1,), ("x",), abstract_device=device)
  return jax.sharding.use_abstract_mesh(mesh)


def _arrays(shape, H, V, dtype):
  """Returns the shapes of q, k, v, the cotangent of out, and of a float a query row."""
  B, T, S, N, K = shape
  sizes = (B, T, N, H), (B, S, K, H), (B, S, K, V), (B, T, N, V)
  row = jax.ShapeDtypeStruct((B, T, N), jnp.float32)
  return *(jax.ShapeDtypeStruct(size, dtype) for size in sizes), row


def schedule(T: int, S: int, blocks) -> Schedule:
  """Returns the shapes of a schedule that may visit every block."""
  counts = [-(-n // b) for n, b in zip((T, S), blocks)]
  shapes = []
  for length, most in (counts, counts[::-1]):
    shapes += [(1, 1, length, most), (1, 1, length), (1, 1, length)]
  arrays = [jax.ShapeDtypeStruct(s, jnp.int32) for s in shapes]
  return Schedule(*arrays, block_q=blocks[0], block_k=blocks[1])


def from_equation(equation) -> Call:
  """Returns the kernel call that a traced `triton_kernel_call` would compile."""
  import jax_triton.triton_lib as lib

  parameters = equation.params
  function = parameters["fn"]
  names = [p.name for p in function.params if not p.is_constexpr]
  inputs = parameters["in_tree"].unflatten([v.aval for v in equation.invars])
  signature, attributes = {}, {}
  constants = dict(parameters["metaparams"])
  for name, given in zip(names, inputs):
    if given is None:
      constants[name] = None
      continue
    place = [p.name for p in function.params].index(name)
    leaves, tree = jax.tree.flatten(given, is_leaf=lambda x: not isinstance(x, tuple))
    kinds = []
    for i, leaf in enumerate(leaves):
      if isinstance(leaf, lib._OutputPlaceholder):
        leaf = equation.outvars[leaf.ordinal].aval
      array = not isinstance(leaf, lib._StaticArg)
      kinds.append(lib.get_type_id(leaf if array else leaf.value))
      if array:
        path = (place,) if not isinstance(given, tuple) else (place, i)
        attributes[path] = [["tt.divisibility", 16]]
    signature[name] = jax.tree.unflatten(tree, kinds)
  signature |= {name: "constexpr" for name in constants}
  ordered = {p.name: signature[p.name] for p in function.params}
  return Call(
    function, ordered, constants, attributes, dict(parameters["backend_options"])
  )
