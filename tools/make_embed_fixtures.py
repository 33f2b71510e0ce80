"""Writes tests/fixtures/embed: folders as people have them for embedding and zero-shot classification, with tokenizers
and preprocessing, and what transformers makes of some texts and images in them.

    python tools/make_embed_fixtures.py [--out tests/fixtures/embed]

`sentence` is laid out as sentence-transformers does (modules.json, 1_Pooling, 2_Dense); `expected.json` holds vectors
for each pooling, worked out from transformers' hidden states. Made with torch 2.15.0, transformers 5.24.0.
"""

import argparse
import json
import shutil
from pathlib import Path

import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from make_encoder_fixtures import randomise

WORDS = "a an of the photo red blue green square circle dog cat house runs sleeps in on grey stone is and fox".split()
TEXTS = ["a red square", "The dog runs in the house and the cat sleeps on the stone", "zebra", "blue circle", ""]
LABELS = ["red square", "blue circle", "dog", "grey stone"]
IMAGES = Path("tests/fixtures/images")


def word_piece(special, template):
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocab = special + WORDS + [x for x in letters if x not in WORDS] + ["##" + x for x in letters]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token=special[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([tokenizers.AddedToken(word, special=True) for word in special])
    pairs = [(word, vocab.index(word)) for word in special if word in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    return tokenizer


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def sentence(folder):
    tokenizer = word_piece(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[CLS] $A [SEP]")
    config = transformers.BertConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                     intermediate_size=40, max_position_embeddings=24)
    model = transformers.BertModel(config).eval()
    randomise(model, 11)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    write = lambda name, value: (folder / name).write_text(json.dumps(value, indent=1) + "\n")
    kind = "sentence_transformers.models."
    names = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
    write("modules.json", [dict(idx=i, name=str(i), path=path, type=kind + name) for i, (name, path) in enumerate(names)])
    write("sentence_bert_config.json", dict(max_seq_length=10, do_lower_case=False))
    write("config_sentence_transformers.json", dict(prompts=dict(query="the photo of ", document="")))
    (folder / "1_Pooling").mkdir()
    write("1_Pooling/config.json", dict(word_embedding_dimension=32, pooling_mode_cls_token=False, pooling_mode_mean_tokens=True,
                                        pooling_mode_max_tokens=False, pooling_mode_mean_sqrt_len_tokens=False))
    (folder / "2_Dense").mkdir()
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(16, 32, generator=generator) / 6, torch.randn(16, generator=generator) / 4
    write("2_Dense/config.json", dict(in_features=32, out_features=16, bias=True, activation_function="torch.nn.modules.activation.Tanh"))
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense/model.safetensors", metadata={"format": "pt"})

    expected = {}
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        ids = ids[:9] + ids[-1:] if len(ids) > 10 else ids
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        pooled = dict(mean=states.mean(0), cls=states[0], max=states.max(0).values, last=states[-1])
        expected[text] = {name: unit(torch.tanh(weight @ value + bias)).tolist() for name, value in pooled.items()}
    write("expected.json", expected)


def clip(folder):
    tokenizer = word_piece(["<pad>", "<unk>", "<start>", "<end>"], "<start> $A <end>")
    text = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, vocab_size=96,
                max_position_embeddings=16, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    vision = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=24, patch_size=8)
    text["eos_token_id"] = 3
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).eval()
    randomise(model, 13)
    model.logit_scale.data.fill_(2.0)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    processor = transformers.CLIPImageProcessorPil(size=dict(shortest_edge=24), crop_size=dict(height=24, width=24))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor.to_dict(), indent=1, default=str) + "\n")
    expected = dict(labels=LABELS, probabilities={}, images={})
    for name in ("rgb", "rgba"):
        pixels = torch.tensor(processor(Image.open(IMAGES / f"{name}.png"), return_tensors="np")["pixel_values"])
        rows = []
        for label in LABELS:
            out = model(pixel_values=pixels, input_ids=torch.tensor([tokenizer.encode(f"a photo of a {label}").ids]))
            rows.append(out.logits_per_image[0, 0])
        expected["probabilities"][name] = torch.stack(rows).softmax(0).tolist()
        expected["images"][name] = out.image_embeds[0].tolist()
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def classifier(folder):
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=24,
                                    patch_size=8, id2label={0: "stone", 1: "water", 2: "wood"}, label2id=dict(stone=0, water=1, wood=2))
    model = transformers.ViTForImageClassification(config).eval()
    randomise(model, 17)
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessorPil(size=dict(height=24, width=24))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor.to_dict(), indent=1, default=str) + "\n")
    pixels = torch.tensor(processor(Image.open(IMAGES / "rgb.png"), return_tensors="np")["pixel_values"])
    (folder / "expected.json").write_text(json.dumps(dict(rgb=model(pixel_values=pixels).logits.softmax(-1)[0].tolist())) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/embed"))
    out = parser.parse_args().out
    torch.set_grad_enabled(False)
    for make in (sentence, clip, classifier):
        folder = out / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)


if __name__ == "__main__":
    main()
