"""Small models and tokenizers for tests: random weights under a fixed seed, in folders like pretrained ones.

Each builder writes into `folder` what `from_pretrained` reads, and returns the folder.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

LINES = [
    "the cat sat on the mat and the dog sat on the log",
    "a quick brown fox jumps over the lazy dog",
    "good films make people happy and bad films make people sad",
    "a terrible plot, dreadful acting and a dull ending",
    "a wonderful story with lovely acting and a bright ending",
    "numbers such as 1 2 3 4 5 6 7 8 9 0 are words too",
    "training resumes where it stopped, whatever dies on the way",
]
POSITIONS = 128


def wordpiece(vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """Like BERT's: lower case, word pieces, [CLS] text [SEP]."""
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=list(special.values()), show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(LINES, trainer)
    # The trainer numbers the pieces anew each time.
    pieces = [*special.values(), *sorted(tokenizer.get_vocab().keys() - set(special.values()))]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer.model = models.WordPiece(numbers, unk_token="[UNK]")
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **special)


def byte_bpe(start: str | None, end: str, vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """Like GPT-2's: byte pairs, no pad token; with `start` each text begins with it, as Llama's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[end] + ([start] if start else []),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A",
            pair=f"{start} $A {start} $B",
            special_tokens=[(start, tokenizer.token_to_id(start))],
        )
    special = {"eos_token": end} | ({"bos_token": start} if start else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **special)


def _saved(folder: Path, tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer(folder: Path) -> Path:
    """Only the tokenizer of `tiny_bert`."""
    wordpiece().save_pretrained(folder)
    return folder


def tiny_bert(folder: Path, dropout: float = 0.1, vocabulary: int = 400) -> Path:
    """An encoder with its masked-lm head; heads of other tasks are made new when it is loaded for them."""
    tokenizer = wordpiece(vocabulary)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(1)
    return _saved(folder, tokenizer, BertForMaskedLM(config))


def tiny_gpt2(folder: Path, dropout: float = 0.1) -> Path:
    """A decoder whose tokenizer has an end-of-text token and no pad token."""
    tokenizer = byte_bpe(None, "<|endoftext|>")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(2)
    return _saved(folder, tokenizer, GPT2LMHeadModel(config))


def tiny_llama(folder: Path) -> Path:
    """A decoder with grouped-query attention whose tokenizer begins each text with <s>; no pad token."""
    tokenizer = byte_bpe("<s>", "</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(3)
    return _saved(folder, tokenizer, LlamaForCausalLM(config))


def tiny_mixtral(folder: Path) -> Path:
    """A decoder with four experts per layer and a router loss that counts, with the tokenizer of `tiny_llama`."""
    tokenizer = byte_bpe("<s>", "</s>")
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        router_aux_loss_coef=0.5,
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(5)
    return _saved(folder, tokenizer, MixtralForCausalLM(config))


def ending(vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """Like T5's: a text ends with </s>; there is a pad token."""
    tokenizer = byte_bpe(None, "</s>", vocabulary)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return tokenizer


def tiny_t5(folder: Path, dropout: float = 0.1) -> Path:
    """An encoder and a decoder with relative positions and a gate in the MLP, whose texts end with </s>."""
    tokenizer = ending()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=8,
        dropout_rate=dropout,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config.decoder_start_token_id = tokenizer.pad_token_id
    torch.manual_seed(6)
    return _saved(folder, tokenizer, T5ForConditionalGeneration(config))


def tiny_bart(folder: Path) -> Path:
    """An encoder and a decoder with learned positions, whose decoder begins with the token that ends a text."""
    tokenizer = ending()
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(7)
    model = BartForConditionalGeneration(config)
    model.generation_config.num_beams, model.generation_config.no_repeat_ngram_size = 4, 3
    return _saved(folder, tokenizer, model)


def decoder(kind: str, attention: str | None = None, vocabulary: int = 97) -> PreTrainedModel:
    """A decoder in memory, without dropout, whose weights are large enough for its logits to tell texts apart."""
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,
        "attn_implementation": attention,
        "pad_token_id": 0,
    }
    small: dict[str, Any] = {"vocab_size": vocabulary, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}
    gpt2: dict[str, Any] = {
        "n_positions": POSITIONS,
        "n_embd": 32,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "attn_implementation": attention,
    }
    gemma2: dict[str, Any] = {"head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 2.0}
    torch.manual_seed(4)
    builders: dict[str, Callable[[], PreTrainedModel]] = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**small, **gpt2)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
        "tied llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**sizes, **gemma2)),
        "granite": lambda: GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=4.0)),
        "mixtral": lambda: MixtralForCausalLM(
            MixtralConfig(**sizes, num_local_experts=4, sliding_window=None, router_aux_loss_coef=0.5)
        ),
        "bloom": lambda: BloomForCausalLM(BloomConfig(**small, hidden_size=32)),
    }
    model = builders[kind]()
    model.config.use_cache = False
    return model
