"""The entries of a report: their axes, what they are, and the names of elements."""

from attnjax.variants.analysis.secondary_sinks import creation

# B rows, L layers, T tokens, N heads; M lifetimes from 0 to L; the rest in LABELS.
AXES = {
  "primary": "B",
  "range": "BR",
  "kind": "BT",
  "start": "BT",
  "lifetime": "BT",
  "cosine": "BLT",
  "norms": "BLT",
  "score": "BLT",
  "primary_heads": "LN",
  "primary_score": "L",
  "secondary_mass": "L",
  "secondary_count": "L",
  "histogram": "LM",
  "levels": "PI",
  "weakening": "",
  "norm_and_score": "",
  "norm_and_lifetime": "",
  "hidden_norms": "LG",
  "key_norms": "LG",
  "value_norms": "LG",
} | {f"formation_{name}": "C" for name in creation.PARTS}
LABELS = {
  "R": ("first layer", "layer after the last"),
  "I": ("creation layer", "lifetime", "share"),
  "G": ("primary sinks", "secondary sinks", "other tokens"),
  "C": ("sinks", "equal tokens that are no sinks"),
}
MEANINGS = {
  "primary": "place of the primary sink",
  "range": "layers in which the primary sink lives",
  "kind": "2 as long as a primary sink, 1 secondary sink, 0 too short, -1 no sink",
  "start": "layer after which the token is a sink; -1 if never",
  "lifetime": "layers in which it stays one",
  "cosine": "cosine of a token's residual to the primary sink's",
  "norms": "norm of the residual after each layer",
  "score": "sink score: mean weight that later queries give, over the heads",
  "primary_heads": "sink score of the primary sink",
  "primary_score": "sink score of the primary sink, mean of the heads",
  "secondary_mass": "sum of the secondary sinks' scores in a row",
  "secondary_count": "secondary sinks that live, in a row",
  "histogram": "secondary sinks by creation layer and lifetime",
  "levels": "levels of secondary sinks: creation layer and lifetime that recur",
  "weakening": "correlation over layers of the primary score and the secondary mass",
  "norm_and_score": "rank correlation of the MLP's output norm and a sink's score",
  "norm_and_lifetime": "rank correlation of the MLP's output norm and a lifetime",
  "hidden_norms": "mean norm of residuals",
  "key_norms": "mean norm of keys",
  "value_norms": "mean norm of values",
} | {
  f"formation_{name}": f"cosine to the primary sink's where a sink is made: {said}"
  for name, said in {
    "input": "the MLP's input",
    "gate": "its gate",
    "up": "its second projection",
    "active": "the activated gate",
    "inner": "the product of both",
    "output": "the MLP's output",
    "attended": "what attention adds",
  }.items()
}
