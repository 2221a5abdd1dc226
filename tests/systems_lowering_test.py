"""Systems lower to the shared kernels for machines that are not there."""

from absl.testing import absltest, parameterized

from tests.compiling import child

CODE = """
import json
import jax
import jax.numpy as jnp
import attnjax
from attnjax import contract

T = 200

def f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)

function = contract.load({slug!r}).{function}
q, image = f32(1, T, 2, 32), f32(1, 15, 16, 2, 32)
shapes = {shapes}

def loss(arrays):
  return function(**arrays, **{options!r}).sum()

found = []
for device, word in (
  ("TPU v5 lite", "tpu_custom_call"), ("NVIDIA H100", "@triton_kernel_call_ffi")
):
  text = attnjax.export(jax.grad(loss), device=device)(shapes).mlir_module()
  found.append([text.count(word), "{pairs}" in text])
print(json.dumps(found))
"""
_QKV = '"q": q, "k": q, "v": q'


class SystemsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (
      "decayed",
      "dynamical_systems",
      "attend",
      '{"v": q, "log_decay": f32(1, T, 2, 1, 1), "write": f32(1, T, 1, 16, 1),'
      ' "read": f32(1, T, 2, 16, 1)}',
      {},
    ),
    (
      "windows",
      "davit",
      "attend_windows",
      '{"q": image, "k": image, "v": image, "padding_k": f32(2, 32),'
      ' "padding_v": f32(2, 32)}',
      {},
    ),
    (
      "clusters_of_the_past",
      "routing_transformer",
      "attend",
      f'{{{_QKV}, "means": f32(2, 4, 32)}}',
      {"cluster_size": 16, "causal": True},
    ),
    (
      "predicted_keys",
      "sparsifiner",
      "attend_predicted",
      f'{{{_QKV}, "guess_q": f32(1, T, 2, 16), "guess_k": f32(1, 33, 2, 16),'
      ' "basis": f32(33, T)}',
      {},
    ),
    (
      "groups_of_keys",
      "dynamic_mask",
      "attend",
      f'{{{_QKV}, "importance": f32(1, T, 2)}}',
      {"keep_keys": 16, "causal": True, "block_smooth": 4},
    ),
  )
  def test_auto_takes_kernels(self, slug, function, shapes, options):
    """Forward and backward, and in no program an array of all pairs of tokens."""
    given = {"slug": slug, "function": function, "options": options}
    found = child(CODE.format(**given, shapes=shapes, pairs="200x200x"))
    for kernels, pairs in found:
      self.assertGreaterEqual(kernels, 2)
      self.assertFalse(pairs)


if __name__ == "__main__":
  absltest.main()
