"""The commented configuration that `alphatoken init` writes."""

import json

_TEXT = """\
# AlphaToken configuration. Paths are relative to this file. `alphatoken value` does the work, `alphatoken status` tells beforehand.

data:
  train:
    path: {train}                # .jsonl .json .parquet .csv, a glob, a data set folder or a hub name
    # columns: {{prompt: question, response: answer}}   # role: column; roles prompt, response, messages, source, ...
    # max_rejected_share: 0.05   # more bad rows than this stop the run
  validation: {validation}       # a small clean sample of the target task: makes the adaptation direction; the default mask compares with it
{evaluation}
{retention}
  tokenize:
    max_length: null             # tokens; null = the model's context
    separator: ""                # between prompt and response without a chat template; "\\n" for base models
    chat_template: null          # null = the tokenizer's own; chatml; or a path to a Jinja file

model:
  reference: {model}             # the pre-trained model: folder or hub name
  scoring: null                  # a checkpoint to value tokens at; null = warm one up from the reference

scoring:
  dtype: float32                 # float32, bfloat16 or float16
  batch_tokens: 8192
  warmup: {{steps: 100, batch_size: 16, learning_rate: 5.0e-4}}
  fisher: {{source: self, num_sequences: 256, num_tokens: 128}}   # texts of the stability direction: self, prompts or retention
  stability: {{form: divergence, scope_exclude: [], scaling: none}}   # form: divergence or fisher_drift (the paper's)

policy:                          # `default` needs no entry: it masks what surprises the reference more than the validation responses do
  components:                    # one of your own: the four components, z-scores over the data set, the best 70% of each response
    weights: {{adapt_direct: 1.0, adapt_causal: 1.0, stab_direct: 1.0, stab_causal: 1.0}}
    normalization: zscore        # none, zscore or rank
    scope: response              # response, source or dataset
    keep: 0.7

training:
  policy: default                # whose mask; `random`, `full` and those above exist, too
  epochs: 1
  batch_size: 16
  learning_rate: 5.0e-4
  output: runs

warehouse:
  path: alphatoken-warehouse
"""


def configuration_text(model: str, train: str, validation: str, evaluation: str | None, retention: str | None) -> str:
    """Fill the template in.

    Returns:
        YAML with comments.
    """
    return _TEXT.format(
        model=_quoted(model),
        train=_quoted(train),
        validation=_quoted(validation),
        evaluation=_line("evaluation", evaluation, "other examples of the target task: measure training"),
        retention=_line("retention", retention, "text that the reference model knows: measures forgetting, and the stability direction"),
    )


def _line(name: str, value: str | None, meaning: str) -> str:
    return f"  # {name}: FILE            # {meaning}" if value is None else f"  {name}: {_quoted(value)}   # {meaning}"


def _quoted(text: str) -> str:
    """Quote for YAML; other characters than ASCII stay as they are (JSON's escapes of emoji are not YAML's)."""
    return json.dumps(text, ensure_ascii=False)
