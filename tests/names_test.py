"""One spelling for one concept: the arguments of all systems' functions and Layers."""

import inspect
from collections.abc import Mapping

from absl.testing import absltest, parameterized

from attnjax import contract

_EMPTY = inspect.Parameter.empty

# Reserved in public functions: the default that the argument has in all of them.
# `_EMPTY` is no default: the argument is an array, or the user has to choose.
FUNCTIONS = {
  "causal": {False},
  "scale": {None, 1.0},  # 1 where there is no softmax
  "bias": {None},
  "mask": {None},
  "valid": {None},
  "segment_ids": {None},
  "kv_segment_ids": {None},
  "offset": {None},
  "initial_state": {None},
  "return_lse": {False},
  "return_state": {False},
  "impl": {"auto"},
  "q": {_EMPTY},
  "k": {_EMPTY, None},
  "v": {_EMPTY, None},
}

# Reserved in Layers: the type of the option, and what else must be so.
LAYERS = {
  "dim": int,
  "form": str,
  "heads": int,
  "kv_heads": int,
  "head_dim": int,
  "qkv_bias": bool,
  "out_bias": bool,
  "qk_norm": bool,
  "rope_theta": float,
  "scale": float,
  "kind": str,
  "clusters": int,
  "cluster_size": int,
  "keep_keys": int,
  "keep_ratio": float,
  "num_agents": int,
  "num_features": int,
  "state_size": int,
  "layers": int,
  "impl": str,
}
# Of layers that have the form "cross" too, whose streams have widths by their names.
WIDER = {"dim": int | Mapping[str, int]}

# Spellings that one of the above has replaced, with their replacement.
REPLACED = {
  "is_causal": "causal",
  "qk_scale": "scale",
  "mode": "kind",
  "selection": "kind",
  "keep": "keep_keys (a count) or keep_ratio",
  "features": "feature_map (a name) or num_features (a count)",
  "state": "initial_state (an array) or state_size (a count)",
  "group": "window",
  "local_window": "window",
  "table": "bias_table",
  "padding": "valid",
  "interpret": "nothing: simulators are of the tests",
}
# A convolution's zeros around a map are called padding, too.
REPLACED_IN_LAYERS = {n: by for n, by in REPLACED.items() if n != "padding"} | {
  "bias": "qkv_bias or out_bias",
  "agents": "num_agents",
  "position": "gate_at, position_kernel",
}


def _functions(slug):
  """(name, parameters) of every public function that CASES are about."""
  module = contract.load(slug)
  for name in sorted({case.function for case in module.CASES}):
    yield name, inspect.signature(getattr(module, name)).parameters


def _options(slug):
  return inspect.signature(contract.load(slug).Layer).parameters


class NamesTest(parameterized.TestCase):
  @parameterized.parameters(*contract.systems())
  def test_functions(self, slug):
    for name, parameters in _functions(slug):
      where = f"{slug}.{name}"
      for argument, parameter in parameters.items():
        self.assertNotIn(argument, REPLACED, f"{where}: {REPLACED.get(argument)}")
        allowed = FUNCTIONS.get(argument, {parameter.default})
        self.assertIn(parameter.default, allowed, f"{where}({argument}=)")
      self.assertIn("impl", parameters, where)

  @parameterized.parameters(*contract.systems())
  def test_options_of_layers(self, slug):
    if not hasattr(contract.load(slug), "Layer"):
      self.skipTest("no form of layers")
    options = _options(slug)
    for name, option in options.items():
      where = f"{slug}.Layer({name}=)"
      self.assertNotIn(name, REPLACED_IN_LAYERS, REPLACED_IN_LAYERS.get(name, ""))
      known = LAYERS.get(name, option.annotation), WIDER.get(name)
      self.assertIn(option.annotation, known, where)
    self.assertEqual(options["impl"].default, "auto", slug)
    if "scale" in options:
      self.assertEqual(options["scale"].default, 0.0, f"{slug}: 0 is H^-0.5")

  @parameterized.parameters(*contract.systems())
  def test_a_form_is_chosen_where_there_is_more_than_one(self, slug):
    module = contract.load(slug)
    if not hasattr(module, "Layer"):
      self.skipTest("no form of layers")
    default, forms = _options(slug)["form"].default, contract.layer_forms(module)
    if len(forms) == 1:
      self.assertEqual((default,), forms)
      return
    self.assertIs(default, _EMPTY)
    with self.assertRaisesRegex(TypeError, f"form=, one of: {', '.join(forms)}$"):
      module.Layer(8, rngs=0)


if __name__ == "__main__":
  absltest.main()
