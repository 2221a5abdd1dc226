"""Runs the GPU and TPU kernels on the CPU, with no change to the kernels.

Import this first: Triton reads TRITON_INTERPRET when a kernel's module is imported,
and a process that interprets cannot compile.
"""

import contextlib
import os
import threading
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

# ruff: noqa: E402
import jax
import jax_triton
import ml_dtypes
import numpy as np
import triton.language as tl
from jax._src import callback
from jax.experimental.pallas import tpu as pltpu
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


@contextlib.contextmanager
def accelerators(detect_races: bool = True):
  """Within it, Pallas runs in its TPU simulator and Triton in its interpreter."""
  real, jax_triton.triton_call = jax_triton.triton_call, _triton_call
  own = {n: getattr(InterpreterBuilder, n) for n in _BUILT}
  for name, function in _BUILT.items():
    setattr(InterpreterBuilder, name, function)
  parameters = pltpu.InterpretParams(
    uninitialized_memory="nan", detect_races=detect_races
  )
  try:
    with pltpu.force_tpu_interpret_mode(parameters), _callbacks_in_numpy():
      yield
  finally:
    jax_triton.triton_call = real
    for name, function in own.items():
      setattr(InterpreterBuilder, name, function)


def calls(jaxpr, name: str) -> int:
  """How often a Pallas kernel is called in a traced program."""
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  number = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "pallas_call":
      number += name in str(equation.params["name"])
      continue
    # One of a program and the same divided over devices.
    held = [x for key, x in equation.params.items() if key != "divided"]
    parts = jax.tree.leaves(held, is_leaf=lambda x: hasattr(x, "eqns"))
    parts = (getattr(x, "jaxpr", x) for x in parts)
    number += sum(calls(x, name) for x in parts if hasattr(x, "eqns"))
  return number


@contextlib.contextmanager
def _callbacks_in_numpy():
  """Callbacks get copies as NumPy arrays: to put those on a device first is slow.

  The TPU simulator makes a callback of each access to memory.
  """
  real = callback.io_callback_impl

  def call(*args, **options):
    results = options["callback"](*(np.array(x) for x in args))
    return [np.asarray(x) for x in results]

  setattr(callback, "io_callback_impl", call)  # noqa: B010
  try:
    yield
  finally:
    setattr(callback, "io_callback_impl", real)  # noqa: B010


_ONE_AT_A_TIME = threading.Lock()


def _create_dot(self, a, b, *rest, original=InterpreterBuilder.create_dot):
  """The interpreter keeps bfloat16 as the integers of its bits and multiplies those."""
  return original(self, _widened(a), _widened(b), *rest)


def _cast(self, src, dst_type, original=InterpreterBuilder.cast_impl):
  """The interpreter cuts numbers off where GPUs round them to the nearest."""
  if (src.dtype.scalar, dst_type.scalar) != (tl.float32, tl.bfloat16):
    return original(self, src, dst_type)
  bits = np.asarray(src.data).astype(ml_dtypes.bfloat16).view(np.uint16)
  return TensorHandle(bits, tl.bfloat16)


def _create_fmul(self, a, b, original=InterpreterBuilder.create_fmul):
  """The interpreter would multiply the bits of bfloat16 here, too."""
  if a.dtype.scalar != tl.bfloat16:
    return original(self, a, b)
  product = _widened(a).data * _widened(b).data
  bits = product.astype(ml_dtypes.bfloat16).view(np.uint16)
  return TensorHandle(bits, tl.bfloat16)


_BUILT = {
  "create_dot": _create_dot,
  "cast_impl": _cast,
  "create_fmul": _create_fmul,
}


def _widened(handle):
  if handle.dtype.scalar != tl.bfloat16:
    return handle
  bits = handle.data.astype(np.uint32) << 16
  return TensorHandle(bits.view(np.float32), tl.float32)


def _triton_call(
  *args,
  kernel,
  out_type,
  grid,
  name="",
  num_warps=4,
  num_stages=3,
  compute_capability=None,
  backend_options=None,
  cost_estimate=None,
  **options,
):
  """Stands in for jax_triton.triton_call: the outputs start as NaN."""
  del name, num_warps, num_stages, compute_capability, backend_options, cost_estimate
  leaves, tree = jax.tree.flatten(out_type)
  missing = [a for a in kernel.arg_names[len(args) :] if a not in options]

  def run(args):
    inputs = jax.tree.map(lambda x: _Buffer(np.array(x, order="C")), args)
    outputs = [_uninitialized(leaf) for leaf in leaves]
    named = dict(zip(missing, map(_Buffer, outputs), strict=True))
    # XLA may call kernels that wait for nothing of each other at the same time, and
    # the interpreter has one state for all.
    with _ONE_AT_A_TIME, np.errstate(all="ignore"), _patched_once():
      kernel[grid](*inputs, **named, **options)
    return jax.tree.unflatten(tree, outputs)

  return jax.pure_callback(run, out_type, args, vmap_method="sequential")


def _reads(function, module) -> bool:
  return any(value is module for value in function.__globals__.values())


@contextlib.contextmanager
def _patched_once():
  """The interpreter patches Triton's modules at each call of a helper: once will do."""
  real, done = interpreter._patch_lang, set()

  def patch(function):
    seen = {id(x) for x in (tl, tl.core) if _reads(function, x)}
    if seen <= done:
      return None
    done.update(seen)
    return real(function)

  setattr(interpreter, "_patch_lang", patch)  # noqa: B010
  try:
    yield
  finally:
    interpreter._patch_lang = real


def _uninitialized(leaf):
  floating = jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)
  return np.full(leaf.shape, np.nan if floating else 77, leaf.dtype)


class _Buffer:
  """What the interpreter asks of a torch tensor, on a NumPy array."""

  def __init__(self, array: Any = None):
    self.array = array

  @property
  def dtype(self):
    return self.array.dtype

  def data_ptr(self):
    return self.array.ctypes.data

  def untyped_storage(self):
    return _Storage(self.array)

  def storage_offset(self):
    return 0

  def size(self):
    return self.array.shape

  def stride(self):
    return tuple(s // self.array.itemsize for s in self.array.strides)

  def new_empty(self, *_, **__):
    return _Buffer()

  def set_(self, storage, *_):
    self.array = storage.array


class _Storage:
  def __init__(self, array):
    self.array = array

  def data_ptr(self):
    return self.array.ctypes.data

  def cpu(self):
    return _Storage(self.array.copy())

  def copy_(self, other):
    self.array[...] = other.array
