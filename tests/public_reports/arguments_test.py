"""Reports of what an argument may be: lists, masks of numbers, precisions, modules."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen, nnx

import attnjax
from attnjax import masks
from tests import definition, precision
from tests.public_reports import arrays, attend, close, expected

T = 9
_IDS = np.repeat([0, 1], [4, T - 4])
_SAME = _IDS[:, None] == _IDS
_BEFORE = np.tri(T, dtype=bool)
_FIRST = np.arange(T) < 5
_AWAY = np.arange(T)[:, None] - np.arange(T)


class PlainTest(parameterized.TestCase):
  """jax.nn takes lists for lengths; keras-team/keras-nlp users give NumPy numbers."""

  @parameterized.named_parameters(
    ("lengths", {"key_value_seq_lengths": [5]}, _FIRST),
    ("length", {"key_value_seq_lengths": 5}, _FIRST),
    ("lengths_int64", {"query_seq_lengths": np.array([5])}, _FIRST[:, None]),
    ("ids", {"segment_ids": [_IDS.tolist()]}, _SAME),
    ("ids_of_all", {"segment_ids": jnp.asarray(_IDS)}, _SAME),
    ("window_int64", {"local_window_size": np.int64(2)}, abs(_AWAY) <= 2),
    (
      "window_array",
      {"local_window_size": np.array([2, 1])},
      (_AWAY <= 2) & (_AWAY >= -1),
    ),
    ("window_list", {"local_window_size": [2, None]}, _AWAY <= 2),
    ("mask_of_ints", {"mask": np.tri(T, dtype=int).tolist()}, _BEFORE),
    ("mask_of_lengths", {"mask": masks.Lengths([5])}, _FIRST),
    ("mask_of_lists", {"mask": masks.Dense(_BEFORE.tolist())}, _BEFORE),
    ("mask_of_ids", {"mask": masks.Segments(_IDS.tolist(), _IDS)}, _SAME),
    ("mask_of_ends", {"mask": masks.Intervals([0] * T, np.arange(T) + 1)}, _BEFORE),
    ("mask_of_flags", {"mask": masks.Global(_FIRST, [False] * T)}, _FIRST[:, None]),
    ("order", {"mask": masks.permute(masks.Causal(), [*range(T)][::-1])}, _BEFORE.T),
    (
      "positions",
      {"query_positions": [[*range(2, T + 2)]], "is_causal": True},
      _AWAY >= -2,
    ),
    (
      "positions_of_all",
      {"query_positions": np.arange(T) + 2, "is_causal": True},
      _AWAY >= -2,
    ),
    (
      "first_position",
      {"key_positions": np.array([-2]), "is_causal": True},
      _AWAY >= -2,
    ),
  )
  def test_numbers(self, options, seen):
    given = arrays(T)
    close(attend(*given, **options, impl="reference"), expected(*given, seen))

  def test_traced_windows(self):
    given = arrays(T)
    run = jax.jit(lambda w: attend(*given, local_window_size=w, impl="reference"))
    close(run(2), expected(*given, abs(_AWAY) <= 2))
    close(run((2, 0)), expected(*given, (_AWAY <= 2) & (_AWAY >= 0)))

  @parameterized.named_parameters(
    ("window", {"mask": masks.Window(4.0, 0)}, "left = 4.0; it must be an integer"),
    ("local", {"local_window_size": (2.5, 0)}, "left = 2.5"),
    ("three", {"local_window_size": (1, 2, 3)}, r"\(1, 2, 3\).*\(left, right\)"),
    (
      "lengths",
      {"key_value_seq_lengths": [5.0]},
      r"key_value_seq_lengths = \[5.0\]; .*integer",
    ),
    ("ids", {"segment_ids": [0.5] * T}, r"segment_ids = \[0.5, .*integer"),
    ("scale", {"scale": np.ones(2, "f4")}, r"scale has the shape \(2,\)"),
    ("additive", {"mask": np.where(_BEFORE, 0, -np.inf)}, "below 0.*bias"),
    ("implementation", {"implementation": "cudnn"}, r"impl 'cudnn'\. There are:"),
    ("both", {"return_lse": True, "return_residual": True}, "give one"),
    ("precision", {"precision": "fastes"}, "fastes"),
    ("module", {"module": 3}, "module is a int"),
  )
  def test_what_is_refused(self, options, message):
    with self.assertRaisesRegex((ValueError, TypeError), message):
      attend(*arrays(T), **options)
    with self.assertRaisesRegex((ValueError, TypeError), "size.*2.5"):
      masks.Chunked(2.5)


class MaskTest(absltest.TestCase):
  def test_masks_of_flax_are_float32(self):
    """google/flax#5486, PR#5093, PR#3571, PR#3576; pytorch/pytorch#21518."""
    x = jax.random.normal(jax.random.key(0), (2, T, 16))
    mask = nnx.combine_masks(
      nnx.make_causal_mask(x[..., 0]),
      nnx.make_attention_mask(
        jnp.ones((2, T)), jnp.arange(T)[None] % 4 < jnp.array([[3], [2]])
      ),
    )
    self.assertEqual(mask.dtype, jnp.float32)
    for own in (nnx, linen):
      given = arrays(T, B=2)
      close(
        attend(*given, mask=own.make_causal_mask(x[..., 0])), expected(*given, _BEFORE)
      )
    layers = [
      nnx.MultiHeadAttention(4, 16, attention_fn=f, decode=True, rngs=nnx.Rngs(0))
      for f in (nnx.dot_product_attention, attnjax.dot_product_attention)
    ]
    want, got = (layer(x, mask=mask, decode=False) for layer in layers)
    close(got, want)
    for layer in layers:
      layer.init_cache(x.shape)
    for t in range(3):
      want, got = (layer(x[:, t : t + 1]) for layer in layers)
      close(got, want)

  def test_masks_and_biases_with_all_batch_axes(self):
    """Flax takes (B1, B2, N, T, S); so did no mask here."""
    q, k, v = (x.reshape(2, 3, T, 2, 8) for x in arrays(T, B=6))
    flat = [x.reshape(6, T, 2, 8) for x in (q, k, v)]
    draw = np.random.default_rng(0)
    for shape in ((2, 3, 2, T, T), (2, 1, 1, 1, T), (3, 1, T, T), (1, 1, 1, T, T)):
      bias = draw.normal(size=shape).astype("f4")
      full = np.broadcast_to(bias, (2, 3, 2, T, T)).reshape(6, 2, T, T)
      got = attend(q, k, v, bias, impl="reference")
      self.assertEqual(got.shape, q.shape)
      close(got.reshape(flat[0].shape), expected(*flat, bias=full))
      got = attend(q, k, v, mask=bias > -1, impl="reference")
      close(got.reshape(flat[0].shape), expected(*flat, full > -1))
    lengths = jnp.array([[1, 2, 3], [4, 5, 6]])
    seen = np.arange(T) < np.arange(1, 7)[:, None, None, None]
    got = attend(q, k, v, key_value_seq_lengths=lengths, impl="reference")
    close(got.reshape(flat[0].shape), expected(*flat, seen))
    with self.assertRaisesRegex(ValueError, "it may have 5 axes"):
      attend(q, k, v, mask=jnp.ones((1, 2, 3, 1, T, T), bool))
    with self.assertRaisesRegex(ValueError, r"bias \(3, 3, 1, 1, 9\) does not|axes"):
      attend(q, k, v, jnp.ones((3, 3, 1, 1, T)))


class FlaxTest(parameterized.TestCase):
  @parameterized.parameters(
    "highest", jax.lax.Precision.HIGHEST, ((jax.lax.Precision.DEFAULT, "highest"),)
  )
  def test_precision_as_flax_has_it(self, precision):
    """pytorch/xla PR#7671."""
    given = arrays(T)
    run = jax.jit(lambda *x: attend(*x, precision=precision))
    self.assertIn("HIGHEST", str(run.lower(*given).as_text()))
    preset = jax.lax.DotAlgorithmPreset.F32_F32_F32
    close(attend(*given, precision=preset, impl="reference"), expected(*given))

  def test_weights_are_sown_in_linen_and_nnx(self):
    x = jax.random.normal(jax.random.key(0), (1, T, 16))
    for rate in (0.0, 0.5):  # the weights before any dropout
      own, other = (
        linen.MultiHeadDotProductAttention(
          4, attention_fn=f, dropout_rate=rate, deterministic=False
        )
        for f in (attnjax.dot_product_attention, linen.dot_product_attention)
      )
      keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
      variables = own.init(keys, x)
      found = [
        layer.apply(
          variables, x, sow_weights=True, mutable=["intermediates"], rngs=keys
        )[1]["intermediates"]
        for layer in (own, other)
      ]
      close(*found)

  def test_residual_as_jax_nn_has_it(self):
    """The rules of nn_test in jax: the type of the key, and no gradient."""
    given = [x.astype(jnp.bfloat16) for x in arrays(T)]
    got = attend(*given, return_residual=True)
    want = jax.nn.dot_product_attention(*given, return_residual=True)
    self.assertEqual([x.dtype for x in got], [x.dtype for x in want])
    problem = {n: np.asarray(x, np.float64) for n, x in zip("qkv", given)}
    problem |= {"scale": given[0].shape[3] ** -0.5, "g": 0 * problem["q"]}
    exact = definition.exact(problem | {"g_lse": problem["g"][..., 0]})
    part = precision.worst(got, (exact["out"], exact["lse"]), want)
    self.assertLessEqual(part, 1.0)

    def total(q, name):
      return attend(q, *arrays(T)[1:], **{name: True})[1].sum()

    q = arrays(T)[0]
    self.assertEqual(float(jnp.abs(jax.grad(total)(q, "return_residual")).max()), 0)
    self.assertGreater(float(jnp.abs(jax.grad(total)(q, "return_lse")).max()), 0.1)
    self.assertEqual(attend(*given, return_lse=True)[1].dtype, jnp.float32)


if __name__ == "__main__":
  absltest.main()
