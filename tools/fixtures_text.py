"""The tokenizers and chat templates among the fixtures, with what transformers makes of them."""

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.",
    "fn main() {\n    let total: u32 = (1..=10).sum();\n    println!(\"{total}\");\n}",
    "Numbers such as 3.14159, 42 and 1000000 are cut into pieces of up to three digits.",
    "Grüße aus Zürich, déjà vu, naïve café, 東京 and москва; the emoji 🦀 needs four bytes.",
    "it's we'll they've I'm you'd don't  two  spaces   three\t\ttabs\r\nand windows lines\n\n\n",
] * 4

TEXTS = [
    "", " ", "Hello, world!", "The quick brown fox", "  leading and trailing  ", "it's what we'll say", "日本語 🦀 ñ \u200b x",
    "fn add(a: u32, b: u32) -> u32 {\n\ta + b\n}\n", "12345678 3.14", "<|user|>inside<|end|> of text", "a\r\nb\n\n\nc",
]

# A split in the manner of the byte-level models: contractions, words with their space, up to three digits, punctuation, blanks.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

MARKERS = """{%- for message in messages -%}
<|{{ message.role }}|>
{{ message['content'] | trim }}<|end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{% endif -%}"""

STRICT = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'].strip() %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = 'Answer briefly.' %}
    {%- set rest = messages %}
{%- endif %}
{{- bos_token }}
{%- set state = namespace(turns=0) %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system %}
            {{- '[ASK] (' + system + ') ' + message['content'] + ' [/ASK]' }}
        {%- else %}
            {{- '[ASK] ' + message['content'] + ' [/ASK]' }}
        {%- endif %}
        {%- set state.turns = state.turns + 1 %}
    {%- else %}
        {{- ' ' + message.content.split('</think>')[-1].lstrip('\\n') ~ eos_token }}
    {%- endif %}
{%- endfor %}
{%- if tools is defined and tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt and state.turns > 0 %}{{ ' ' }}{% endif %}"""

CHATS = [
    [("user", "Hello")],
    [("system", " You are terse. "), ("user", "Two plus two?"), ("assistant", "<think>\nsum\n</think>\n\nFour."), ("user", "And three?")],
    [("user", "line one\nline two"), ("assistant", "\"quoted\" & <b>bold</b> 🦀")],
]


def byte_level():
    """Byte-level BPE with a digit-aware split, a start token and chat markers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 0)])
    return tokenizer, dict(bos_token="<|begin|>", eos_token="<|end|>", chat_template=MARKERS)


def byte_fallback():
    """BPE over whole sentences with the visible space, unknown characters falling back to byte tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special + [f"<0x{i:02X}>" for i in range(256)],
                                  show_progress=False, limit_alphabet=60)
    words = [word for line in CORPUS for word in line.split() if word.isascii()]
    tokenizer.train_from_iterator(words, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer, dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=STRICT)


def text_record(tokenizer, text):
    ids = tokenizer.encode(text)
    return {
        "text": text,
        "ids": ids,
        "ids_plain": tokenizer.encode(text, add_special_tokens=False),
        "decoded": tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
        "decoded_plain": tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    }


def chat_record(tokenizer, turns, generation):
    messages = [{"role": role, "content": content} for role, content in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    return {"messages": messages, "add_generation_prompt": generation, "text": text}


def write_tokenizers(out: Path):
    """Writes one folder a tokenizer: tokenizer.json, tokenizer_config.json, perhaps a template, expected.json."""
    for name, make in (("byte-level", byte_level), ("byte-fallback", byte_fallback)):
        shutil.rmtree(out / name, ignore_errors=True)
        raw, options = make()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **options)
        # one keeps its template in its own file, as transformers 5 writes it; the other inside tokenizer_config.json
        tokenizer.save_pretrained(out / name, save_jinja_files=name == "byte-level")
        reread = PreTrainedTokenizerFast.from_pretrained(out / name)
        expected = {
            "vocab_size": len(reread),
            "texts": [text_record(reread, text) for text in TEXTS],
            "chats": [chat_record(reread, turns, flag) for turns in CHATS for flag in (False, True)],
        }
        (out / name / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")
        print(f"tokenizers/{name}", flush=True)
