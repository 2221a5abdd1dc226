"""ONNX's CausalConvWithState by attnjax's short convolution."""

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.nn import convolution
from tests.suites.onnx_cases import Case


def causal_convolution(case: Case, impl: str):
  """A short causal convolution and the inputs that the next call needs."""
  del impl
  given, have = case.inputs, case.attributes
  x = jnp.asarray(given["input"]).swapaxes(1, 2)
  kernel = jnp.asarray(given["weight"])[:, 0, ::-1].T
  layer = convolution.ShortConvolution(kernel.shape[1], len(kernel), rngs=nnx.Rngs(0))
  layer.kernel[...] = kernel
  cache = layer.init_cache(len(x), x.dtype)
  if "past_state" in given:
    past = jnp.asarray(given["past_state"]).swapaxes(1, 2)
    cache = convolution.ConvolutionCache(past, jnp.zeros(past.shape[:2], jnp.int32))
  y, cache = layer.step(x, cache)
  y = y.astype(x.dtype) + jnp.asarray(given.get("bias", 0), x.dtype)
  y = jax.nn.silu(y) if have.get("activation", b"none") != b"none" else y
  return {"output": y.swapaxes(1, 2), "present_state": cache.x.swapaxes(1, 2)}
