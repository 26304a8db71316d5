"""Laws of warehouse/export.py and its formats: each real consumer learns from exactly the tokens that the store keeps; whole or absent."""

import hashlib
import json

import datasets
import duckdb
import pytest
from tokenizers import Tokenizer as RustTokenizer

from tests.warehouse.ids import filled, full, short
from tests.warehouse.test_characters import byte_level
from warehouse import export as exports
from warehouse import formats
from warehouse.connect import Warehouse
from warehouse.export import Tokenizer, export
from warehouse.formats import FORMATS, EmptyExportError
from warehouse.queries import Queries
from warehouse.release import opened, write_release
from warehouse.stream import open_stream, policy_mask

TOKENIZER_DIGEST = "tokenizer"
IM_END = "<|im_end|>"

CHAT = [
    {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello 😀 well"},
    {"role": "user", "content": "more"}, {"role": "assistant", "content": "Ö, 12"},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = byte_level()
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(file))
    return made, Tokenizer(file, TOKENIZER_DIGEST)


class World:
    """A warehouse of written-out examples, released."""

    def __init__(self, folder, tokenizer):
        self.folder, self._tokenizer, self._rows = folder, tokenizer, []
        self.weights = self.ref_losses = False

    def add(self, example_id, content, branch, parts, multiplicity=1, cut=0):
        """Add a branch: parts are (text, whether it is response); a response's tokens are kept but for every third."""
        ids, positions, ends = [], [], []
        for text, is_response in parts:
            encoded = self._tokenizer.encode(text).ids
            if is_response:
                positions += range(len(ids), len(ids) + len(encoded))
            ids += encoded
            if text.endswith(IM_END) and is_response:
                ends.append(len(ids) - 1)
        if cut:
            ids, positions, ends = ids[:-cut], positions[:-cut], [p for p in ends if p < len(ids) - cut]
        keep = [number % 3 != 1 for number in range(len(positions))]
        self._rows.append((example_id, json.dumps(content), branch, ids, positions, ends, keep, multiplicity, cut))
        return self

    def release(self):
        with Warehouse(self.folder) as warehouse:
            con = warehouse.con
            con.execute("INSERT INTO record.scorings (scoring_id, tokenization_id, ref_signals_id) VALUES ('scoring', 'tokens', 'ref')")
            con.execute("INSERT INTO record.tokenizations (tokenization_id, tokenizer_digest) VALUES ('tokens', $1)", [TOKENIZER_DIGEST])
            con.execute(
                "INSERT INTO record.masks (mask_id, policy, settings, scoring_id, snapshot_id) VALUES ('mask', 'mine', '{}', 'scoring', 'now')"
            )
            con.execute("INSERT INTO record.pointers VALUES ('mask:mine', 'mask')")
            for example_id, content, multiplicity in sorted({(row[0], row[1], row[7]) for row in self._rows}):
                con.execute("INSERT INTO record.examples (example_id, content) VALUES ($1, $2)", [full(example_id), content])
                con.execute(
                    "INSERT INTO record.snapshot_examples (snapshot_id, example_id, multiplicity) VALUES ('now', $1, $2)",
                    [full(example_id), multiplicity],
                )
            for example_id, _, branch, ids, positions, ends, keep, _, cut in self._rows:
                name = full(f"{example_id}-{branch}")
                con.execute(
                    "INSERT INTO record.example_sequences (tokenization_id, example_id, branch, sequence_id, num_response_tokens_cut) "
                    "VALUES ('tokens', $1, $2, $3, $4)",
                    [full(example_id), branch, name, cut],
                )
                con.execute("INSERT INTO record.sequences VALUES ($1, $2, $3, $4)", [name, ids, positions, ends])
                weights = [1 / (number + 1) if flag else 0.5 for number, flag in enumerate(keep)] if self.weights else None
                con.execute(
                    "INSERT INTO record.mask_values (mask_id, sequence_id, keep, weight) VALUES ('mask', $1, $2, $3)", [name, keep, weights]
                )
                if self.ref_losses:
                    losses = [None if position == 0 else 0.5 * number for number, position in enumerate(positions)]
                    con.execute("INSERT INTO record.signal_values (signals_id, sequence_id, loss) VALUES ('ref', $1, $2)", [name, losses])
        write_release(self.folder, 1)
        return self

    def export(self, form, out, tokenizer=None, overwrite=False):
        with opened(self.folder) as (con, release):
            return export(Queries(con), release, "mask", "mine", form, out, tokenizer=tokenizer, overwrite=overwrite)


@pytest.fixture
def world(tmp_path, tokenizer):
    return World(tmp_path / "warehouse", tokenizer[0])


def plain(world, example_id, prompt, response, **more):
    return world.add(example_id, {"prompt": prompt, "response": response}, "sft", [(prompt, False), (response + IM_END, True)], **more)


def chat(world, example_id="c"):
    parts = [("user: hi\n", False), (f"hello 😀 well{IM_END}", True), ("\nuser: more\n", False), (f"Ö, 12{IM_END}", True)]
    return world.add(example_id, {"messages": CHAT}, "sft", parts)


def some(world):
    for number, response in enumerate(["hello world", "Öl and 😀", "", "a", "llama"]):
        plain(world, f"e{number}", "ask: ", response, multiplicity=1 + number % 2)
    return chat(world)


def loaded(done, kind):
    return datasets.load_dataset(kind, data_files=str(done.folder / done.manifest["files"].copy().popitem()[0]), split="train")


def supervised(folder):
    with opened(folder) as (con, _):
        return con.execute(
            "SELECT sum(multiplicity * len(list_filter(list_where(response_positions, keep), lambda p: p > 0))) FROM record.mask_values "
            "JOIN record.sequences USING (sequence_id) JOIN record.example_sequences USING (sequence_id) JOIN record.snapshot_examples USING (example_id)"
        ).fetchone()[0]


# ---- real consumers


class _Counting:
    """A collator that counts what it hands over."""

    def __init__(self, collator):
        self.collator, self.batches = collator, []

    def __call__(self, rows):
        batch = self.collator(rows)
        self.batches.append(batch)
        return batch

    def counts(self):
        """Labels, labels that the shifted loss uses."""
        labels = [batch["labels"] for batch in self.batches]
        return sum(int((part != -100).sum()) for part in labels), sum(int((part[:, 1:] != -100).sum()) for part in labels)


def tiny_model(vocabulary):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    ))  # fmt: skip


def trl_arguments(kind, folder, steps, batch_size, **more):
    return kind(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch_size, max_length=None, bf16=False, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True, gradient_checkpointing=False, dataloader_pin_memory=False, **more,
    )  # fmt: skip


def wrapped(rust):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=rust, pad_token=IM_END, eos_token=IM_END)


@pytest.mark.parametrize("packing", [False, True])
def test_trls_sft_trainer_learns_from_the_kept_tokens_and_no_other(world, tokenizer, tmp_path, packing):
    from trl import SFTConfig, SFTTrainer

    done = some(world).release().export("trl-sft", tmp_path / "out")
    rows = loaded(done, "parquet")
    args = trl_arguments(SFTConfig, tmp_path / "trl", 2, 1 if packing else -(-len(rows) // 2))
    if packing:
        args.packing, args.max_length = True, 96
    trainer = SFTTrainer(tiny_model(tokenizer[0].get_vocab_size()), args, train_dataset=rows, processing_class=wrapped(tokenizer[0]))
    trainer.data_collator = counting = _Counting(trainer.data_collator)
    trainer.train()
    assert trainer.state.global_step == 2
    if packing:  # the packed rows are more than two steps' worth, so all of them are collated once more
        assert len(trainer.train_dataset) < len(rows)
        counting.batches = [counting.collator([row]) for row in trainer.train_dataset]
    assert counting.counts() == (supervised(world.folder),) * 2
    assert done.manifest["counts"]["num_supervised_tokens"] == supervised(world.folder)


def test_trls_sft_trainer_takes_the_stream_itself(world, tokenizer, tmp_path):
    from trl import SFTConfig, SFTTrainer

    from warehouse.streamed_dataset import as_dataset

    some(world).release()
    stream = open_stream(world.folder, "mine", seed=0, batch_size=stream_size(world))
    args = trl_arguments(SFTConfig, tmp_path / "trl", 1, stream.num_sequences)
    trainer = SFTTrainer(
        tiny_model(tokenizer[0].get_vocab_size()), args, train_dataset=as_dataset(stream, epochs=1), processing_class=wrapped(tokenizer[0])
    )
    trainer.data_collator = counting = _Counting(trainer.data_collator)
    trainer.train()
    assert counting.counts()[1] == stream.num_supervised_tokens


def learnt_by_trainer(rows, tokenizer, folder):
    """Train transformers' own Trainer on rows of input_ids and labels.

    Returns:
        the tokens that its shifted loss used, as (ids of the row, position), sorted; and how many there were.
    """
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model, counting = tiny_model(tokenizer.get_vocab_size()), _Counting(DataCollatorForSeq2Seq(wrapped(tokenizer)))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=-(-len(rows) // 2), use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=counting)
    trainer.train()
    assert trainer.state.global_step == 2
    assert any((one != other).any() for one, other in zip(before, model.parameters(), strict=True))
    seen = []
    for batch in counting.batches:
        for ids, labels, there in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            whole = tuple(ids[there == 1].tolist())
            seen += [(whole, place) for place in range(1, len(whole)) if labels[place] != -100]
            assert all(labels[place] in (-100, whole[place]) for place in range(len(whole)))
    return sorted(seen), counting.counts()[1]


def kept_tokens(folder):
    """The tokens that a pass over the store supervises, as (ids of the sequence, position), sorted."""
    with opened(folder) as (con, _):
        stored = con.execute(
            "SELECT multiplicity, token_ids, list_where(response_positions, keep) FROM record.mask_values JOIN record.sequences USING (sequence_id) "
            "JOIN record.example_sequences USING (sequence_id) JOIN record.snapshot_examples USING (example_id)"
        ).fetchall()
    return sorted((tuple(ids), position) for times, ids, kept in stored for position in kept if position > 0 for _ in range(times))


def test_transformers_trainer_learns_from_the_kept_tokens_of_the_parquet_export(world, tokenizer, tmp_path):
    done = some(world).release().export("parquet", tmp_path / "out")

    def labelled(rows):
        repeated = [i for i, times in enumerate(rows["multiplicity"]) for _ in range(times)]
        ids, keep = ([rows[name][i] for i in repeated] for name in ("token_ids", "keep"))
        return {"input_ids": ids, "labels": [[t if k else -100 for t, k in zip(*row, strict=True)] for row in zip(ids, keep, strict=True)]}

    rows = loaded(done, "parquet")
    rows = rows.map(labelled, batched=True, remove_columns=rows.column_names)
    seen, num_seen = learnt_by_trainer(rows, tokenizer[0], tmp_path / "trainer")
    assert seen == kept_tokens(world.folder)
    assert num_seen == len(seen) == done.manifest["counts"]["num_supervised_tokens"]


def test_transformers_trainer_learns_from_the_kept_tokens_of_texts_tokenized_anew_by_the_jsonl_export(world, tokenizer, tmp_path):
    """Texts and kept characters alone are read of the export, not its ids: what a trainer with a tokenizer of its own does."""
    for number, response in enumerate(["hello world", "all well", "", "a", "llama, hello 12"]):
        plain(world, f"e{number}", "ask: ", response, multiplicity=1 + number % 2)
    done = world.release().export("jsonl", tmp_path / "out", tokenizer[1])
    rust = tokenizer[0]

    def tokenized(row):
        (turn,) = row["responses"]
        ids, labels = rust.encode(row["content"]["prompt"]).ids, []
        labels += [-100] * len(ids)
        said = rust.encode(turn["text"])
        for token, (begin, end) in zip(said.ids, said.offsets, strict=True):
            is_kept = any(first <= begin and end <= last for first, last in turn["kept_spans"])
            ids, labels = [*ids, token], [*labels, token if is_kept else -100]
        end_of_turn = rust.token_to_id(IM_END)
        return {"input_ids": [*ids, end_of_turn], "labels": [*labels, end_of_turn if turn["keep_end_of_turn"] else -100]}

    rows = [tokenized(row) for row in loaded(done, "json") for _ in range(row["multiplicity"])]
    seen, num_seen = learnt_by_trainer(rows, rust, tmp_path / "trainer")
    assert seen == kept_tokens(world.folder)
    assert num_seen == len(seen) == done.manifest["counts"]["num_supervised_tokens"]


def stream_size(world):
    return open_stream(world.folder, "mine", seed=0, batch_size=1).num_sequences


def pairs(world):
    for number in range(4):
        content = {"prompt": "ask: ", "chosen": f"hello {number}", "rejected": "world"}
        for branch in ("chosen", "rejected"):
            world.add(f"p{number}", content, branch, [("ask: ", False), (content[branch] + IM_END, True)], multiplicity=1 + number % 2)
    return world


@pytest.mark.parametrize("has_reference", [False, True])
def test_trls_dpo_trainer_with_the_recipe_learns_from_the_kept_tokens_of_both_branches(world, tokenizer, tmp_path, has_reference):
    from trl import DPOConfig

    from tests.examples.test_trl_dpo import load_recipe

    recipe = load_recipe()
    if has_reference:
        world.ref_losses = True
    done = pairs(world).release().export("trl-dpo", tmp_path / "out")
    rows = loaded(done, "parquet")
    assert len(rows) == done.manifest["counts"]["num_rows"] == 6  # two of the four come twice
    of_both = world.export("parquet", tmp_path / "parquet").manifest["counts"]
    assert (of_both["num_examples"], of_both["num_sequences"]) == (done.manifest["counts"]["num_examples"], 8) == (4, 8)
    collator = _Counting(recipe.MaskedPreferenceCollator(0, "masked_margin"))
    args = trl_arguments(DPOConfig, tmp_path / "trl", 2, 3, precompute_ref_log_probs=has_reference)
    model = tiny_model(tokenizer[0].get_vocab_size())
    reference = None if has_reference else tiny_model(tokenizer[0].get_vocab_size())
    trainer = recipe.MaskedDPOTrainer(
        model, reference, args, data_collator=collator, train_dataset=rows, processing_class=wrapped(tokenizer[0])
    )
    trainer.train()
    seen = sum(int(batch["completion_mask"][:, 1:].sum()) for batch in collator.batches)
    assert seen == supervised(world.folder) == done.manifest["counts"]["num_supervised_tokens"]
    assert (trainer.ref_model is None) == has_reference


def test_without_reference_log_probabilities_the_recipe_says_so(world, tokenizer, tmp_path):
    from trl import DPOConfig

    from tests.examples.test_trl_dpo import load_recipe

    rows = loaded(pairs(world).release().export("trl-dpo", tmp_path / "out"), "parquet")
    recipe, args = load_recipe(), trl_arguments(DPOConfig, tmp_path / "trl", 2, 3, precompute_ref_log_probs=True)
    model = tiny_model(tokenizer[0].get_vocab_size())
    with pytest.raises(ValueError, match="no reference log-probabilities"):
        recipe.MaskedDPOTrainer(
            model, None, args, data_collator=recipe.MaskedPreferenceCollator(0), train_dataset=rows, processing_class=wrapped(tokenizer[0])
        )


def test_pairs_carry_masks_weights_and_reference_log_probabilities(world, tmp_path):
    world.ref_losses = world.weights = True
    rows = loaded(pairs(world).release().export("trl-dpo", tmp_path / "out"), "parquet")
    for row in rows:
        for branch in ("chosen", "rejected"):
            length = len(row[f"{branch}_ids"])
            kept = [number % 3 != 1 for number in range(length)]
            assert row[f"{branch}_mask"] == [int(flag) for flag in kept]
            assert row[f"{branch}_response_mask"] == [1] * length
            assert row[f"{branch}_weights"] == pytest.approx([flag / (number + 1) for number, flag in enumerate(kept)])
            assert row[f"{branch}_ref_log_probs"] == pytest.approx([-0.5 * number for number in range(length)])


# ---- soft weights


def test_soft_weights_are_carried_or_refused_never_lost(world, tokenizer, tmp_path):
    world.weights = True
    some(world).release()
    rows = loaded(world.export("parquet", tmp_path / "parquet"), "parquet")
    lines = loaded(world.export("jsonl", tmp_path / "jsonl", tokenizer[1]), "json")
    for row, line in zip(rows, lines, strict=True):
        places = {position: number for number, position in enumerate(row["response_positions"])}
        expected = [1 / (places[p] + 1) if flag else 0.0 for p, flag in enumerate(row["keep"])]
        assert row["weights"] == pytest.approx(expected)
        assert line["weights"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="soft weights, and TRL's SFTTrainer takes none"):
        world.export("trl-sft", tmp_path / "sft")
    assert not (tmp_path / "sft").exists()


def test_without_soft_weights_there_is_no_such_column(world, tokenizer, tmp_path):
    some(world).release()
    assert "weights" not in loaded(world.export("parquet", tmp_path / "parquet"), "parquet").column_names
    assert "weights" not in loaded(world.export("jsonl", tmp_path / "jsonl", tokenizer[1]), "json").column_names


def test_parquet_holds_every_sequence_with_its_flags(world, tmp_path):
    done = some(world).release().export("parquet", tmp_path / "out")
    rows = loaded(done, "parquet")
    with duckdb.connect(str(next((world.folder / "releases").glob("*/alphatoken.duckdb"))), read_only=True) as con:
        stored = {
            row[0]: row[1:]
            for row in con.execute("SELECT record.hex_id(sequence_id), token_ids, response_positions, keep FROM record.sequences JOIN record.mask_values USING (sequence_id)").fetchall()
        }  # fmt: skip
    assert len(rows) == len(stored) == 6
    for row in rows:
        ids, positions, keep = stored[row["sequence_id"]]
        kept = {position for position, flag in zip(positions, keep, strict=True) if flag}
        assert row["token_ids"] == ids
        assert row["keep"] == [position in kept for position in range(len(ids))]
    counted = sum(row["multiplicity"] * sum(row["keep"][1:]) for row in rows)
    assert counted == supervised(world.folder) == done.manifest["counts"]["num_supervised_tokens"]


# ---- jsonl and its characters


def test_jsonl_holds_content_tokens_flags_and_characters(world, tokenizer, tmp_path):
    done = some(world).release().export("jsonl", tmp_path / "out", tokenizer[1])
    rows = {short(row["example_id"]): row for row in loaded(done, "json")}
    assert sum(row["multiplicity"] * sum(row["keep"][1:]) for row in rows.values()) == supervised(world.folder)
    (only,) = rows["e0"]["responses"]
    assert (only["message"], only["text"], only["is_own_text"]) == (None, "hello world", True)
    first, second = rows["c"]["responses"]
    assert [(turn["message"], turn["text"], turn["is_own_text"]) for turn in (first, second)] == [
        (1, "hello 😀 well", True),
        (3, "Ö, 12", True),
    ]
    lines = [json.loads(line) for line in (done.folder / "train.jsonl").read_text().splitlines()]
    assert next(line for line in lines if line["example_id"] == full("c"))["content"] == {"messages": CHAT}
    assert next(line for line in lines if line["example_id"] == full("e2"))["responses"][0]["kept_spans"] == []


def every_character(text):
    """Another tokenizer: characters."""
    return [(place, place + 1) for place in range(len(text))]


def another_tokenizers(text):
    """Another tokenizer: words with the space before them, and punctuation."""
    from tokenizers import models, pre_tokenizers

    made = RustTokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    return made.encode(text).offsets


def kept_text(text, spans, tokens):
    """What another tokenizer keeps: the tokens that lie in a span."""
    return "".join(text[a:b] for a, b in tokens if any(start <= a and b <= end for start, end in spans))


def test_another_tokenizer_keeps_the_same_text_by_the_spans(valued_once, tmp_path):
    """On the flow tests' world, whose words are tokens: the texts of the store's kept tokens are the judges."""
    folder = valued_once.warehouse
    texts = {(row[0], row[1]): row[2] for row in valued_once.sql("SELECT example_id, position, token FROM token_values")}
    ends = {
        (row[0], p)
        for row in valued_once.sql("SELECT record.hex_id(example_id), end_of_turn_positions FROM record.current_sequences")
        for p in row[1]
    }
    with opened(folder) as (con, release):
        queries = Queries(con)
        digest = queries.run("export/lineage", mask_id=policy_mask(queries, "default")).fetchall()[0][-1]
        reads = Tokenizer(valued_once.model / "tokenizer.json", digest)
        done = export(
            queries, release, policy_mask(queries, "default"), "default", "jsonl", tmp_path / "out", tokenizer=reads, overwrite=False
        )
    num_kept = 0
    for line in (done.folder / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        (turn,) = row["responses"]
        positions = [p for p, flag in enumerate(row["keep"]) if flag and (row["example_id"], p) not in ends]
        expected = "".join(texts[row["example_id"], p] for p in positions)
        first = min(p for i, p in texts if i == row["example_id"])
        expected = expected[1:] if positions[:1] == [first] else expected  # the dummy space is no character of the text
        assert turn["text"] == row["content"]["response"]
        for retokenized in (every_character, another_tokenizers):
            assert kept_text(turn["text"], turn["kept_spans"], retokenized(turn["text"])) == expected
        num_kept += len(positions)
    assert num_kept > 50


def test_a_cut_response_keeps_nothing_of_what_was_cut_off(world, tokenizer, tmp_path):
    plain(world, "e", "ask: ", "hello 😀 and more", cut=9).release()
    (row,) = loaded(world.export("jsonl", tmp_path / "out", tokenizer[1]), "json")
    (turn,) = row["responses"]
    assert turn["text"] == "hello 😀 and more"
    assert turn["keep_end_of_turn"] is None
    assert max(end for _, end in turn["kept_spans"]) <= len("hello 😀 and more") - 8


def test_another_tokenizer_or_none_is_refused(world, tokenizer, tmp_path):
    some(world).release()
    with pytest.raises(ValueError, match="holds tokenizer other, the release was made with tokenizer"):
        world.export("jsonl", tmp_path / "out", Tokenizer(tokenizer[1].file, "other"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        world.export("jsonl", tmp_path / "out", Tokenizer(tmp_path / "tokenizer.json", TOKENIZER_DIGEST))
    assert not (tmp_path / "out").exists()


# ---- the manifest, whole or absent


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"trl-dpo"}))
def test_the_manifest_names_what_is_there_and_the_same_release_gives_the_same_bytes(world, tokenizer, tmp_path, form):
    some(world).release()
    done, again = (world.export(form, tmp_path / name, tokenizer[1]) for name in ("one", "two"))
    assert done.manifest == json.loads((done.folder / "manifest.json").read_text()) == again.manifest
    assert {path.name for path in done.folder.iterdir()} == {"manifest.json", *done.manifest["files"]}
    for name, about in done.manifest["files"].items():
        data = (done.folder / name).read_bytes()
        assert about == {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    counts = done.manifest["counts"]
    assert (counts["num_examples"], counts["num_sequences"]) == (6, 6)
    assert (done.manifest["mask_id"], done.manifest["policy"], done.manifest["format"]) == ("mask", "mine", form)
    release = (world.folder / "releases" / "CURRENT").read_text()
    assert done.manifest["release_id"] == release
    assert "load_dataset" in done.manifest["reading"]


def test_rows_without_a_kept_token_are_left_out_for_trl_and_counted(world, tmp_path):
    world.add("n", {"prompt": "", "response": "b"}, "sft", [("b", True)])  # kept, at position 0: without a loss
    plain(world, "m", "ask: ", "hello", multiplicity=3).release()
    done = world.export("trl-sft", tmp_path / "out")
    assert (done.manifest["counts"]["num_rows"], done.manifest["counts"]["num_rows_left_out"]) == (3, 1)
    assert len(loaded(done, "parquet")) == 3


def test_a_place_that_holds_anything_else_is_refused_and_an_export_is_replaced_when_asked(world, tmp_path):
    some(world).release()
    out = tmp_path / "out"
    out.mkdir()
    world.export("parquet", out)
    with pytest.raises(FileExistsError, match="give --overwrite"):
        world.export("trl-sft", out)
    world.export("trl-sft", out, overwrite=True)
    assert json.loads((out / "manifest.json").read_text())["format"] == "trl-sft"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which is no export's"):
        world.export("parquet", out, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text("[]")
    with pytest.raises(FileExistsError, match=r"holds manifest\.json, which is no export's"):
        world.export("parquet", other, overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        world.export("parquet", out / "notes.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "warehouse"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_export_leaves_nothing_or_what_was_there(world, tmp_path, monkeypatch, overwrite):
    some(world).release()
    if overwrite:
        world.export("parquet", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*")}
    monkeypatch.setattr(exports, "_sha256", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        world.export("trl-sft", tmp_path / "out", overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "warehouse"] if overwrite else ["warehouse"]


def test_formats_without_their_examples_are_refused(world, tmp_path):
    some(world).release()
    with pytest.raises(
        EmptyExportError, match="trl-dpo takes examples with the branches chosen and rejected; those of this release have: sft"
    ):
        world.export("trl-dpo", tmp_path / "out")


def test_preferences_are_no_rows_for_sft_and_pairs_must_share_their_prompt(world, tmp_path):
    pairs(world)
    world.add("q", {"prompt": "ask: "}, "chosen", [("ask: ", False), ("b", True)])
    world.add("q", {"prompt": "ask: "}, "rejected", [("sk: ", False), ("c", True)]).release()
    with pytest.raises(EmptyExportError, match="take another format"):
        world.export("trl-sft", tmp_path / "out")
    with pytest.raises(ValueError, match=f"example {full('q')}: chosen and rejected have prompts of 5 and 4 tokens that differ"):
        world.export("trl-dpo", tmp_path / "out")


def test_a_mask_that_leaves_a_sequence_undecided_is_refused(world, tmp_path):
    some(world).release()
    with Warehouse(world.folder) as warehouse:
        warehouse.con.execute(filled("DELETE FROM record.mask_values WHERE sequence_id = 'id:e1-sft'"))
        warehouse.con.execute("INSERT INTO record.pointers VALUES ('another', 'state')")
    write_release(world.folder, 1)
    for form in ("parquet", "trl-sft"):
        with pytest.raises(ValueError, match=f"does not decide on 1 sequences, the first is {full('e1-sft')}"):
            world.export(form, tmp_path / "out")


def test_a_lost_token_is_noticed(world, tmp_path, monkeypatch):
    some(world).release()
    original = formats._flatten

    def losing(rows):
        flat = original(rows)
        flat.has_loss[flat.has_loss.nonzero()[0][0]] = False
        return flat

    monkeypatch.setattr(formats, "_flatten", losing)
    with pytest.raises(RuntimeError, match="supervised tokens were written, the release has"):
        world.export("trl-sft", tmp_path / "out")
    assert not (tmp_path / "out").exists()
