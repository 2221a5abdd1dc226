"""CARVE: the regions of a picture that a question is about, by contrast of attention.

Yuyao Ge et al. Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning.
2025. arXiv:2509.06461. Official code: github.com/YuyaoGe/CARVE (a1f0442), whose fusion
and masking these are, held to a run of them.

A^Q[l, t] is the attention of the word before step t of the answer, in layer l, to the
picture's tokens, the mean over heads; A^G is that under a general instruction ("Write a
general description of the image."). Attention is taken for noise of the picture times
signal of the question, and the general one for the noise alone:

  C[l, t] = A^Q[l, t] / (A^G[l, t] + lambda)
  S       = sum over t, l of t resize(C[l, t])                 on the picture's pixels
  M       = the best connected regions of S >= its (1 - p)-quantile
  picture = magnify(crop(picture M))

and the question is asked again of that picture. Layers 20 to 25, p = 0.2 and three
regions are the code's; its versions v1 to v4 are `VERSIONS`. If A^G errs from the noise
by a factor 1 + e, |e| <= d < 1, then C errs by at most d / (1 - d) of the largest
signal (lambda = 0).

  report = contrastive_focus.analyse(model.trace(images, words))

Cost: two passes more, each O(L T N H) for the rows of attention beside the model's own.

Axes: B examples, L layers, P tokens of the picture, R, S steps of the general and of
the question's answer, T tokens, H, W pixels, C channels; of `attention_row` S keys, N
heads, K key heads, H head size.

Not here: LLaVA and Qwen2.5-VL with their benchmarks; Canny's edges, in whose place is a
threshold of Sobel's; a last question about both pictures, which the host cannot take.
"""

from attnjax.variants.analysis.contrastive_focus.complexity import (
  attention_entropy,
  colour_complexity,
  texture_complexity,
)
from attnjax.variants.analysis.contrastive_focus.contrast import STEPS, contrast, fuse
from attnjax.variants.analysis.contrastive_focus.hosts import (
  AXES,
  HOSTS,
  MEANINGS,
  analyse,
  generated,
  of_trace,
  visual_attention,
)
from attnjax.variants.analysis.contrastive_focus.regions import (
  STRATEGIES,
  VERSIONS,
  box,
  focus_image,
  label,
  select_regions,
)
from attnjax.variants.analysis.contrastive_focus.resize import resized
from attnjax.variants.analysis.contrastive_focus.rows import (
  CASES,
  IMPLEMENTATIONS,
  attention_row,
  reference_attention_row,
)

__all__ = [
  "AXES",
  "CASES",
  "FORMS",
  "HOSTS",
  "IMPLEMENTATIONS",
  "MEANINGS",
  "STEPS",
  "STRATEGIES",
  "VERSIONS",
  "analyse",
  "attention_entropy",
  "attention_row",
  "box",
  "colour_complexity",
  "contrast",
  "focus_image",
  "fuse",
  "generated",
  "label",
  "of_trace",
  "reference_attention_row",
  "resized",
  "select_regions",
  "texture_complexity",
  "visual_attention",
]
FORMS = ("analysis",)
